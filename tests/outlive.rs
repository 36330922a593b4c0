//! What a client holds on to outlives the process it began in, both ways: to green, and back to blue.

use std::time::Duration;

use rmcp::{
    ClientHandler, RoleClient, ServiceExt,
    model::{CallToolRequestParams, ProgressNotificationParam},
    service::NotificationContext,
    transport::StreamableHttpClientTransport,
};
use serde_json::{Value, json};
use tests::{
    front::Front,
    http::{Answer, Connection},
    node::Held,
    postgres::DataDir,
    server::Server,
};
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(60);

async fn start(data: &DataDir, color: &str, more: &[(&str, &str)]) -> Server {
    let directory = data.database();
    let mut environment = vec![("DATA_DIR", &*directory), ("RELEASE_COLOR", color)];
    environment.extend_from_slice(more);
    Server::example("lasting", &environment).await.ready().await
}

/// A client by hand: a session, and one call that is answered with a stream.
struct Client {
    session: String,
    n: usize,
    last_event: String,
    heard: String,
}

impl Client {
    async fn open(server: &Server, n: usize) -> Self {
        let mut connection = Connection::open(server.address()).await;
        Self { session: connection.open_session().await, n, last_event: String::new(), heard: String::new() }
    }

    /// Begins a call, and reads until it is under way.
    async fn begin(&mut self, server: &Server, tool: &str) -> Connection {
        let params = json!({ "name": tool, "arguments": { "n": self.n }, "_meta": { "progressToken": self.n } });
        let message = json!({ "jsonrpc": "2.0", "id": self.n, "method": "tools/call", "params": params });
        let mut connection = Connection::open(server.address()).await;
        let headers = format!("mcp-session-id: {}\r\naccept: application/json, text/event-stream\r\n", self.session);
        connection.send_message(&message.to_string(), &headers).await;
        let begun = connection.read_until("\"begun\"").await;
        self.hear(&begun);
        connection
    }

    /// Reads the broken stream on, until it ends.
    async fn resume(&mut self, server: &Server) {
        let mut connection = Connection::open(server.address()).await;
        let head = format!(
            "GET /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nmcp-session-id: {}\r\nlast-event-id: {}\r\n\r\n",
            server.address(),
            self.session,
            self.last_event,
        );
        connection.send(head.as_bytes()).await;
        let rest = tokio::time::timeout(LONG, connection.read_until("\r\n0\r\n\r\n")).await;
        let rest = rest.unwrap_or_else(|_| panic!("{connection:?}\n{}", server.stderr()));
        assert!(rest.starts_with("HTTP/1.1 200"), "{rest}");
        self.hear(&rest);
    }

    fn hear(&mut self, text: &str) {
        let last = text.lines().filter_map(|line| line.strip_prefix("id:")).next_back();
        if let Some(last) = last {
            last.trim().clone_into(&mut self.last_event);
        }
        self.heard.push_str(text);
    }

    async fn ask(&self, server: &Server, method: &str) -> Answer {
        let mut connection = Connection::open(server.address()).await;
        let message = json!({ "jsonrpc": "2.0", "id": 9, "method": method }).to_string();
        connection.send_message(&message, &format!("mcp-session-id: {}\r\n", self.session)).await;
        connection.answer().await
    }

    /// The answers that came, which there is one of.
    fn answers(&self) -> Vec<Value> {
        let events = self.heard.lines().filter_map(|line| line.trim().strip_prefix("data:"));
        let messages = events.filter_map(|data| serde_json::from_str::<Value>(data.trim()).ok());
        messages.filter(|message| message["id"] == self.n).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_calls_whose_process_was_killed_are_answered_by_the_other_color_and_back() {
    let data = DataDir::new();
    let blue = start(&data, "blue", &[]).await;
    let mut clients = Vec::new();
    for n in 1..=200 {
        clients.push(Client::open(&blue, n).await);
    }
    let mut old = blue;
    for color in ["green", "blue"] {
        let mut connections = Vec::new();
        for client in &mut clients {
            client.heard.clear();
            connections.push(client.begin(&old, "tell").await);
        }
        let next = start(&data, color, &[]).await;
        old.signal("KILL");
        old.exit(LONG).await;
        next.release_calls();
        let resumed = clients.iter_mut().map(|client| client.resume(&next));
        futures_util::future::join_all(resumed).await;
        for client in &clients {
            let answers = client.answers();
            assert_eq!(answers.len(), 1, "{}", client.heard);
            let text = &answers[0]["result"]["content"][0]["text"];
            assert_eq!(*text, format!("told {} by {color}", client.n), "{}", client.heard);
        }
        // Read again from the same place, a finished answer comes again: never an empty stream.
        let client = &mut clients[0];
        let answer = std::mem::take(&mut client.heard);
        client.last_event = answer.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().trim().to_owned();
        client.resume(&next).await;
        assert_eq!(client.answers().len(), 1, "{}", client.heard);
        old = start(&data, color, &[]).await;
        next.signal("KILL");
    }
    for client in &clients {
        assert_eq!(client.ask(&old, "ping").await.status, 200);
    }
}

/// A client whose connection broke reads its answer on; until then its call is in flight, though nobody listens.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_connection_broke_is_waited_for_when_its_color_leaves() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue", &[]).await, start(&data, "green", &[]).await);
    let mut client = Client::open(&blue, 1).await;
    drop(client.begin(&blue, "act").await);
    let resumed = async {
        // Read on while blue is still at it, too.
        client.resume(&green).await;
        client.answers()
    };
    let leaves = async {
        blue.calls(1).await;
        blue.signal("TERM");
        blue.is_at("draining").await;
        blue.release_calls();
        blue.exit(LONG).await
    };
    let (answers, exit) = tokio::join!(resumed, leaves);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0]["result"]["content"][0]["text"], "told 1 by blue", "{answers:?}");
}

