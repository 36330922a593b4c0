//! What a client holds on to outlives the process it began in, both ways: to green, and back to blue.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    http::{Answer, Connection},
    postgres::DataDir,
    server::Server,
};

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
