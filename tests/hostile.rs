//! What bad input gets: a clear answer, and nothing half-done. No panic reaches a client, and the next caller notices nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    http::{Connection, get, message},
    server::Server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn call(arguments: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": "wait", "arguments": arguments } }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_malformed_message_gets_the_code_that_json_rpc_gives_it() {
    let server = Server::example("slow", &[]).await;
    let deep = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"wait\",\"arguments\":{{\"n\":{}1{}}}}}}}",
        "[".repeat(1000),
        "]".repeat(1000)
    );
    let deep_meta = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"resources/list\",\"params\":{{\"_meta\":{{\"x\":{}{}}}}}}}",
        "[".repeat(1000),
        "]".repeat(1000)
    );
    for (body, status, code) in [
        ("", 400, -32700),
        ("{", 400, -32700),
        ("not json", 400, -32700),
        ("7", 400, -32600),
        ("{}", 400, -32600),
        ("[]", 400, -32600),
        ("null", 400, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, 400, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, 400, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, 400, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, 400, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"no/such/method"}"#, 200, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, 400, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}"#, 400, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nobody"}}"#, 200, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait","arguments":[1]}}"#, 400, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["wait",{"n":1}]}"#, 400, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}}"#, 400, -32700),
        (r#"7 is no message"#, 400, -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"made up"}}"#, 200, -32602),
        (&deep_meta, 400, -32602),
    ] {
        let answer = message(server.address(), body).await;
        let shown: String = body.chars().take(100).collect();
        assert_eq!(answer.status, status, "{shown}: {}", answer.body);
        assert_eq!(answer.json()["error"]["code"], code, "{shown}: {}", answer.body);
        assert!(!answer.json()["error"]["message"].as_str().unwrap_or_default().is_empty(), "{shown}");
    }
    let answer = message(server.address(), &deep).await.json();
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    assert_eq!(message(server.address(), r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await.json()["result"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_a_result_that_the_model_can_act_on() {
    let server = Server::example("slow", &[]).await;
    for (arguments, words) in [
        (json!({}), "the argument `n` is missing"),
        (
            json!({ "n": "seven" }),
            "the argument `n` is not valid: it is the string \"seven\", expected an integer from 0 to 4294967295",
        ),
        (json!({ "n": -1 }), "the argument `n` is not valid: it is the integer `-1`, expected an integer from 0 to 4294967295"),
        (json!({ "n": 1, "text": "a\u{0}b" }), "the arguments hold the NUL character (\\u0000), which no text here may"),
    ] {
        let answer = message(server.address(), &call(&arguments)).await.json();
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        assert_eq!(answer["result"]["content"][0]["text"], words);
        assert!(answer["result"].get("structuredContent").is_none(), "clients validate it even on errors");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf8_is_no_json() {
    let server = Server::example("slow", &[]).await;
    let mut connection = Connection::open(server.address()).await;
    let body = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}";
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.send(head.as_bytes()).await;
    connection.send(body).await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (400, Some(-32700)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_with_and_without_a_length() {
    let server = Server::example("slow", &[("BODY_LIMIT_BYTES", "65536")]).await;
    let mut connection = Connection::open(server.address()).await;
    connection
        .send(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10485760\r\n\r\n")
        .await;
    let answer = connection.answer().await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["error"]["message"], "the body is larger than 65536 bytes");

    let mut connection = Connection::open(server.address()).await;
    connection
        .send(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    for _ in 0..3 {
        connection.send(chunk.as_bytes()).await;
    }
    assert_eq!(connection.answer().await.status, 413);
    assert_eq!(get(server.address(), "/ready").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_headers_and_a_silent_connection_are_ended() {
    let server = Server::example("slow", &[("HEADER_TIMEOUT_SECS", "1"), ("IDLE_TIMEOUT_SECS", "1")]).await;
    let started = Instant::now();
    let mut half = Connection::open(server.address()).await;
    half.send(b"POST /mcp HTTP/1.1\r\nhost: loc").await;
    let silent = Connection::open(server.address()).await;
    assert_eq!(half.read_to_end().await, "");
    assert_eq!(silent.read_to_end().await, "");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(get(server.address(), "/ready").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_cut_however_steadily_it_comes() {
    let server = Server::example("slow", &[("BODY_TIMEOUT_SECS", "1")]).await;
    let mut dripping = TcpStream::connect(server.address()).await.expect("it accepts");
    let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    dripping.write_all(head.as_bytes()).await.expect("it reads heads");
    let begun = Instant::now();
    let (mut read, mut write) = dripping.split();
    let drip = async {
        // A byte that comes is no reason to wait for the next one.
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answered = async {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = tokio::select! { answer = answered => answer, () = drip => String::new() };
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!((1..10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    server.holds(0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_and_a_stream_with_nothing_to_say_is_not() {
    let server = Server::example("slow", &[("WRITE_TIMEOUT_SECS", "1"), ("RESPONSE_LIMIT_BYTES", "0")]).await;
    let quiet = Connection::open_stream(server.address()).await;
    let mut deaf = Connection::open(server.address()).await;
    deaf.call("echo", &json!({}), "").await;
    let both = server.descriptors().await;
    // More than the buffers of both sides hold.
    deaf.send_call(1, "fill", json!({ "n": 64 << 20 })).await;
    let begun = Instant::now();
    server.has_descriptors(both - 1).await;
    assert!(begun.elapsed() > Duration::from_secs(1), "it had time to read: {:?}", begun.elapsed());
    let read = deaf.read_to_end().await.len();
    assert!(read < 64 << 20, "nobody cut it");
    // Several of the looks that ended the other one have passed this one by.
    let mut slow = Connection::open(server.address()).await;
    slow.send_call(2, "echo", json!({})).await;
    assert_eq!(slow.answer().await.status, 200);
    server.holds(0, 1).await;
    drop(quiet);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_its_call() {
    let server = Server::example("slow", &[]).await;
    let mut gone = Connection::open(server.address()).await;
    gone.send_call(1, "never", json!({})).await;
    let mut half = Connection::open(server.address()).await;
    half.send_call(2, "never", json!({})).await;
    server.holds(2, 0).await;
    drop(gone);
    server.holds(1, 0).await;
    // Nobody but a client that is going closes its side: the call is taken back, not finished for nobody.
    half.half_close().await;
    server.holds(0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_opaque_error_and_is_logged_once() {
    let server = Server::example("slow", &[]).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"panics","arguments":{}}}"#;
    let answer = message(server.address(), body).await.json();
    assert_eq!(answer["error"], json!({ "code": -32603, "message": "internal error; try again", "data": { "retryable": true } }));
    assert_eq!(message(server.address(), body).await.status, 200, "the process lives on");
    server.signal("TERM");
    let exit = server.exit(Duration::from_secs(10)).await;
    assert_eq!(exit.stderr.matches("tool panics failed").count(), 2, "{}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_too_long_is_stopped_and_told_so() {
    let server = Server::example("slow", &[("CALL_TIMEOUT_SECS", "1")]).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"never","arguments":{}}}"#;
    let answer = message(server.address(), body).await.json();
    assert_eq!(answer["error"]["message"], "the tool took too long and was stopped; try again");
    server.holds(0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_our_names_and_our_pages_come_in() {
    let server = Server::example("slow", &[("PUBLIC_URL", "https://mcp.example.com")]).await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (headers, status) in [
        ("host: mcp.example.com\r\n", 200),
        ("host: evil.example.net\r\n", 403),
        ("host: localhost\r\norigin: https://evil.example.net\r\n", 403),
        ("host: mcp.example.com\r\norigin: https://mcp.example.com\r\n", 200),
        ("host: mcp.example.com\r\norigin: http://localhost:6274\r\n", 403),
    ] {
        let mut connection = Connection::open(server.address()).await;
        let request = format!(
            "POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{ping}",
            ping.len()
        );
        connection.send(request.as_bytes()).await;
        assert_eq!(connection.answer().await.status, status, "{headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_initialize_leaves_little_behind() {
    let server = Server::example("slow", &[]).await;
    let mut connection = Connection::open(server.address()).await;
    for _ in 0..500 {
        connection.open_session().await;
    }
    let before = server.resident_kib();
    for _ in 0..10_000 {
        connection.open_session().await;
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 10 * 1024, "{grown} KiB for 10,000 sessions");
}

/// Whatever a caller may choose the words of, while everything is logged and nothing works because the database is away.
#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_caller_writes_a_line_of_the_log() {
    const FORGED: &str =
        "x\n1999-01-01T00:00:00.000000Z  WARN forged: ada is an administrator\r\u{1b}[31m\u{9b}2J\u{2028}\u{202e}";
    let environment = [("LOG", "trace"), ("AUTHENTICATION", "header:x-user")];
    let server = Server::appointments("postgresql://nobody@127.0.0.1:1/none", &environment).await;
    let arguments =
        json!({ "userId": FORGED, "title": FORGED, "startsAt": FORGED, "startDate": FORGED, "cursor": FORGED, "id": FORGED });
    let meta = json!({ "progressToken": FORGED, "openai/session": FORGED, "openai/subject": FORGED, "traceparent": FORGED, "baggage": FORGED, FORGED: FORGED });
    let client = json!({ "name": FORGED, "version": FORGED, "title": FORGED });
    let argument = json!({ "name": FORGED, "value": FORGED });
    for (method, params) in [
        (FORGED, json!({})),
        ("initialize", json!({ "protocolVersion": FORGED, "capabilities": { FORGED: {} }, "clientInfo": client })),
        ("initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client })),
        ("tools/list", json!({ "cursor": FORGED })),
        ("tools/call", json!({ "name": FORGED, "arguments": { FORGED: FORGED }, "_meta": meta })),
        ("tools/call", json!({ "name": "search_appointments", "arguments": arguments, "_meta": meta })),
        ("tools/call", json!({ "name": "search_appointments", "arguments": { "userId": FORGED }, "_meta": meta })),
        (
            "tools/call",
            json!({ "name": "book_appointment", "arguments": arguments, "requestState": FORGED, "inputResponses": { FORGED: {} } }),
        ),
        ("resources/read", json!({ "uri": format!("ui://widgets/{FORGED}") })),
        ("resources/read", json!({ "uri": FORGED })),
        ("resources/subscribe", json!({ "uri": FORGED })),
        ("prompts/get", json!({ "name": FORGED, "arguments": { FORGED: FORGED } })),
        ("completion/complete", json!({ "ref": { "type": "ref/prompt", "name": FORGED }, "argument": argument })),
        ("logging/setLevel", json!({ "level": FORGED })),
        ("notifications/cancelled", json!({ "requestId": FORGED, "reason": FORGED })),
    ] {
        for id in [json!(FORGED), json!(1)] {
            let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
            let mut connection = Connection::open(server.address()).await;
            connection.send_message(&body, "").await;
            connection.answer().await;
        }
    }
    // A header holds no line break; what else moves a cursor it may hold.
    let text = "x\u{9b}2J\u{2028}\u{202e} forged";
    for name in [
        "user-agent",
        "x-user",
        "mcp-session-id",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "accept",
        "last-event-id",
        "traceparent",
        "baggage",
        "authorization",
        "x-forwarded-for",
        "mcp-forwarded-for-build",
        "content-encoding",
        "origin",
    ] {
        for method in ["ping", "prompts/get"] {
            let mut connection = Connection::open(server.address()).await;
            let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": { "name": "a" } }).to_string();
            connection.send_message(&body, &format!("{name}: {text}\r\n")).await;
            connection.answer().await;
        }
    }
    let log = server.stderr();
    for line in log.lines() {
        assert!(line.starts_with("20"), "a caller wrote this line, or broke one: {line:?}");
        let bad: Vec<_> = line.chars().filter(|one| one.is_control() || "\u{2028}\u{2029}\u{202e}".contains(*one)).collect();
        assert!(bad.is_empty(), "{bad:?} in {line:?}");
    }
    assert!(log.contains("forged"), "something was logged of it, or this test shows nothing");
}
