//! A session is its principal's alone, goes on with everything it asked for wherever it comes next, is dead everywhere once it
//! was ended, and costs next to nothing: neither time at each call nor memory when nobody uses it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    http::Connection,
    postgres::DataDir,
    server::{Server, binary},
};

const LONG: Duration = Duration::from_secs(60);

async fn start(data: &DataDir, color: &str, more: &[(&str, &str)]) -> Server {
    let directory = data.database();
    let mut environment = vec![("DATA_DIR", &*directory), ("RELEASE_COLOR", color), ("AUTHENTICATION", "header:x-principal")];
    environment.extend_from_slice(more);
    Server::example("lasting", &environment).await.ready().await
}

/// Whose request, in which session.
fn headers(principal: Option<&str>, session: &str) -> String {
    let principal = principal.map(|principal| format!("x-principal: {principal}\r\n")).unwrap_or_default();
    format!("{principal}mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n")
}

/// The status that a request is answered with: one by the body of a message, or a bare `GET` or `DELETE`.
async fn status(server: &Server, method: &str, headers: &str) -> u16 {
    let mut connection = Connection::open(server.address()).await;
    if method == "POST" {
        return connection.ask("tools/list", &json!({}), headers).await.status;
    }
    let head = format!("{method} /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n{headers}\r\n", server.address());
    connection.send(head.as_bytes()).await;
    let head = connection.read_until("\r\n\r\n").await;
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_principals_alone_and_dead_on_both_colors_once_it_is_deleted() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue", &[]).await, start(&data, "green", &[]).await);
    let session = Connection::open(blue.address()).await.open_session_with("x-principal: ada\r\n").await;
    let ada = headers(Some("ada"), &session);

    // Neither its id nor its own stream nor its end is anybody else's, where it began and where it never was; and nobody's
    // try takes it from Ada.
    for thief in [headers(Some("eve"), &session), headers(None, &session)] {
        for color in [&green, &blue] {
            for method in ["POST", "GET", "DELETE"] {
                assert_eq!(status(color, method, &thief).await, 404, "{method} with\n{thief}");
            }
        }
    }
    for color in [&blue, &green] {
        assert_eq!(status(color, "POST", &ada).await, 200);
        assert_eq!(status(color, "GET", &ada).await, 200);
    }

    assert_eq!(status(&blue, "DELETE", &ada).await, 204);
    assert_eq!(status(&blue, "POST", &ada).await, 404);
    // Green, which has it in memory, hears of it.
    let deleted = Instant::now();
    while status(&green, "POST", &ada).await != 404 {
        assert!(deleted.elapsed() < LONG, "a deleted session lives on in the other color");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(status(&green, "GET", &ada).await, 404);
    assert_eq!(status(&green, "DELETE", &ada).await, 404);
    // And a process that was not there yet does not bring it back.
    let next = start(&data, "blue", &[]).await;
    assert_eq!(status(&next, "POST", &ada).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_asked_for_comes_back_with_it() {
    let data = DataDir::new();
    let blue = start(&data, "blue", &[]).await;
    let mut connection = Connection::open(blue.address()).await;
    let session = connection.open_session_with("x-principal: ada\r\n").await;
    let ada = headers(Some("ada"), &session);
    for (method, params) in
        [("logging/setLevel", json!({ "level": "debug" })), ("resources/subscribe", json!({ "uri": "lasting://board" }))]
    {
        let answer = connection.ask(method, &params, &ada).await.json();
        assert!(answer["result"].is_object(), "{method}: {answer}");
    }
    let silent = Connection::open(blue.address()).await.open_session_with("x-principal: ada\r\n").await;
    blue.signal("KILL");
    blue.exit(LONG).await;

    let green = start(&data, "green", &[]).await;
    let open = async |session: &str| {
        let mut stream = Connection::open(green.address()).await;
        let ada = headers(Some("ada"), session);
        let head = format!("GET /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n{ada}\r\n", green.address());
        stream.send(head.as_bytes()).await;
        assert!(stream.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        stream
    };
    let (mut stream, silent_stream) = (open(&session).await, open(&silent).await);
    let (mut call, mut heard) = (Connection::open(green.address()).await, String::new());
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "change" } }).to_string();
    call.send_message(&message, &format!("accept: application/json, text/event-stream\r\n{ada}")).await;
    tokio::time::timeout(LONG, call.read_until("\"changed\"")).await.expect("the call is answered");
    let hears = async {
        for words in ["lasting://board", "changed by green"] {
            if !heard.contains(words) {
                heard += &stream.read_until(words).await;
            }
        }
    };
    assert!(tokio::time::timeout(LONG, hears).await.is_ok(), "it did not come back whole: {heard}");
    assert!(heard.contains("notifications/resources/updated") && heard.contains("notifications/message"), "{heard}");

    // Who asked for nothing hears nothing: its stream ends with the process, and has told of no change until then.
    green.signal("KILL");
    let heard = tokio::time::timeout(LONG, silent_stream.read_to_end()).await.expect("the stream ends");
    assert!(!heard.contains("lasting://board") && !heard.contains("notifications/message"), "{heard}");
}

/// The balancer does not know who asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_comes_to_another_color_reaches_the_call_that_waits_for_it() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue", &[]).await, start(&data, "green", &[]).await);
    let mut call = Connection::open(blue.address()).await;
    let opened = json!({ "protocolVersion": "2025-11-25", "capabilities": { "elicitation": {} }, "clientInfo": { "name": "t", "version": "1" } });
    let opened = call.ask("initialize", &opened, "x-principal: ada\r\n").await;
    let session =
        opened.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).expect("a session").trim().to_owned();
    let ada = headers(Some("ada"), &session);
    let message = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": "inquire" } }).to_string();
    call.send_message(&message, &format!("accept: application/json, text/event-stream\r\n{ada}")).await;
    let asked = tokio::time::timeout(LONG, call.read_until("What is your name?")).await.expect("it asks");
    let question = asked.rsplit("data: ").next().expect("it came as an event");
    let id = question.split("\"id\":").nth(1).and_then(|rest| rest.split([',', '}']).next()).expect("it has an id");

    let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept","content":{{"name":"Ada"}}}}}}"#);
    for (principal, status) in [("eve", 404), ("ada", 202)] {
        let mut other = Connection::open(green.address()).await;
        other.send_message(&answer, &headers(Some(principal), &session)).await;
        assert_eq!(other.answer().await.status, status, "{principal}");
    }
    let greeting = "Hello, Ada: asked and greeted by blue.";
    tokio::time::timeout(LONG, call.read_until(greeting)).await.expect("the response reached the call");
    // Nobody asked: there is nothing to answer, here or there.
    let mut other = Connection::open(green.address()).await;
    other.send_message(&answer, &ada).await;
    assert_eq!(other.answer().await.status, 202);
}

