//! The official TypeScript clients and the conformance suite, run by the Node.js that came with them.

use std::{path::PathBuf, process::Output};

use serde_json::Value;
use tokio::process::Command;

/// A file of `tests/clients`.
pub fn clients(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients").join(path)
}

/// Runs a script of `tests/clients`, or one of its packages.
pub async fn node(script: &str, arguments: &[&str]) -> Output {
    let node = clients("node_modules/.bin/node");
    assert!(node.exists(), "the official clients are not installed: run `./dev test`, which installs them");
    Command::new(node).arg(clients(script)).args(arguments).kill_on_drop(true).output().await.expect("Node.js starts")
}

/// Runs a client script and reads the one JSON document it prints.
pub async fn client(script: &str, arguments: &[&str]) -> Value {
    let output = node(script, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{script} {arguments:?}: {error}\n{text}\n{}", String::from_utf8_lossy(&output.stderr)))
}
