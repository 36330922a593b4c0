//! The Python clients: fastmcp, the official SDK, and an agent framework, in the virtual environments that `./dev test` makes
//! of the requirements in `tests/python`.

use std::{fmt, path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::node::{Held, clients};

/// One of the clients that `session.py` can be.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    /// Which virtual environment: `current` or `previous` major versions.
    pub releases: &'static str,
    /// Which library: `fastmcp`, `mcp`, or `agents`.
    pub name: &'static str,
    /// How it negotiates the protocol, where it has a choice: `auto` or `legacy`.
    pub mode: Option<&'static str>,
}

/// A client that is connected.
#[derive(Debug)]
pub struct Session {
    library: Library,
    held: Held,
    /// What it reported about the server: `library`, `protocolVersion`, `tools`, `resources`, `prompts`, `read`.
    pub connected: Value,
}

// === impl Library ===

impl Library {
    /// Every library, in every mode it has.
    pub const ALL: [Self; 8] = [
        Self { releases: "current", name: "fastmcp", mode: Some("auto") },
        Self { releases: "current", name: "fastmcp", mode: Some("legacy") },
        Self { releases: "current", name: "mcp", mode: Some("auto") },
        Self { releases: "current", name: "mcp", mode: Some("legacy") },
        Self { releases: "current", name: "agents", mode: None },
        Self { releases: "previous", name: "fastmcp", mode: None },
        Self { releases: "previous", name: "mcp", mode: None },
        Self { releases: "previous", name: "agents", mode: None },
    ];

    /// The protocol version that it and a server of ours agree on.
    pub fn protocol_version(&self) -> &'static str {
        match (self.releases, self.mode) {
            ("current", Some("auto") | None) => "2026-07-28",
            _ => "2025-11-25",
        }
    }

    /// Connects a client, which lists everything that the server has.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn connect(self, url: &str) -> Session {
        let environment = format!("../.dev/clients-{}", self.releases);
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(environment).join("bin/python");
        assert!(python.exists(), "{} is missing: run `./dev test`, which installs the Python clients", python.display());
        let mut command = Command::new(python);
        command.arg(clients("python/session.py")).args([self.name, "--url", url]).stderr(Stdio::piped());
        if let Some(mode) = self.mode {
            command.args(["--mode", mode]);
        }
        let mut held = Held::spawn(command);
        let connected = held.event(&["connected"]).await;
        Session { library: self, held, connected }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.releases, self.name, self.mode.unwrap_or_default())
    }
}

// === impl Session ===

impl Session {
    /// Calls a tool and returns its result.
    ///
    /// # Panics
    /// When the call or the tool fails.
    pub async fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        self.held.call(&json!({ "tool": tool, "arguments": arguments })).await;
        let result = self.held.result().await;
        assert_eq!(result["isError"], false, "{}: {tool}: {result:#}", self.library);
        result
    }

    /// Closes it. Returns what it complained of: records at WARNING and above, Python warnings, and lines on stderr.
    ///
    /// # Panics
    /// When it does not exit with 0.
    pub async fn close(self) -> Vec<String> {
        let (closed, stderr) = self.held.close().await;
        let logged = closed["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        logged.chain(stderr.lines()).map(|line| format!("{}: {line}", self.library)).collect()
    }
}
