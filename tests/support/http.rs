//! HTTP by hand, for what a well-behaved client library would not do: half a request, a connection held open, the raw bytes
//! of an answer.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    read: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server accepts connections");
        Self { stream, address, read: Vec::new() }
    }

    /// Connects with room for so little that the other side soon cannot send.
    pub async fn open_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket.set_recv_buffer_size(4096).expect("a small buffer is allowed");
        let stream = socket.connect(address).await.expect("the server accepts connections");
        Self { stream, address, read: Vec::new() }
    }

    /// Opens a session and its own stream, and reads the stream's head.
    pub async fn open_stream(address: SocketAddr) -> Self {
        let mut connection = Self::open(address).await;
        let session = connection.open_session().await;
        let head =
            format!("GET /mcp HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\nmcp-session-id: {session}\r\n\r\n");
        connection.send(head.as_bytes()).await;
        let head = connection.head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        connection
    }

    /// Sends `initialize` and gives the session id.
    pub async fn open_session(&mut self) -> String {
        self.open_session_with("").await
    }

    /// Sends `initialize` with further headers, as whole lines, and gives the session id.
    pub async fn open_session_with(&mut self, headers: &str) -> String {
        let params =
            json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
        let answer = self.ask("initialize", &params, headers).await;
        let session = answer.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
        session.expect("initialize opens a session").trim().to_owned()
    }

    /// Sends a request with further headers, as whole lines, and reads its answer.
    pub async fn ask(&mut self, method: &str, params: &Value, headers: &str) -> Answer {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.send_message(&message.to_string(), headers).await;
        self.answer().await
    }

    /// Calls a tool in the same way, and gives the result.
    pub async fn call(&mut self, tool: &str, arguments: &Value, headers: &str) -> Value {
        let answer = self.ask("tools/call", &json!({ "name": tool, "arguments": arguments }), headers).await.json();
        assert!(answer["result"].is_object(), "{answer}");
        answer["result"].clone()
    }

    /// Sends a `tools/call`.
    pub async fn send_call(&mut self, id: u32, tool: &str, arguments: Value) {
        let message =
            json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": arguments } });
        self.send_message(&message.to_string(), "").await;
    }

    /// Sends a message to `/mcp`. `headers` are whole lines.
    pub async fn send_message(&mut self, body: &str, headers: &str) {
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        );
        self.send(format!("{head}{body}").as_bytes()).await;
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    /// Sends bytes as they are; whether the server took them.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Ends our side of the connection and keeps the other.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("a socket can be half closed");
    }

    /// Reads one answer with a content length.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
        };
        let length: usize = header("content-length").unwrap_or("0").parse().expect("a length is a number");
        while self.read.len() < length {
            assert!(self.more().await, "the connection ended inside a body: {head}");
        }
        let body = self.read.drain(..length).collect();
        Answer { status: status(&head), body: String::from_utf8(body).expect("a body is text"), head }
    }

    /// Reads on until this text has come, and gives everything up to its end.
    pub async fn read_until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(text.len()).position(|bytes| bytes == text.as_bytes()) {
                let read = self.read.drain(..at + text.len()).collect();
                return String::from_utf8(read).expect("the answer is text");
            }
            assert!(self.more().await, "the connection ended before {text:?}: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Reads whatever comes until the server closes.
    pub async fn read_to_end(mut self) -> String {
        while self.more().await {}
        String::from_utf8(self.read).expect("the answer is text")
    }

    async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = self.read.drain(..end + 4).collect();
                return String::from_utf8(head).expect("a head is text");
            }
            assert!(self.more().await, "the connection ended before an answer: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.read.extend_from_slice(&buffer[..read]);
                true
            }
        }
    }
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("an answer has a status")
}

/// A GET on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    once(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")).await
}

/// A POST without a body on a connection of its own.
pub async fn post(address: SocketAddr, path: &str) -> Answer {
    once(address, &format!("POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")).await
}

/// A request without a body to a listener for operators that needs the secret in this file.
pub async fn operate(address: SocketAddr, method: &str, path: &str, secret: &Path) -> Answer {
    let secret = std::fs::read_to_string(secret).expect("the secret is there");
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {secret}\r\n");
    once(address, &format!("{head}connection: close\r\ncontent-length: 0\r\n\r\n")).await
}

/// One message to `/mcp` on a connection of its own.
pub async fn message(address: SocketAddr, body: &str) -> Answer {
    let mut connection = Connection::open(address).await;
    connection.send_message(body, "connection: close\r\n").await;
    connection.answer().await
}

async fn once(address: SocketAddr, request: &str) -> Answer {
    let mut connection = Connection::open(address).await;
    connection.send(request.as_bytes()).await;
    let mut answer = connection.answer().await;
    if answer.body.is_empty() {
        answer.body = connection.read_to_end().await;
    }
    answer
}

/// What `search_appointments` answers on a connection of its own.
pub async fn search(address: SocketAddr) -> Value {
    let params = json!({ "name": "search_appointments", "arguments": { "userId": "ada" } });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    message(address, &body.to_string()).await.json()
}