/// Two processes know the session; neither takes away what it asked for at the other one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_asks_for_in_turns_is_all_kept() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue", &[]).await, start(&data, "green", &[]).await);
    let session = Connection::open(blue.address()).await.open_session_with("x-principal: ada\r\n").await;
    let ada = headers(Some("ada"), &session);
    for color in [&blue, &green] {
        assert_eq!(status(color, "POST", &ada).await, 200);
    }
    for (color, method, params) in [
        (&green, "logging/setLevel", json!({ "level": "debug" })),
        (&blue, "resources/subscribe", json!({ "uri": "lasting://board" })),
        (&green, "resources/unsubscribe", json!({ "uri": "lasting://other" })),
    ] {
        let answer = Connection::open(color.address()).await.ask(method, &params, &ada).await.json();
        assert!(answer["result"].is_object(), "{method}: {answer}");
    }
    let asked = data.query("SELECT log_level || ' ' || array_to_string(subscriptions, ',') FROM mcp_sessions").await;
    assert_eq!(asked, "debug lasting://board");
    let long = json!({ "uri": format!("lasting://board?{}", "x".repeat(3000)) });
    let refused = Connection::open(blue.address()).await.ask("resources/subscribe", &long, &ada).await.json();
    assert!(refused["error"].is_object(), "{refused}");
}

/// An `initialize` loop is what a health check, a scanner or a client in a crash loop does (modelcontextprotocol/rust-sdk 1014).
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_sessions_that_nobody_uses_leave_nothing_behind() {
    const SESSIONS: usize = 10_000;
    let data = DataDir::new();
    let server = start(&data, "blue", &[("SESSION_UNUSED_SECS", "5")]).await;
    let open = async |count: usize| {
        let one = async |_| {
            let mut connection = Connection::open(server.address()).await;
            for _ in 0..count / 8 {
                connection.open_session().await;
            }
        };
        futures_util::future::join_all((0..8).map(one)).await;
    };
    open(400).await;
    let before = server.resident_kib();
    open(SESSIONS).await;
    let after = server.resident_kib();
    assert_ne!(data.query("SELECT count(*) FROM mcp_sessions").await, "0", "nothing was kept");
    assert!(after < before + 10 * 1024, "{SESSIONS} sessions took it from {before} KiB to {after} KiB");
    let ended = Instant::now();
    while data.query("SELECT count(*) FROM mcp_sessions").await != "0" {
        assert!(ended.elapsed() < LONG, "nobody reaps:\n{}", server.stderr());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Vanilla rmcp takes about 44 ms for a call in a session, which is Nagle's algorithm waiting for a delayed ACK.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_a_session_is_as_fast_as_one_without() {
    const ROUNDS: usize = 30;
    const CALLS: usize = 20;
    let data = DataDir::new();
    let directory = data.database();
    let server = Server::start(binary("mcp-server"), &[("DATA_DIR", &*directory)]).await.ready().await;
    let mut connection = Connection::open(server.address()).await;
    let session = headers(None, &connection.open_session().await);
    let arguments = json!({ "userId": "ada" });
    let mut round = async |headers: &str| {
        let mut times = Vec::new();
        for _ in 0..CALLS {
            let begun = Instant::now();
            let result = connection.call("search_appointments", &arguments, headers).await;
            times.push(begun.elapsed());
            assert_ne!(result["isError"], Value::Bool(true), "{result}");
        }
        median(times)
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(round("").await);
        with.push(round(&session).await);
    }
    // The best round of each: the other tests of this machine make rounds slower, and none faster.
    let [with, without] = [with, without].map(|rounds| rounds.into_iter().min().expect("there were rounds"));
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    assert!(ratio < 1.5, "a call in a session takes {with:?}, one without {without:?}: {ratio:.2} times");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
