//! Clients hear of what they asked for, and of nothing else: changed resources and log lines, in both eras of the protocol.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{http::Connection, server::Server};

const WATCHED: &str = "test://watched-resource";
const UPDATED: &str = "notifications/resources/updated";

/// One session: requests on one connection, its own stream on another.
struct Session {
    id: String,
    requests: Connection,
    stream: Connection,
}

impl Session {
    async fn open(server: &Server) -> Self {
        let mut requests = Connection::open(server.address()).await;
        let id = requests.open_session().await;
        let mut stream = Connection::open(server.address()).await;
        let head = format!(
            "GET /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nmcp-session-id: {id}\r\n\r\n",
            server.address()
        );
        stream.send(head.as_bytes()).await;
        stream.read_until("\r\n\r\n").await;
        Self { id, requests, stream }
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.requests.ask(method, &params, &format!("mcp-session-id: {}\r\n", self.id)).await.json()
    }

    async fn call(&mut self, tool: &str) -> Value {
        self.ask("tools/call", json!({ "name": tool, "arguments": {} })).await
    }

    /// Everything on the session's stream up to this text.
    async fn hears(&mut self, text: &str) -> String {
        let hearing = tokio::time::timeout(Duration::from_secs(20), self.stream.read_until(text)).await;
        hearing.unwrap_or_else(|_| panic!("{text:?} did not come"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_hears_what_it_asked_for_and_nothing_else() {
    let server = Server::example("everything", &[]).await.ready().await;
    let (mut session, mut other) = (Session::open(&server).await, Session::open(&server).await);
    let empty = json!({ "jsonrpc": "2.0", "id": 1, "result": {} });
    let watched = || json!({ "uri": WATCHED });

    assert_eq!(session.ask("resources/subscribe", watched()).await, empty);
    let nowhere = session.ask("resources/subscribe", json!({ "uri": "test://nowhere" })).await;
    assert_eq!(nowhere["error"]["code"], -32002, "{nowhere}");
    session.call("test_update_watched_resource").await;
    let heard = session.hears(UPDATED).await + &session.hears(WATCHED).await;
    assert_eq!(heard.matches(UPDATED).count(), 1, "{heard}");

    // Unsubscribed, it hears of its own log lines next; with the level raised, of neither.
    assert_eq!(session.ask("resources/unsubscribe", watched()).await, empty);
    session.call("test_update_watched_resource").await;
    session.call("test_tool_with_logging").await;
    let heard = session.hears("Tool execution completed").await;
    assert_eq!((heard.matches(UPDATED).count(), heard.matches("notifications/message").count()), (0, 3), "{heard}");
    assert_eq!(session.ask("logging/setLevel", json!({ "level": "error" })).await, empty);
    session.call("test_tool_with_logging").await;
    session.ask("resources/subscribe", watched()).await;
    session.call("test_update_watched_resource").await;
    let heard = session.hears(UPDATED).await;
    assert_eq!(heard.matches("notifications/message").count(), 0, "{heard}");

    // All the while the other session, which asked for nothing, heard nothing.
    other.call("test_tool_with_logging").await;
    let heard = other.hears("Tool execution started").await;
    assert_eq!(heard.matches(UPDATED).count(), 0, "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listening_client_hears_of_changes_under_the_id_it_listens_with() {
    let server = Server::example("everything", &[]).await.ready().await;
    let mut listening = Connection::open(server.address()).await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let wanted = json!({ "resourceSubscriptions": [WATCHED] });
    let message = json!({
        "jsonrpc": "2.0", "id": "mine", "method": "subscriptions/listen", "params": { "notifications": wanted, "_meta": meta },
    });
    let headers =
        "mcp-protocol-version: 2026-07-28\r\nmcp-method: subscriptions/listen\r\naccept: application/json, text/event-stream\r\n";
    listening.send_message(&message.to_string(), headers).await;
    listening.read_until("notifications/subscriptions/acknowledged").await;

    let mut caller = Connection::open(server.address()).await;
    caller.send_call(1, "test_update_watched_resource", json!({})).await;
    assert_eq!(caller.answer().await.json()["result"]["isError"], false);
    let heard = tokio::time::timeout(Duration::from_secs(20), async {
        listening.read_until("data: ").await + &listening.read_until("\n\n").await
    });
    let heard = heard.await.expect("word of the change comes");
    assert!(heard.contains(UPDATED) && heard.contains(WATCHED) && heard.contains(r#""mine""#), "{heard}");
}
