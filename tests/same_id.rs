//! A client may have the same JSON-RPC id in flight as often as it likes (claude.ai's connector sends every request with
//! `"id": 1`): every request gets its own response on its own stream, in every revision, and a client that goes away leaves
//! nothing behind that holds others up.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    http::{Answer, Connection},
    postgres::DataDir,
    server::Server,
};

const LONG: Duration = Duration::from_secs(60);
const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
const STREAM: &str = "accept: application/json, text/event-stream\r\n";

async fn lasting(data: &DataDir, more: &[(&str, &str)]) -> Server {
    let directory = data.database();
    let mut environment = vec![("DATA_DIR", &*directory), ("LEAVE_DELAY_SECS", "0")];
    environment.extend_from_slice(more);
    Server::example("lasting", &environment).await.ready().await
}

/// A session of one revision.
#[derive(Clone)]
struct Session {
    server: std::net::SocketAddr,
    id: String,
}

impl Session {
    async fn open(server: &Server, revision: &str) -> Self {
        let mut connection = Connection::open(server.address()).await;
        let capabilities = json!({ "elicitation": {} });
        let params =
            json!({ "protocolVersion": revision, "capabilities": capabilities, "clientInfo": { "name": "t", "version": "1" } });
        let answer = connection.ask("initialize", &params, "").await;
        assert_eq!(answer.json()["result"]["protocolVersion"], revision);
        let id = answer.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).expect("a session is opened");
        Self { server: server.address(), id: id.trim().to_owned() }
    }

    /// Sends a message on a connection of its own.
    async fn send(&self, message: &Value, headers: &str) -> Connection {
        let mut connection = Connection::open(self.server).await;
        connection.send_message(&message.to_string(), &format!("mcp-session-id: {}\r\n{headers}", self.id)).await;
        connection
    }

    /// Begins a call that is answered with a stream, and reads until its tool is at work.
    async fn begin(&self, id: &Value, tool: &str, n: usize) -> (Connection, String) {
        let mut connection = self.send(&call(id, tool, n), STREAM).await;
        let begun =
            tokio::time::timeout(LONG, connection.read_until("\"begun\"")).await.expect("the tool says that it has begun");
        (connection, begun)
    }

    async fn cancel(&self, id: &Value) {
        let cancelled = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
        assert_eq!(self.send(&cancelled, "").await.answer().await.status, 202);
    }

    /// Opens a broken stream again, after this event.
    async fn resume(&self, last_event: &str) -> Connection {
        let mut connection = Connection::open(self.server).await;
        let head = format!(
            "GET /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nmcp-session-id: {}\r\nlast-event-id: {last_event}\r\n\r\n",
            self.server, self.id
        );
        connection.send(head.as_bytes()).await;
        connection
    }
}

fn call(id: &Value, tool: &str, n: usize) -> Value {
    let params = json!({ "name": tool, "arguments": { "n": n }, "_meta": { "progressToken": id } });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// Reads a stream to its end, after what was read of it already.
async fn rest(mut connection: Connection, mut read: String) -> String {
    let rest = tokio::time::timeout(LONG, connection.read_until("\r\n0\r\n\r\n")).await;
    read.push_str(&rest.unwrap_or_else(|_| panic!("the stream does not end: {read} {connection:?}")));
    read
}

fn messages(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.trim().strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data.trim()).ok()).collect()
}

fn last_event(stream: &str) -> String {
    let mut ids = stream.lines().filter_map(|line| line.strip_prefix("id:"));
    ids.next_back().expect("an event has an id").trim().to_owned()
}

