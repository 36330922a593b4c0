//! Bytes that two readers of HTTP would read as different requests, and messages that would cost more than they should: with a
//! good token among them, one request is one, and nothing behind it is another.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::{
    http::{Connection, get},
    issuer::Issuer,
    postgres::DataDir,
};

use super::{PING, PUBLIC_URL, RESOURCE, appointments, bearer, example, of, send};

/// What comes behind a request that ends where its sender says; as a request of its own it would be answered.
const BEHIND: &str = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// What is tried, the request, and the status. Each ends the connection.
fn refused(good: &str) -> Vec<(&'static str, String)> {
    let length = PING.len();
    let head = |rest: &str| format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{good}{rest}");
    let chunked = format!("{length:x}\r\n{PING}\r\n0\r\n\r\n");
    vec![
        ("two lengths", head(&format!("content-length: {length}\r\ncontent-length: 5\r\n\r\n{PING}{BEHIND}"))),
        ("a list of lengths", head(&format!("content-length: {length}, {length}\r\n\r\n{PING}{BEHIND}"))),
        ("a length with a sign", head(&format!("content-length: +{length}\r\n\r\n{PING}{BEHIND}"))),
        ("a length below zero", head(&format!("content-length: -1\r\n\r\n{PING}{BEHIND}"))),
        ("a length in another base", head(&format!("content-length: 0x{length:x}\r\n\r\n{PING}{BEHIND}"))),
        ("a length that no number holds", head(&format!("content-length: 99999999999999999999999\r\n\r\n{PING}{BEHIND}"))),
        ("chunks within something else", head(&format!("transfer-encoding: chunked, identity\r\n\r\n{chunked}{BEHIND}"))),
        ("chunks by another name", head(&format!("transfer-encoding: xchunked\r\n\r\n{chunked}{BEHIND}"))),
        ("chunks after a vertical tab", head(&format!("transfer-encoding:\u{b}chunked\r\n\r\n{chunked}{BEHIND}"))),
        ("chunks before a space", head(&format!("transfer-encoding : chunked\r\n\r\n{chunked}{BEHIND}"))),
        (
            "chunks in a version that has none",
            head(&format!("transfer-encoding: chunked\r\n\r\n{chunked}{BEHIND}")).replacen("HTTP/1.1", "HTTP/1.0", 1),
        ),
        ("a NUL in a header", head(&format!("x-a: a\0b\r\ncontent-length: {length}\r\n\r\n{PING}{BEHIND}"))),
        ("a lone CR in a header", head(&format!("x-a: a\rx-b: b\r\ncontent-length: {length}\r\n\r\n{PING}{BEHIND}"))),
        ("a header that is folded", head(&format!("x-a: a\r\n b\r\ncontent-length: {length}\r\n\r\n{PING}{BEHIND}"))),
        ("a token that is folded", head(&format!("content-length: {length}\r\n\r\n{PING}")).replace("Bearer ", "Bearer\r\n ")),
        ("a space before the colon", head(&format!("content-length: {length}\r\n\r\n{PING}")).replace("ation:", "ation :")),
        ("a space before the first header", head(&format!("content-length: {length}\r\n\r\n{PING}")).replace("host", " host")),
        ("a header without a name", head(&format!(": x\r\ncontent-length: {length}\r\n\r\n{PING}{BEHIND}"))),
        ("no version", format!("GET /mcp\r\n{good}\r\n")),
        ("another version", head(&format!("content-length: {length}\r\n\r\n{PING}")).replacen("HTTP/1.1", "HTTP/1.2", 1)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_readings_is_none_and_ends_the_connection() {
    let issuer = Issuer::start(&[]).await;
    let server = example("slow", &issuer, &[]).await;
    let good = of(&issuer, "ada").await;
    for (what, request) in refused(&good) {
        let mut connection = Connection::open(server.address()).await;
        connection.send(request.as_bytes()).await;
        assert_eq!(connection.answer().await.status, 400, "{what}");
        let rest = tokio::time::timeout(Duration::from_secs(10), connection.read_to_end()).await;
        assert_eq!(rest.as_deref(), Ok(""), "{what}: it goes on");
    }
    let many: String = (0..150).map(|n| format!("x-{n}: a\r\n")).collect();
    assert_eq!(send(&server, PING, &format!("{good}{many}")).await.status, 431);
}

/// Where RFC 9112 lets a server choose, hyper's choice, and that it is a safe one.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_one_reading_is_read_once() {
    let issuer = Issuer::start(&[]).await;
    let server = example("slow", &issuer, &[]).await;
    let good = of(&issuer, "ada").await;
    let length = PING.len();
    let head = format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{good}");
    let chunked = format!("{length:x}\r\n{PING}\r\n0\r\n\r\n");

    // Chunks go before a length, and nothing is read behind them (6.3: it MUST be closed).
    let mut connection = Connection::open(server.address()).await;
    connection.send(format!("{head}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{chunked}{BEHIND}").as_bytes()).await;
    assert_eq!(connection.answer().await.status, 200);
    let rest = tokio::time::timeout(Duration::from_secs(10), connection.read_to_end()).await;
    assert_eq!(rest.as_deref(), Ok(""), "what is behind chunks with a length was answered");

    // The same length twice is that length (6.3), a line may end with LF alone (2.2), a chunk may have an extension (7.1.1).
    for (what, request) in [
        ("one length twice", format!("{head}content-length: {length}\r\ncontent-length: {length}\r\n\r\n{PING}")),
        ("LF alone", format!("{}content-length: {length}\n\n{PING}", head.replace("\r\n", "\n"))),
        ("a chunk with an extension", format!("{head}transfer-encoding: chunked\r\n\r\n{length:x};a=b\r\n{PING}\r\n0\r\n\r\n")),
        (
            "an upgrade that nobody grants",
            format!("{head}connection: upgrade\r\nupgrade: h2c\r\ncontent-length: {length}\r\n\r\n{PING}"),
        ),
    ] {
        let mut connection = Connection::open(server.address()).await;
        connection.send(format!("{request}{BEHIND}").as_bytes()).await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, &answer.json()["id"]), (200, &json!(1)), "{what}");
        assert_eq!(connection.answer().await.json()["status"], "healthy", "{what}: what is behind is a request of its own");
    }
    for (what, body) in [
        ("chunks that end with LF alone", chunked.replace("\r\n", "\n")),
        ("a chunk that no number holds", format!("FFFFFFFFFFFFFFFFF\r\n{PING}")),
        ("a chunk of no number", format!("zz\r\n{PING}\r\n0\r\n\r\n")),
    ] {
        let mut connection = Connection::open(server.address()).await;
        connection.send(format!("{head}transfer-encoding: chunked\r\n\r\n{body}{BEHIND}").as_bytes()).await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!(-32700)), "{what}");
        let rest = tokio::time::timeout(Duration::from_secs(10), connection.read_to_end()).await;
        assert_eq!(rest.as_deref(), Ok(""), "{what}: it goes on");
    }
}

