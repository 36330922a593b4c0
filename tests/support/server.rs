//! A server process under test: started on free ports, found by the line it logs, ended with the test in any case.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
};

use crate::{http::get, memory_group::MemoryGroup};

/// How long a test waits for what ought to happen at once. Generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    operations: SocketAddr,
    stderr: watch::Receiver<String>,
    reading: JoinHandle<()>,
}

/// How a server ended.
#[derive(Debug)]
pub struct Exit {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Everything it logged.
    pub stderr: String,
}

/// A binary that cargo built beside this test.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let path = profile.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace --all-targets`, or `./dev test`", path.display());
    path
}

impl Server {
    /// An example of the framework.
    pub async fn example(name: &str, environment: &[(&str, &str)]) -> Self {
        Self::start(binary(&format!("examples/{name}")), environment).await
    }

    /// The appointments server on this database.
    pub async fn appointments(database_url: &str, environment: &[(&str, &str)]) -> Self {
        let mut all = vec![("DATABASE_URL", database_url)];
        all.extend_from_slice(environment);
        Self::start(binary("mcp-server"), &all).await
    }

    /// A process on free ports of 127.0.0.1, ready or not. Nothing of the test's own environment reaches it but PATH.
    pub async fn start(binary: PathBuf, environment: &[(&str, &str)]) -> Self {
        Self::spawn(Command::new(&binary), &binary, environment).await
    }

    /// The same in a group whose memory is limited, from its first instruction on.
    pub async fn start_in(group: &MemoryGroup, binary: PathBuf, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$1\""]).arg(group.processes()).arg(&binary);
        Self::spawn(command, &binary, environment).await
    }

    async fn spawn(mut command: Command, binary: &Path, environment: &[(&str, &str)]) -> Self {
        let mut child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([("LISTEN", "127.0.0.1:0"), ("OPERATIONS_LISTEN", "127.0.0.1:0"), ("LOG", "info")])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()));
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let (said, stderr) = watch::channel(String::new());
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                said.send_modify(|all| {
                    all.push_str(&line);
                    all.push('\n');
                });
            }
        });
        let mut heard = stderr.clone();
        let listening = heard.wait_for(|all| all.contains("operations on http://"));
        let heard = tokio::time::timeout(PATIENCE, listening).await;
        assert!(matches!(heard, Ok(Ok(_))), "{} did not say where it listens:\n{}", binary.display(), *stderr.borrow());
        drop(heard);
        let said = stderr.borrow().clone();
        let [address, operations] =
            ["listens on http://", "operations on http://"].map(|mark| after(&said, mark).parse().expect("it logs addresses"));
        let server = Self { child, address, operations, stderr, reading };
        server.until("the listener answers", async || get(server.address, "/health").await.status == 200).await;
        server
    }

    /// Waits until `/ready` says 200.
    pub async fn ready(self) -> Self {
        self.until("it is ready", async || get(self.address, "/ready").await.status == 200).await;
        self
    }

    /// Where clients come in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators come in.
    pub fn operations(&self) -> SocketAddr {
        self.operations
    }

    /// The MCP endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the process has not been waited for")
    }

    /// What it has logged so far.
    pub fn stderr(&self) -> String {
        self.stderr.borrow().clone()
    }

    /// Sends a signal by name: `TERM`, `KILL`.
    pub fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits until this much is in flight.
    pub async fn holds(&self, calls: u64, streams: u64) {
        self.until(&format!("{calls} calls and {streams} streams are in flight"), async || {
            let drainage = get(self.operations, "/drainage").await.json();
            drainage["calls"] == calls && drainage["streams"] == streams
        })
        .await;
    }

    /// Waits until this many calls are in flight, whatever streams there are.
    pub async fn calls(&self, calls: u64) {
        self.until(&format!("{calls} calls are in flight"), async || {
            get(self.operations, "/drainage").await.json()["calls"] == calls
        })
        .await;
    }

    /// Waits until it has logged that it came to this stage.
    pub async fn is_at(&self, stage: &str) {
        let mut stderr = self.stderr.clone();
        let arrived = stderr.wait_for(|all| all.contains(&format!("-> {stage}:")));
        let arrived = tokio::time::timeout(PATIENCE, arrived).await;
        assert!(matches!(arrived, Ok(Ok(_))), "it never came to {stage}:\n{}", self.stderr());
    }

    /// Opens the gate of `examples/slow.rs`: its calls are answered.
    pub fn release_calls(&self) {
        self.signal("USR1");
    }

    /// Waits for its end.
    pub async fn exit(mut self, within: Duration) -> Exit {
        let status = tokio::time::timeout(within, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it did not end within {within:?}:\n{}", self.stderr()));
        let _ = (&mut self.reading).await;
        Exit { code: status.expect("a child can be waited for").code(), stderr: self.stderr() }
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("Linux says what a process uses");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("and says VmRSS");
        line.trim().trim_end_matches(" kB").parse().expect("in kB")
    }

    /// How many files and sockets it has open, once that stays the same: a connection that its client has closed is there for a
    /// moment longer.
    pub async fn descriptors(&self) -> usize {
        let (mut count, mut since) = (self.descriptors_now(), Instant::now());
        while since.elapsed() < Duration::from_millis(200) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = self.descriptors_now();
            if std::mem::replace(&mut count, now) != now {
                since = Instant::now();
            }
        }
        count
    }

    fn descriptors_now(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("Linux says what a process has open").count()
    }

    /// Waits until it has so many open.
    pub async fn has_descriptors(&self, count: usize) {
        self.until(&format!("it has {count} files open"), async || self.descriptors_now() == count).await;
    }

    async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let started = Instant::now();
        while !condition().await {
            assert!(started.elapsed() < PATIENCE, "it took too long until {what}:\n{}", self.stderr());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    let rest = text.split(mark).nth(1).unwrap_or_default();
    rest.split(|byte: char| byte == ',' || byte.is_whitespace()).next().unwrap_or_default()
}