/// What must hold of the one stream that answers this call.
fn assert_answers(stream: &str, id: &Value, n: usize) {
    let messages = messages(stream);
    let (responses, others): (Vec<_>, Vec<_>) = messages.iter().partition(|message| message.get("method").is_none());
    assert_eq!(responses.len(), 1, "{stream}");
    assert_eq!(responses[0]["id"], *id, "{stream}");
    assert_eq!(responses[0]["result"]["content"][0]["text"], format!("told {n} by blue"), "{stream}");
    assert_eq!(others.len(), 2, "each stream has the progress of its own call: {stream}");
    for progress in others {
        assert_eq!(progress["params"]["progressToken"], *id, "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_requests_with_one_id_get_their_own_responses_in_every_revision() {
    let data = DataDir::new();
    let server = lasting(&data, &[]).await;
    let mut streams = Vec::new();
    let mut plain = Vec::new();
    for revision in REVISIONS {
        let session = Session::open(&server, revision).await;
        for n in 0..20 {
            // Of two types, which are two ids.
            let id = if n % 4 == 3 { json!("1") } else { json!(1) };
            if n % 5 == 4 {
                plain.push((session.send(&call(&id, "tell", n), "").await, id, n));
            } else {
                let (connection, begun) = session.begin(&id, "tell", n).await;
                streams.push((revision, connection, begun, id, n));
            }
        }
    }
    server.calls(80).await;
    server.release_calls();
    for (revision, connection, begun, id, n) in streams {
        let stream = rest(connection, begun).await;
        assert_answers(&stream, &id, n);
        let empty = stream.lines().filter(|line| line.trim_end() == "data:").count();
        assert_eq!(empty, usize::from(revision == "2025-11-25"), "{revision}: {stream}");
    }
    for (mut connection, id, n) in plain {
        let answer = tokio::time::timeout(LONG, connection.answer()).await.expect("it is answered").json();
        assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&id, &json!(format!("told {n} by blue"))));
    }
    server.calls(0).await;
}