/// Whatever of a request comes back in an answer ends neither its head nor its event.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_sent_comes_back_as_a_header() {
    let issuer = Issuer::start(&[]).await;
    let server = example("everything", &issuer, &[("ALLOWED_ORIGINS", "https://inspector.example.org")]).await;
    let good = of(&issuer, "ada").await;
    let stream = format!("{good}accept: application/json, text/event-stream\r\n");
    let split = r"x\r\ninjected: yes\r\n\r\ndata: injected\u2028injected\u0085injected";
    let message =
        |id: &str, method: &str, params: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
    let text = format!(r#""{split}""#);
    for (what, body) in [
        ("an id", message(&text, "ping", "{}")),
        ("the id of a call", message(&text, "tools/call", r#"{"name":"test_simple_text"}"#)),
        ("a method", message("1", split, "{}")),
        ("a tool", message("1", "tools/call", &format!(r#"{{"name":{text}}}"#))),
        ("a cursor", message("1", "tools/list", &format!(r#"{{"cursor":{text}}}"#))),
        ("an address", message("1", "resources/read", &format!(r#"{{"uri":{text}}}"#))),
        ("a prompt", message("1", "prompts/get", &format!(r#"{{"name":{text}}}"#))),
        (
            "a revision",
            message(
                "1",
                "initialize",
                &format!(r#"{{"protocolVersion":{text},"capabilities":{{}},"clientInfo":{{"name":{text},"version":{text}}}}}"#),
            ),
        ),
        ("no JSON at all", split.replace(r"\r\n", "\r\n")),
    ] {
        for headers in [&good, &stream] {
            let mut connection = Connection::open(server.address()).await;
            connection.send_message(&body, &format!("{headers}connection: close\r\n")).await;
            let all = connection.read_to_end().await;
            assert!(!all.lines().any(|line| line.starts_with("injected") || line.starts_with("data: injected")), "{what}: {all}");
        }
    }
    for (what, line, headers) in [
        ("a path", "GET /%0d%0ainjected:%20yes", String::new()),
        ("a query", "GET /mcp?a=%0d%0ainjected:%20yes", good.clone()),
        ("a redirect", "GET //evil.example.net/%2e%2e", String::new()),
        ("an origin", "OPTIONS /mcp", "origin: https://inspector.example.org%0d%0ainjected: yes\r\n".to_owned()),
        ("a session", "DELETE /mcp", format!("{good}mcp-session-id: x%0d%0ainjected: yes\r\n")),
        ("an event", "GET /mcp", format!("{good}accept: text/event-stream\r\nlast-event-id: x%0d%0ainjected: yes\r\n")),
        ("a scheme", "GET /mcp", "authorization: Bearer%0d%0ainjected: yes\r\n".to_owned()),
    ] {
        let mut connection = Connection::open(server.address()).await;
        let request = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
        connection.send(request.as_bytes()).await;
        let all = connection.read_to_end().await;
        let head = all.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 ") && !head.contains("injected") && !head.contains("location:"), "{what}: {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_drip_are_cut_and_a_good_token_makes_no_difference() {
    let issuer = Issuer::start(&[]).await;
    let server = example("slow", &issuer, &[("HEADER_TIMEOUT_SECS", "1")]).await;
    let good = of(&issuer, "ada").await;
    let begun = Instant::now();
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.expect("it accepts");
    let head = format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\n{good}x-slow: {}", "a".repeat(1000));
    let mut sent = 0;
    for byte in head.bytes() {
        // A byte that comes is no reason to wait for the next one.
        if tokio::io::AsyncWriteExt::write_all(&mut stream, &[byte]).await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(sent < head.len(), "nobody cut it");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(get(server.address(), "/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deep_or_packed_costs_no_more_than_it_is_worth() {
    let issuer = Issuer::start(&[]).await;
    let data = DataDir::new();
    let server = appointments(&data, &issuer, &[("PUBLIC_URL", PUBLIC_URL)]).await;
    let good = of(&issuer, "ada").await;
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let call = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    for (what, body, status) in [
        ("deep arguments", call(&format!(r#"{{"name":"book_appointment","arguments":{{"title":{deep}}}}}"#)), 200),
        (
            "a deep argument that nobody asked for",
            call(&format!(r#"{{"name":"search_appointments","arguments":{{"x":{deep}}}}}"#)),
            200,
        ),
        ("a deep _meta", call(&format!(r#"{{"name":"search_appointments","arguments":{{}},"_meta":{{"x":{deep}}}}}"#)), 200),
        ("deep parameters", call(&deep), 400),
        ("a deep id", format!(r#"{{"jsonrpc":"2.0","id":{deep},"method":"ping"}}"#), 400),
        ("a deep batch", deep.clone(), 200),
        ("a hundred thousand brackets", "[".repeat(100_000), 400),
    ] {
        let answer = send(&server, &body, &good).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        assert!(!answer.body.contains("Booked"), "{what}: {}", answer.body);
    }
    // 20 bytes of gzip: an empty member.
    let packed: &[u8] = &[31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut connection = Connection::open(server.address()).await;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n{good}\r\n",
        packed.len()
    );
    connection.send(head.as_bytes()).await;
    connection.send(packed).await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (415, &json!(-32600)), "it is not unpacked: {}", answer.body);
    // A token with deep claims is read in no deeper stack either.
    let mut claims = json!(1);
    for _ in 0..100 {
        claims = json!([claims]);
    }
    let token = issuer.token("current", &json!({}), &json!({ "aud": RESOURCE, "x": claims })).await;
    assert_eq!(send(&server, PING, &bearer(&token)).await.status, 200);
}
