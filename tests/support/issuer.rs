//! An authorization server under test: `tests/clients/issuer.mjs`, found by the line it prints, ended with the test in any case.

use std::{net::SocketAddr, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::{
    http::{Connection, get, post},
    node::clients,
};

/// An authorization server that runs.
#[derive(Debug)]
pub struct Issuer {
    child: Child,
    /// It ends when this does.
    stdin: Option<ChildStdin>,
    address: SocketAddr,
}

impl Issuer {
    /// Starts one, with these options.
    pub async fn start(options: &[&str]) -> Self {
        let mut child = Command::new(clients("node_modules/.bin/node"))
            .arg(clients("issuer.mjs"))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Node.js starts: `./dev test` installs it");
        let stdin = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let line = lines.next_line().await.expect("it prints text").expect("it says where it listens");
        let said: Value = serde_json::from_str(&line).expect("in JSON");
        let address = said["issuer"].as_str().and_then(|issuer| issuer.strip_prefix("http://")?.parse().ok());
        Self { child, stdin, address: address.unwrap_or_else(|| panic!("{said}")) }
    }

    /// Its address, as its tokens say it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A token that says exactly this, right or wrong; `key` is what signs it, see `issuer.mjs`. What is not said is as in a
    /// good one, but `aud`, and what is null is left out.
    pub async fn token(&self, key: &str, header: &Value, claims: &Value) -> String {
        let wish = json!({ "key": key, "header": header, "claims": claims }).to_string();
        let mut connection = Connection::open(self.address).await;
        let head = format!("POST /test/token HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n", self.address, wish.len());
        connection.send(format!("{head}{wish}").as_bytes()).await;
        let answer = connection.answer().await.json();
        answer["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// From now on it signs with another key, and has withdrawn the one before.
    pub async fn rotate(&self) {
        assert_eq!(post(self.address, "/test/rotate").await.status, 200);
    }

    /// How often it was asked for its keys.
    pub async fn asked_for_keys(&self) -> u64 {
        get(self.address, "/test/asked").await.json()["keys"].as_u64().expect("it counts")
    }

    /// Ends it, and waits for that.
    pub async fn leave(mut self) {
        self.stdin = None;
        self.child.wait().await.expect("a child can be waited for");
    }
}
