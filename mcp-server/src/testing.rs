//! The application in a test: the same [`App`], on a free port, spoken to over a real connection.

mod judge;

use std::net::SocketAddr;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

pub use self::judge::flaw;
use crate::{
    App, HttpConfig, Running, StartError,
    http::body::{Held, Piece},
};

/// An application under test.
#[derive(Debug)]
pub struct Server {
    running: Running,
}

/// What came back for one HTTP request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body, as it came.
    pub body: String,
}

/// Starts the application on free ports and waits until it is ready.
///
/// # Errors
/// As [`App::start`].
pub async fn start<S: Clone + Send + Sync + 'static>(app: App<S>) -> Result<Server, StartError> {
    start_with(app, HttpConfig::default()).await
}

/// The same with a configuration, of which [`HttpConfig::default`] has free ports.
///
/// # Errors
/// As [`App::start`].
pub async fn start_with<S: Clone + Send + Sync + 'static>(app: App<S>, config: HttpConfig) -> Result<Server, StartError> {
    let running = app.start(config).await?;
    running.ready().await;
    Ok(Server { running })
}

impl Server {
    /// Where it is: `http://127.0.0.1:…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.running.address())
    }

    /// The running application.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The result of a tool.
    ///
    /// # Panics
    /// When the answer is no JSON-RPC result.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// The result of a request.
    ///
    /// # Panics
    /// When the answer is no JSON-RPC result.
    pub async fn ask(&self, method: &str, params: Value) -> Value {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let answer = self.post(&message).await;
        let body: Value = serde_json::from_str(&answer.body).expect("an answer is JSON");
        body.get("result").cloned().unwrap_or_else(|| panic!("no result: {body}"))
    }

    /// A POST of this body to `/mcp`, without a header more than HTTP wants.
    pub async fn post(&self, body: &str) -> Answer {
        let head = format!("POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
        exchange(self.running.address(), &head, body).await
    }

    /// A POST of this body to `/mcp` that goes through no socket, with these headers besides the host: for benchmarks.
    ///
    /// # Panics
    /// When a header is none.
    pub async fn within(&self, body: Bytes, headers: &[(&str, &str)]) -> Bytes {
        let request = headers
            .iter()
            .fold(Request::post("/mcp").header("host", "localhost"), |request, (name, value)| request.header(*name, *value))
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("a request has headers that are some");
        let answer = self.running.door().answer(request).await;
        axum::body::to_bytes(answer.into_body().into_body(), usize::MAX).await.unwrap_or_default()
    }

    /// One request to any public door, through no socket and through all that is done around an answer. The body of the answer
    /// comes as it is made, and may have no end.
    pub async fn handle(&self, request: Request<Full<Bytes>>) -> Response<Body> {
        let answering = self.running.edge().watch().answering();
        // In a box, or the type of a test's own future grows beyond what the compiler follows.
        let answered = Box::pin(self.running.edge().respond(request, answering)).await;
        answered.map(|body: Held| Body::new(body.map_frame(|frame| frame.map_data(Piece::into_bytes))))
    }

    /// Serves a connection, which speaks HTTP/1.1 or HTTP/2, until it ends.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        Box::pin(self.running.edge().clone().serve(stream)).await;
    }

    /// A GET.
    pub async fn get(&self, path: &str) -> Answer {
        exchange(self.running.address(), &format!("GET {path} HTTP/1.1"), "").await
    }

    /// Leaves, and says how it went.
    pub async fn stop(self) -> bg_runtime::lifecycle::Drained {
        self.running.depart("the test is over", std::future::pending()).await
    }
}

/// One request on a connection of its own. `head` has no empty line at its end.
///
/// # Panics
/// When the server cannot be reached or does not speak HTTP.
pub async fn exchange(address: SocketAddr, head: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    let request = format!("{head}\r\nhost: {address}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("the server answers");
    let text = String::from_utf8(bytes).expect("the answer is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("the answer is HTTP");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("the answer has a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}
