//! `rollout` as a process, whatever the platform: a command that is begun, watched step by step, and waited for.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::server::binary;

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its lines, as JSON.
    pub lines: Vec<Value>,
    /// What it complained of.
    pub stderr: String,
}

/// A command that goes on.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    read: Vec<Value>,
}

/// How long a test waits for what ought to happen at once. Generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// `rollout`, told nothing yet. Nothing of the test's own environment reaches it but PATH and CHROMIUM.
pub fn rollout() -> Command {
    rollout_at(&binary("rollout"))
}

/// The same for a `rollout` of another build.
pub fn rollout_at(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("USER", "ada");
    if let Some(chromium) = std::env::var_os("CHROMIUM") {
        command.env("CHROMIUM", chromium);
    }
    command.stdin(Stdio::null());
    command
}

/// Sends a process a signal by name: `TERM`, `KILL`.
pub fn signal(name: &str, pid: u32) {
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {pid}");
}

// === impl Running ===

impl Running {
    /// Starts `rollout` with what has been said to it so far. Its lines and its complaints are read.
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the command starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Self { child, lines, read: Vec::new() }
    }

    /// Waits until a step of this name begins.
    pub async fn begins(&mut self, step: &str) {
        self.comes_to(step, "begun").await;
    }

    /// Waits until a step of this name has failed.
    pub async fn fails(&mut self, step: &str) {
        self.comes_to(step, "failed").await;
    }

    async fn comes_to(&mut self, step: &str, state: &str) {
        let comes = async {
            loop {
                let line = self.next().await.unwrap_or_else(|| panic!("it ended before {step}: {:?}", self.read));
                if line["step"] == step && line["state"] == state {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, comes).await.unwrap_or_else(|_| panic!("{step} is never {state}: {:?}", self.read));
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        signal(name, self.pid());
    }

    /// Kills it.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it is ours to kill");
    }

    /// Waits for its end.
    pub async fn end(mut self) -> Ended {
        let mut stderr = self.child.stderr.take().expect("stderr is piped");
        let complaints = tokio::spawn(async move {
            let mut text = String::new();
            let _ = tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut text).await;
            text
        });
        let end = async {
            while self.next().await.is_some() {}
            self.child.wait().await.expect("a child can be waited for").code()
        };
        let code = tokio::time::timeout(PATIENCE * 3, end).await.unwrap_or_else(|_| panic!("it does not end: {:?}", self.read));
        Ended { code, lines: self.read, stderr: complaints.await.expect("it is read") }
    }

    async fn next(&mut self) -> Option<Value> {
        let line = self.lines.next_line().await.expect("what it says is text")?;
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.read.push(line.clone());
        Some(line)
    }
}

// === impl Ended ===

impl Ended {
    /// Its last line.
    pub fn last(&self) -> &Value {
        self.lines.last().unwrap_or_else(|| panic!("it said nothing: {}", self.stderr))
    }

    /// What a step came to.
    pub fn step(&self, name: &str) -> &Value {
        let step = self.lines.iter().find(|line| line["step"] == name && line["state"] != "begun");
        step.unwrap_or_else(|| panic!("there is no {name}: {:?} {}", self.lines, self.stderr))
    }

    /// Fails unless it ended so, for this reason.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &str) {
        self.assert(code);
        let reason = self.last()["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(words), "{reason}");
    }

    /// Fails unless it ended so.
    #[track_caller]
    pub fn assert(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{:#?}\n{}", self.lines, self.stderr);
        self
    }
}