/// rmcp's client, which says when it hears that a call has begun.
struct Rmcp(mpsc::UnboundedSender<()>);

impl ClientHandler for Rmcp {
    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        if progress.message.as_deref() == Some("begun") {
            let _ = self.0.send(());
        }
    }
}

/// The official clients, behind an address that stays: the answer they wait for comes from the other color, once, and in the
/// session that they opened.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_never_notice_that_a_color_was_killed() {
    let data = DataDir::new();
    let mut live = start(&data, "blue", &[]).await;
    let front = Front::start(live.address()).await;
    let url = front.url();

    let mut typescript =
        Held::start("client-2025.mjs", &["--url", &url, "--tool", "tell", "--calls", "0", "--reconnect", "--progress"]).await;
    let connected = typescript.event(&["connected"]).await;
    assert!(connected["sessionId"].is_string(), "{connected}");
    let (heard, mut begun) = mpsc::unbounded_channel();
    let rmcp = Rmcp(heard).serve(StreamableHttpClientTransport::from_uri(url)).await.expect("rmcp's client connects");

    for (turn, color) in ["green", "blue", "green"].into_iter().enumerate() {
        typescript.call(&json!({ "n": turn })).await;
        let arguments = json!({ "n": turn + 100 });
        let call = CallToolRequestParams::new("tell").with_arguments(arguments.as_object().cloned().unwrap_or_default());
        let waiting = rmcp.call_tool(call);
        let next = async {
            // Who has heard nothing yet has no stream that it could read on.
            typescript.event(&["progress"]).await;
            begun.recv().await.expect("rmcp's client is there");
            let next = start(&data, color, &[]).await;
            front.switch(next.address());
            live.signal("KILL");
            next.release_calls();
            next
        };
        let (told, next) = tokio::join!(tokio::time::timeout(LONG, waiting), next);
        let told = told.unwrap_or_else(|_| panic!("rmcp's client was not answered:\n{}", next.stderr()));
        let told = serde_json::to_value(told.expect("rmcp's client is answered")).expect("a result is JSON");
        assert_eq!(told["content"][0]["text"], format!("told {} by {color}", turn + 100));
        assert_eq!(typescript.result().await["content"][0]["text"], format!("told {turn} by {color}"));
        front.left(live.address()).await;
        live.exit(LONG).await;
        // Killed between two calls, it costs nothing either; and the gate of a fresh one is shut.
        live = start(&data, color, &[]).await;
        front.switch(live.address());
        next.signal("KILL");
        front.left(next.address()).await;
        next.exit(LONG).await;
    }
    let sessions = data.query("SELECT count(*) FROM mcp_sessions").await;
    assert_eq!(sessions, "2", "a client began anew");
    let answered = data.query("SELECT count(*) FROM mcp_stream_events WHERE is_answer AND message LIKE '%\"told 1 by %'").await;
    assert_eq!(answered, "1", "an answer was given twice");
    rmcp.cancel().await.expect("rmcp's client leaves");
    typescript.leave().await;
}

/// 2026-07-28 has neither sessions nor streams that are read on: a client makes a call again that was cut off, and names its
/// conversation each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_of_a_client_without_sessions_goes_on_in_the_other_color() {
    let data = DataDir::new();
    let blue = start(&data, "blue", &[]).await;
    let front = Front::start(blue.address()).await;
    let mut client =
        Held::start("client-2026.mjs", &["--url", &front.url(), "--tool", "add", "--calls", "0", "--reconnect"]).await;
    assert_eq!(client.event(&["connected"]).await["protocolVersion"], "2026-07-28");

    client.call(&json!({ "thing": "milk" })).await;
    let first = client.result().await["structuredContent"].clone();
    let handle = first["conversation"].as_str().unwrap_or_else(|| panic!("no handle: {first}")).to_owned();
    let mut expected = vec!["milk".to_owned()];
    let mut live = blue;
    for (color, thing) in [("green", "eggs"), ("blue", "tea"), ("green", "salt")] {
        let next = start(&data, color, &[]).await;
        front.switch(next.address());
        live.signal("KILL");
        front.left(live.address()).await;
        live.exit(LONG).await;
        client.call(&json!({ "thing": thing, "conversation": handle })).await;
        expected.push(thing.to_owned());
        let answer = client.result().await;
        assert_eq!(
            answer["structuredContent"],
            json!({ "things": expected, "color": color, "conversation": handle }),
            "{answer}"
        );
        live = next;
    }
    client.leave().await;
}