/// The stream of a session, as the stream of a call, begins with an empty event for those alone who know what it is.
#[tokio::test(flavor = "multi_thread")]
async fn only_clients_of_2025_11_25_are_sent_an_empty_event() {
    let data = DataDir::new();
    let server = lasting(&data, &[]).await;
    let mut streams = Vec::new();
    for revision in REVISIONS {
        let session = Session::open(&server, revision).await;
        let get = format!(
            "GET /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nmcp-session-id: {}\r\n\r\n",
            session.server, session.id
        );
        let mut connection = Connection::open(session.server).await;
        connection.send(get.as_bytes()).await;
        connection.read_until("\r\n\r\n").await;
        // Something that goes to every stream of the session, so that what came before it has come.
        let level = json!({ "jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": { "level": "debug" } });
        assert_eq!(session.send(&level, "").await.answer().await.json()["result"], json!({}));
        let change =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "change", "arguments": {} } });
        assert!(session.send(&change, "").await.answer().await.json()["result"].is_object());
        let stream = tokio::time::timeout(LONG, connection.read_until("changed by")).await.expect("the line is logged");
        let empty = stream.lines().filter(|line| line.trim_end() == "data:").count();
        assert_eq!(empty, usize::from(revision == "2025-11-25"), "{revision}: {stream}");
        streams.push((revision, connection));
    }
    // As little as the event that says when to come again.
    server.signal("TERM");
    for (revision, connection) in streams {
        let end = tokio::time::timeout(LONG, connection.read_to_end()).await.expect("a stream ends with its process");
        assert!(end.ends_with("0\r\n\r\n"), "{revision}: {end}");
        assert_eq!(end.contains("retry: "), revision == "2025-11-25", "{revision}: {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_reaches_the_newest_request_with_its_id() {
    let data = DataDir::new();
    let server = lasting(&data, &[]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let (older, older_begun) = session.begin(&json!(1), "tell", 1).await;
    let (newer, newer_begun) = session.begin(&json!(1), "tell", 2).await;
    let (other, other_begun) = session.begin(&json!("1"), "tell", 3).await;
    session.cancel(&json!(1)).await;
    let cancelled = rest(newer, newer_begun).await;
    assert!(messages(&cancelled).iter().all(|message| message["method"].is_string()), "no response: {cancelled}");
    // Whoever opens the stream again is not kept waiting.
    let again = tokio::time::timeout(LONG, async {
        loop {
            let mut connection = session.resume(&last_event(&cancelled)).await;
            if connection.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 204") {
                return;
            }
        }
    });
    again.await.expect("a stream that ended without a response has nothing left");
    server.calls(2).await;
    server.release_calls();
    assert_answers(&rest(older, older_begun).await, &json!(1), 1);
    assert_answers(&rest(other, other_begun).await, &json!("1"), 3);
}

/// The balancer does not know which replica has the call.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_comes_to_another_replica_reaches_the_call() {
    let data = DataDir::new();
    let (blue, green) = (lasting(&data, &[]).await, lasting(&data, &[("RELEASE_COLOR", "green")]).await);
    let session = Session::open(&blue, "2025-11-25").await;
    let elsewhere = Session { server: green.address(), ..session.clone() };
    let (older, older_begun) = session.begin(&json!(1), "act", 1).await;
    let (newer, newer_begun) = session.begin(&json!(1), "act", 2).await;
    elsewhere.cancel(&json!(1)).await;
    let cancelled = rest(newer, newer_begun).await;
    assert!(messages(&cancelled).iter().all(|message| message["method"].is_string()), "no response: {cancelled}");
    blue.calls(1).await;
    blue.release_calls();
    assert_answers(&rest(older, older_begun).await, &json!(1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_may_hold_one_id_twice() {
    let data = DataDir::new();
    let server = lasting(&data, &[]).await;
    server.release_calls();
    let session = Session::open(&server, "2025-03-26").await;
    let batch = json!([call(&json!(1), "tell", 1), call(&json!(1), "tell", 2), call(&json!("1"), "tell", 3)]);
    let mut connection = session.send(&batch, STREAM).await;
    let answers = tokio::time::timeout(LONG, connection.answer()).await.expect("it is answered").json();
    let texts: Vec<_> =
        answers.as_array().expect("a batch").iter().map(|answer| &answer["result"]["content"][0]["text"]).collect();
    assert_eq!(texts, ["told 1 by blue", "told 2 by blue", "told 3 by blue"]);
    assert_eq!([&answers[0]["id"], &answers[1]["id"], &answers[2]["id"]], [&json!(1), &json!(1), &json!("1")]);
}

/// No service of a session knows of such a call.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_reaches_a_call_on_the_fast_path() {
    let server = Server::example("slow", &[]).await;
    let session = Session::open(&server, "2025-06-18").await;
    let wait = |n: usize| json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "wait", "arguments": { "n": n } } });
    let mut older = session.send(&wait(1), "").await;
    server.calls(1).await;
    let mut newer = session.send(&wait(2), "").await;
    server.calls(2).await;
    let mut other = Session::open(&server, "2025-06-18").await.send(&wait(3), "").await;
    server.calls(3).await;
    session.cancel(&json!(1)).await;
    let answer = tokio::time::timeout(LONG, newer.answer()).await.expect("a cancelled call ends").json();
    assert_eq!((&answer["id"], &answer["error"]["message"]), (&json!(1), &json!("the call was cancelled")), "{answer}");
    server.calls(2).await;
    server.release_calls();
    for (connection, n) in [(&mut older, 1), (&mut other, 3)] {
        let answer = connection.answer().await.json();
        assert_eq!(answer["result"]["content"][0]["text"], format!("waited {n}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_reaches_the_caller_it_is_meant_for_and_its_answer_the_call() {
    let data = DataDir::new();
    let server = lasting(&data, &[]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let inquire = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "inquire", "arguments": {} } });
    let mut asked = Vec::new();
    for _ in 0..5 {
        let mut connection = session.send(&inquire, STREAM).await;
        let read = tokio::time::timeout(LONG, connection.read_until("\"requestedSchema\"")).await.expect("each caller is asked");
        let read = read + &connection.read_until("\n\n").await;
        asked.push((connection, read));
    }
    for (n, (_, read)) in asked.iter().enumerate().rev() {
        let question = messages(read).into_iter().find(|message| message["method"] == "elicitation/create").expect("a question");
        let content = json!({ "action": "accept", "content": { "name": format!("name {n}") } });
        let response = json!({ "jsonrpc": "2.0", "id": question["id"], "result": content });
        assert_eq!(session.send(&response, "").await.answer().await.status, 202);
    }
    for (n, (connection, read)) in asked.into_iter().enumerate() {
        let stream = rest(connection, read).await;
        let response = messages(&stream).pop().expect("a response");
        assert_eq!(response["id"], 1, "{stream}");
        assert_eq!(response["result"]["content"][0]["text"], format!("Hello, name {n}: asked and greeted by blue."), "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_stream_shows_the_clients_own_id_and_has_nothing_left_at_its_end() {
    let data = DataDir::new();
    let server = lasting(&data, &[]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let mut broken = Vec::new();
    for (n, id) in [json!(1), json!(1), json!("1"), json!("a:\"b\"")].into_iter().enumerate() {
        let (connection, begun) = session.begin(&id, "act", n).await;
        drop(connection);
        broken.push((id, n, begun));
    }
    server.release_calls();
    for (id, n, begun) in broken {
        let stream = rest(session.resume(&last_event(&begun)).await, begun).await;
        assert_answers(&stream, &id, n);
        for _ in 0..2 {
            let head = session.resume(&last_event(&stream)).await.read_until("\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 204 No Content"), "{head}");
        }
    }
    server.calls(0).await;
}

/// Those whose clients may come back run on, and take no place from others; those whose clients cannot are cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_have_disconnected_take_no_place_from_others() {
    let data = DataDir::new();
    let server = lasting(&data, &[("CALLS_MAX", "8")]).await;
    let (resumable, older) = (Session::open(&server, "2025-11-25").await, Session::open(&server, "2025-06-18").await);
    for round in 0..3 {
        let mut full = Vec::new();
        for n in 0..4 {
            full.push(resumable.begin(&json!(1), "act", n).await.0);
        }
        for n in 0..4 {
            // One that takes no stream has no event to resume after.
            full.push(older.send(&call(&json!(1), "act", n), "").await);
        }
        server.calls(8 + 4 * round).await;
        let refused = older.send(&call(&json!(1), "add", 0), "").await.answer().await;
        assert_eq!(refused.status, 429, "{}", refused.body);
        drop(full);
        server.calls(4 + 4 * round).await;
        let listed: Answer = older.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }), "").await.answer().await;
        assert_eq!(listed.status, 200, "{}", listed.body);
    }
    server.release_calls();
    server.calls(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_callers_that_have_disconnected() {
    let data = DataDir::new();
    let server = lasting(&data, &[]).await;
    for revision in REVISIONS {
        let session = Session::open(&server, revision).await;
        for n in 0..5 {
            drop(session.begin(&json!(1), "act", n).await);
            drop(session.send(&call(&json!(1), "act", n), "").await);
        }
    }
    let asked = Instant::now();
    server.signal("TERM");
    let exit = server.exit(LONG).await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(asked.elapsed() < Duration::from_secs(15), "it waited for {:?}:\n{}", asked.elapsed(), exit.stderr);
}

/// A client that follows its call from another process is waited for, however long it has been disconnected.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_a_call_that_its_client_follows_elsewhere() {
    let data = DataDir::new();
    let (blue, green) = (lasting(&data, &[]).await, lasting(&data, &[("RELEASE_COLOR", "green")]).await);
    let session = Session::open(&blue, "2025-11-25").await;
    let (connection, begun) = session.begin(&json!(1), "act", 7).await;
    drop(connection);
    let elsewhere = Session { server: green.address(), ..session };
    let follower = elsewhere.resume(&last_event(&begun)).await;
    let asked = Instant::now();
    blue.signal("TERM");
    blue.is_at("draining").await;
    while data.query("SELECT count(*) FROM mcp_stream_events WHERE stream LIKE '%:followers'").await != "1" {
        assert!(asked.elapsed() < LONG, "the follower is not noted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Longer than a client that is not coming back is waited for.
    tokio::time::sleep(Duration::from_secs(4)).await;
    blue.release_calls();
    assert_answers(&rest(follower, begun).await, &json!(1), 7);
    assert_eq!(blue.exit(LONG).await.code, Some(0));
}

/// rmcp says so in plain words, which a client that reads JSON-RPC finds nothing in.
#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_json_with_the_id_of_its_request() {
    let server = Server::example("slow", &[]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let get = json!({ "jsonrpc": "2.0", "id": "a", "method": "prompts/get", "params": { "name": "x" } });
    for headers in ["mcp-protocol-version: 1999-01-01\r\n", "mcp-method: other\r\n", "mcp-protocol-version: \u{e9}\r\n"] {
        let answer = session.send(&get, headers).await.answer().await;
        assert!(answer.status >= 400 || answer.json()["error"].is_object(), "{headers} {answer:?}");
        assert!(answer.head.to_ascii_lowercase().contains("content-type: application/json"), "{headers} {}", answer.head);
        assert_eq!(answer.json()["id"], "a", "{headers} {}", answer.body);
    }
    for (method, headers) in [("GET", ""), ("GET", "mcp-protocol-version: 1999-01-01\r\n"), ("DELETE", "")] {
        let mut connection = Connection::open(server.address()).await;
        let request =
            format!("{method} /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n{headers}\r\n", server.address());
        connection.send(request.as_bytes()).await;
        let answer = connection.answer().await;
        assert!(answer.status >= 400, "{answer:?}");
        assert!(answer.head.to_ascii_lowercase().contains("content-type: application/json"), "{method} {}", answer.head);
        assert!(answer.json()["error"]["message"].is_string(), "{method} {}", answer.body);
    }
}
