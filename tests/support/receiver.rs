//! Somebody who is told, or asked: an HTTP server that keeps what it hears and answers what it was given.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A receiver.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    heard: watch::Receiver<Vec<Heard>>,
    answers: Arc<Mutex<Vec<(u16, String)>>>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Heard {
    /// `POST /alerts`
    pub line: String,
    /// Its headers, as they came.
    pub headers: String,
    /// Its body, if it is JSON.
    pub body: Value,
    /// Its body, whatever it is.
    pub bytes: Vec<u8>,
}

impl Receiver {
    /// Opens one that answers 200.
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (tell, heard) = watch::channel(Vec::new());
        let answers = Arc::new(Mutex::new(Vec::new()));
        let (tell, given) = (Arc::new(tell), answers.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(hear(stream, tell.clone(), given.clone()));
            }
        });
        Self { address, heard, answers }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers so, one after the other; the last one stays.
    pub fn answers(&self, answers: &[(u16, &str)]) {
        *self.answers.lock().expect("nobody panics with it") =
            answers.iter().rev().map(|(status, body)| (*status, (*body).to_owned())).collect();
    }

    /// What it has heard, once it is this much.
    pub async fn heard(&self, count: usize) -> Vec<Heard> {
        let mut heard = self.heard.clone();
        let enough = heard.wait_for(|heard| heard.len() >= count);
        let enough = tokio::time::timeout(Duration::from_secs(30), enough).await.expect("somebody tells it");
        enough.expect("it is open").clone()
    }
}

async fn hear(stream: TcpStream, tell: Arc<watch::Sender<Vec<Heard>>>, answers: Arc<Mutex<Vec<(u16, String)>>>) {
    let mut stream = BufReader::new(stream);
    let (mut line, mut headers, mut length) = (String::new(), String::new(), 0);
    if stream.read_line(&mut line).await.unwrap_or_default() == 0 {
        return;
    }
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header).await.is_err() || header.trim().is_empty() {
            break;
        }
        headers.push_str(&header);
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length is a number");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("the body comes");
    let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
    let heard = Heard { line, headers, body: serde_json::from_slice(&body).unwrap_or_default(), bytes: body };
    tell.send_modify(|all| all.push(heard));
    let (status, answer) = {
        let mut answers = answers.lock().expect("nobody panics with it");
        if answers.len() > 1 { answers.pop() } else { answers.last().cloned() }.unwrap_or_else(|| (200, "ok".to_owned()))
    };
    let text = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}", answer.len());
    let _ = stream.write_all(text.as_bytes()).await;
}
