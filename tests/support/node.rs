//! The official TypeScript clients and the conformance suite, run by the Node.js that came with them.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// How long a client may take for anything. Generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// A client that stays: it tells events, one JSON line each, and makes a call for each line it is given.
#[derive(Debug)]
pub struct Held {
    child: Child,
    calls: Option<ChildStdin>,
    events: Lines<BufReader<ChildStdout>>,
    told: Vec<Value>,
}

impl Held {
    /// Starts a script of `tests/clients` under `--hold`.
    pub async fn start(script: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(clients("node_modules/.bin/node"));
        command.arg(clients(script)).arg("--hold").args(arguments);
        Self::spawn(command)
    }

    /// Starts a client by its own command. Its stderr goes where the command says.
    ///
    /// # Panics
    /// When its program is missing.
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}: `./dev test` installs what is missing"));
        let calls = child.stdin.take();
        let events = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Self { child, calls, events, told: Vec::new() }
    }

    /// Begins a call with these arguments.
    pub async fn call(&mut self, arguments: &Value) {
        let calls = self.calls.as_mut().expect("stdin is piped");
        calls.write_all(format!("{arguments}\n").as_bytes()).await.expect("the client reads");
    }

    /// Waits for the next event of one of these names.
    pub async fn event(&mut self, names: &[&str]) -> Value {
        let next = async {
            loop {
                let line = self.events.next_line().await.expect("events are text").expect("the client tells more");
                let event: Value = serde_json::from_str(&line).expect("an event is JSON");
                self.told.push(event.clone());
                if names.iter().any(|name| event["event"] == *name) {
                    return event;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, next).await {
            Ok(event) => event,
            Err(_) => panic!("none of {names:?} came, but {:#?}", self.told),
        }
    }

    /// The result of the call that is answered next.
    pub async fn result(&mut self) -> Value {
        let event = self.event(&["call-ok", "call-error"]).await;
        assert_eq!(event["event"], "call-ok", "{event:#}");
        event["result"].clone()
    }

    /// Closes a client that was spawned with a piped stderr, and waits for its end. Returns its last event, `closed`, and
    /// everything it wrote to stderr.
    ///
    /// # Panics
    /// When it does not exit with 0.
    pub async fn close(mut self) -> (Value, String) {
        self.calls = None;
        let closed = self.event(&["closed"]).await;
        let output = tokio::time::timeout(PATIENCE, self.child.wait_with_output()).await;
        let output = output.expect("a closed client exits").expect("a child can be waited for");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {stderr}", output.status);
        (closed, stderr)
    }

    /// Lets it leave, and waits for that.
    pub async fn leave(mut self) {
        self.calls = None;
        self.event(&["closed"]).await;
        // Closed, the 2025 client of the SDK still asks for the streams that it lost, so it does not end by itself.
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }
}
