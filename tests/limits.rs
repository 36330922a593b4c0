//! Who asks for too much is told so, quickly, with the limit's name and when to come again; and it is nobody else's limit.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    http::{Answer, Connection, get},
    server::Server,
};
use tokio::{io::AsyncReadExt, net::TcpStream};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const LONG: Duration = Duration::from_secs(20);

/// An example whose callers say who they are, which is believed on loopback.
async fn example(name: &str, environment: &[(&str, &str)]) -> Server {
    let mut all = vec![("AUTHENTICATION", "header:x-principal")];
    all.extend_from_slice(environment);
    Server::example(name, &all).await.ready().await
}

fn of(who: &str) -> String {
    format!("x-principal: {who}\r\n")
}

async fn send(server: &Server, body: &str, headers: &str) -> Answer {
    let mut connection = Connection::open(server.address()).await;
    connection.send_message(body, headers).await;
    connection.answer().await
}

async fn initialize(server: &Server, headers: &str) -> Answer {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
    let body = json!({ "jsonrpc": "2.0", "id": "one", "method": "initialize", "params": params });
    send(server, &body.to_string(), headers).await
}

/// The number of seconds that an answer tells to wait, once it is what a refusal has to be.
fn refused(answer: &Answer, status: u16, setting: &str) -> u64 {
    assert_eq!(answer.status, status, "{}{}", answer.head, answer.body);
    let error = &answer.json()["error"];
    assert_eq!(error["data"], json!({ "retryable": true }), "{error}");
    assert!(error["message"].as_str().unwrap_or_default().contains(setting), "{error}");
    let after = answer.head.lines().find_map(|line| line.strip_prefix("retry-after: "));
    after.expect("it says when to come again").trim().parse().expect("in seconds")
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_messages_of_one_are_refused_and_anothers_are_not() {
    let server = example("slow", &[("CALLS_PER_SECOND", "1"), ("CALLS_BURST", "5")]).await;
    for _ in 0..5 {
        assert_eq!(send(&server, PING, &of("quixote")).await.status, 200);
    }
    assert_eq!(refused(&send(&server, PING, &of("quixote")).await, 429, "CALLS_PER_SECOND"), 1);
    assert_eq!(send(&server, PING, &of("bob")).await.status, 200);
    // A batch is as many messages as it holds.
    let batch = format!("[{}]", [PING; 6].join(","));
    assert!(refused(&send(&server, &batch, &of("eve")).await, 429, "CALLS_BURST") >= 1);
    let metrics = get(server.operations(), "/metrics").await.body;
    assert!(metrics.contains(r#"reason="rate_of_principal""#) && !metrics.contains("quixote"), "{metrics}");
    assert!(!server.stderr().contains("quixote"), "{}", server.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_of_one_in_flight_are_refused_until_one_ends() {
    let server = example("slow", &[("CALLS_PER_PRINCIPAL", "2")]).await;
    let wait =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "wait", "arguments": { "n": 1 } } });
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(server.address()).await;
        connection.send_message(&wait.to_string(), &of("ada")).await;
        held.push(connection);
    }
    server.calls(2).await;
    assert_eq!(refused(&send(&server, PING, &of("ada")).await, 429, "CALLS_PER_PRINCIPAL"), 1);
    assert_eq!(send(&server, PING, &of("bob")).await.status, 200);
    server.release_calls();
    for mut connection in held {
        assert_eq!(connection.answer().await.status, 200, "and those in flight are answered");
    }
    server.calls(0).await;
    assert_eq!(send(&server, PING, &of("ada")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_cannot_be_hoarded_and_those_that_are_open_stay() {
    let server = example("everything", &[("STREAMS_PER_PRINCIPAL", "3")]).await;
    let mut streams = Vec::new();
    let open = async |who: &str| {
        let session = Connection::open(server.address()).await.open_session_with(&of(who)).await;
        let mut connection = Connection::open(server.address()).await;
        let head = format!("host: localhost\r\naccept: text/event-stream\r\nmcp-session-id: {session}\r\n{}\r\n", of(who));
        connection.send(format!("GET /mcp HTTP/1.1\r\n{head}").as_bytes()).await;
        connection
    };
    for _ in 0..2 {
        let mut stream = open("ada").await;
        stream.read_until("200 OK").await;
        streams.push(stream);
    }
    // What a client of 2026-07-28 listens by is one of them.
    let meta =
        json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let listen =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": { "notifications": {}, "_meta": meta } });
    let headers = format!(
        "mcp-protocol-version: 2026-07-28\r\nmcp-method: subscriptions/listen\r\naccept: application/json, text/event-stream\r\n{}",
        of("ada")
    );
    let mut listening = Connection::open(server.address()).await;
    listening.send_message(&listen.to_string(), &headers).await;
    listening.read_until("acknowledged").await;
    server.holds(0, 3).await;
    assert!(refused(&open("ada").await.answer().await, 429, "STREAMS_PER_PRINCIPAL") >= 1);
    assert!(refused(&send(&server, &listen.to_string(), &headers).await, 429, "STREAMS_PER_PRINCIPAL") >= 1);
    open("bob").await.read_until("200 OK").await;
    assert_eq!(send(&server, PING, &of("ada")).await.status, 200, "calls are something else");
    drop(streams);
    server.holds(0, 1).await;
    open("ada").await.read_until("200 OK").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_cannot_be_flooded_and_those_that_are_open_stay() {
    let server = example("slow", &[("SESSIONS_PER_PRINCIPAL", "3"), ("SESSION_UNUSED_SECS", "60")]).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(Connection::open(server.address()).await.open_session_with(&of("ada")).await);
    }
    let answer = initialize(&server, &of("ada")).await;
    assert_eq!((refused(&answer, 429, "SESSIONS_PER_PRINCIPAL"), &answer.json()["id"]), (60, &json!("one")));
    assert_eq!(initialize(&server, &of("bob")).await.status, 200);
    for session in &sessions {
        let headers = format!("{}mcp-session-id: {session}\r\n", of("ada"));
        assert_eq!(send(&server, PING, &headers).await.status, 200);
    }
    let mut ending = Connection::open(server.address()).await;
    let head = format!("DELETE /mcp HTTP/1.1\r\nhost: localhost\r\nmcp-session-id: {}\r\n{}\r\n", sessions[0], of("ada"));
    ending.send(head.as_bytes()).await;
    assert_eq!(ending.answer().await.status, 204);
    assert_eq!(initialize(&server, &of("ada")).await.status, 200, "one that ended makes room");
}

/// The limit is the address's, whatever it says in a header, unless a proxy that is trusted says it.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_cannot_be_made_up() {
    let unproven = [("UNPROVEN_PER_SECOND", "1"), ("UNPROVEN_BURST", "3")];
    let strict = example("slow", &unproven).await;
    for number in 0..3 {
        let made_up = format!("x-forwarded-for: 198.51.100.{number}\r\n");
        assert_eq!(send(&strict, PING, &made_up).await.status, 200);
    }
    refused(&send(&strict, PING, "x-forwarded-for: 198.51.100.77\r\n").await, 429, "UNPROVEN_PER_SECOND");
    assert_eq!(send(&strict, PING, &of("ada")).await.status, 200, "who proves to be somebody is not meant");

    let behind = example("slow", &[unproven[0], unproven[1], ("TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.0/8")]).await;
    for (headers, status) in [
        // One place, however its bucket is asked for.
        ("x-forwarded-for: 198.51.100.1\r\n", 200),
        ("x-forwarded-for: 1.1.1.1, 198.51.100.1\r\n", 200),
        ("x-forwarded-for: 2.2.2.2\r\nx-forwarded-for: ::ffff:198.51.100.1, 10.1.1.1\r\n", 200),
        ("x-forwarded-for: 3.3.3.3, 198.51.100.1:4711\r\n", 429),
        ("x-forwarded-for: 198.51.100.1\r\n", 429),
        // Another place has its own.
        ("x-forwarded-for: 198.51.100.2\r\n", 200),
        // So has a network of IPv6, and all of it is one place.
        ("x-forwarded-for: 2001:db8::1\r\n", 200),
        ("x-forwarded-for: 2001:db8::2\r\n", 200),
        ("x-forwarded-for: [2001:db8::3]:4711\r\n", 200),
        ("x-forwarded-for: 2001:db8::4\r\n", 429),
        ("x-forwarded-for: 2001:db8:0:1::1\r\n", 200),
        // What is no address is whoever said it.
        ("x-forwarded-for: 198.51.100.1, nonsense\r\n", 200),
        ("", 200),
        ("x-forwarded-for: \r\n", 200),
        ("x-forwarded-for: 4.4.4.4, 5.5.5\r\n", 429),
    ] {
        assert_eq!(send(&behind, PING, headers).await.status, status, "{headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_sessions_of_nobody_are_so_many_a_minute_where_that_is_said() {
    let server = Server::example("slow", &[("NEW_SESSIONS_PER_ADDRESS", "2")]).await.ready().await;
    let session = Connection::open(server.address()).await.open_session().await;
    assert_eq!(initialize(&server, "").await.status, 200);
    assert!(refused(&initialize(&server, "").await, 429, "NEW_SESSIONS_PER_ADDRESS") > 1);
    assert_eq!(send(&server, PING, &format!("mcp-session-id: {session}\r\n")).await.status, 200);
    assert_eq!(send(&server, PING, "").await.status, 200, "calls without a session are something else");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_in_a_process_are_refused_and_every_other_door_stays_open() {
    let server = Server::example("slow", &[("CALLS_MAX", "2"), ("PUBLIC_URL", "https://mcp.example.com")]).await.ready().await;
    let session = Connection::open(server.address()).await.open_session().await;
    let mut held = Vec::new();
    for n in 0..2 {
        let mut connection = Connection::open(server.address()).await;
        connection.send_call(n, "wait", json!({ "n": n })).await;
        held.push(connection);
    }
    server.calls(2).await;
    let in_session = format!("mcp-session-id: {session}\r\n");
    for headers in ["", &in_session] {
        assert_eq!(refused(&send(&server, PING, headers).await, 429, "CALLS_MAX"), 1);
    }
    // Before its body is there.
    let mut early = Connection::open(server.address()).await;
    early.send(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n").await;
    assert_eq!(refused(&early.answer().await, 429, "CALLS_MAX"), 1);
    for (door, status) in
        [("/health", 200), ("/ready", 200), ("/health/database", 404), ("/.well-known/oauth-protected-resource", 404)]
    {
        assert_eq!(get(server.address(), door).await.status, status, "{door}");
    }
    assert_eq!(get(server.operations(), "/metrics").await.status, 200);
    server.release_calls();
    for mut connection in held {
        assert_eq!(connection.answer().await.status, 200);
    }
    server.calls(0).await;
    assert_eq!(send(&server, PING, &in_session).await.status, 200, "the session is there");
    assert!(server.stderr().matches("CALLS_MAX").count() <= 3, "a flood is not told line by line:\n{}", server.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_drip_keep_no_call_out() {
    let server = Server::example("slow", &[("CALLS_MAX", "2"), ("BODY_TIMEOUT_SECS", "4")]).await.ready().await;
    let head = b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    let mut dripping = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(server.address()).await;
        connection.send(head).await;
        dripping.push(connection);
    }
    server.calls(2).await;
    let begun = Instant::now();
    while send(&server, PING, "").await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(1), "they take the places of calls");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut another = Connection::open(server.address()).await;
    another.send(head).await;
    refused(&another.answer().await, 429, "CALLS_MAX");
    for mut connection in dripping {
        assert_eq!(connection.answer().await.status, 408);
    }
}

/// Whoever opens connections and does nothing with them makes room, and where nobody does, probes are answered all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_keeps_no_call_and_no_probe_out() {
    let server = Server::example("slow", &[("CONNECTIONS_MAX", "20")]).await.ready().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(server.address()).await.expect("it accepts"));
        assert_eq!(get(server.address(), "/health").await.status, 200);
    }
    assert_eq!(send(&server, PING, "").await.status, 200);
    let closed = tokio::time::timeout(LONG, silent[0].read(&mut [0; 1])).await.expect("the first one had to go");
    assert!(matches!(closed, Ok(0) | Err(_)));
    drop(silent);

    let mut held = Vec::new();
    for n in 0..20 {
        let mut connection = Connection::open(server.address()).await;
        connection.send_call(n, "wait", json!({ "n": n })).await;
        held.push(connection);
        server.calls(u64::from(n) + 1).await;
    }
    for _ in 0..10 {
        refused(&send(&server, PING, "").await, 429, "CONNECTIONS_MAX");
        let health = get(server.address(), "/health").await;
        assert!(health.status == 200 && health.head.to_ascii_lowercase().contains("connection: close"), "{}", health.head);
    }
    server.release_calls();
    for mut connection in held {
        assert_eq!(connection.answer().await.status, 200, "whoever was there stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_may_have_so_many_connections_and_a_trusted_proxy_any_number() {
    let many = async |environment: &[(&str, &str)]| {
        let server = Server::example("slow", environment).await.ready().await;
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(TcpStream::connect(server.address()).await.expect("the system accepts"));
        }
        let mut closed = 0;
        for stream in &mut held {
            let read = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut [0; 1])).await;
            closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
        }
        closed
    };
    assert_eq!(many(&[("CONNECTIONS_PER_ADDRESS", "4")]).await, 2);
    assert_eq!(many(&[("CONNECTIONS_PER_ADDRESS", "4"), ("TRUSTED_PROXIES", "127.0.0.1")]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_is_an_error_and_is_not_cut() {
    let server = Server::example("slow", &[("RESPONSE_LIMIT_BYTES", "1000")]).await.ready().await;
    let call = |size: u32| {
        let params = json!({ "name": "fill", "arguments": { "n": size } });
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string()
    };
    let answer = send(&server, &call(500), "").await.json();
    assert_eq!(answer["result"]["content"][0]["text"].as_str().map(str::len), Some(500), "{answer}");
    let answer: Value = send(&server, &call(2000), "").await.json();
    assert_eq!(answer["error"]["data"], json!({ "retryable": false }), "{answer}");
    assert!(!answer.to_string().contains("RESPONSE_LIMIT_BYTES"), "what an operator sets is not the model's to know");
    assert!(server.stderr().contains("the answer of tool fill is larger than 1000 bytes (RESPONSE_LIMIT_BYTES)"));
}

/// As after a switch, when all of them come again. The process has not taken one of them yet, and the kernel does not tell those
/// for whom it has no room: it lets them ask again, a second later.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_that_come_at_one_moment_are_let_in_before_any_of_them_is_served() {
    let kept = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("it is Linux that keeps them");
    let kept: usize = kept.trim().parse().expect("it is a number");
    let server = example("slow", &[]).await;
    server.signal("STOP");
    let clients: Vec<_> = (0..kept.min(1000)).map(|_| TcpStream::connect(server.address())).map(tokio::spawn).collect();
    let mut all = Vec::new();
    for client in clients {
        let client = tokio::time::timeout(LONG, client).await.expect("the kernel lets it in");
        all.push(client.expect("it does not panic").expect("it is let in"));
    }
    server.signal("CONT");
    drop(all);
    assert_eq!(send(&server, PING, &of("quixote")).await.status, 200);
}
