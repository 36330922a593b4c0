//! The local platform under test: `rollout local up` as a process, and `rollout` commands given to it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    command::{self, Ended, Running, signal},
    http::{get, operate},
    postgres::{self, DataDir},
    server::binary,
};

/// How long a test waits for what ought to happen at once. Generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A platform, its door, and whatever runs behind it. All of it is gone with the test.
#[derive(Debug)]
pub struct Local {
    data: DataDir,
    /// The `rollout` that commands are given by.
    program: PathBuf,
    door: Option<Child>,
    address: SocketAddr,
    operations: SocketAddr,
}

impl Local {
    /// Starts it with this program as blue.
    pub async fn up(image: &Path, environment: &[(&str, &str)], replicas: u32) -> Self {
        Self::up_by(binary("rollout"), image, environment, replicas).await
    }

    /// The same by a `rollout` of another build, which is then the one that commands are given by.
    pub async fn up_by(program: PathBuf, image: &Path, environment: &[(&str, &str)], replicas: u32) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut local = Self { data: DataDir::new(), program, door: None, address: free, operations: free };
        let mut arguments = vec![image.display().to_string(), "--replicas".to_owned(), replicas.to_string()];
        for (name, value) in environment {
            arguments.extend(["--env".to_owned(), format!("{name}={value}")]);
        }
        local.open(&arguments).await;
        local.until("blue is ready", |seen| seen["blue"]["ready"] == replicas).await;
        local
    }

    /// Kills the door, and not what is behind it; opens it again where it was.
    pub async fn kill_and_open_again(&mut self) {
        let mut door = self.door.take().expect("it is open");
        door.kill().await.expect("it is ours to kill");
        self.open(&[]).await;
    }

    /// Replaces `rollout` by another build of it, while the colors run on.
    pub async fn replace_tool(&mut self, program: PathBuf) {
        self.program = program;
        self.kill_and_open_again().await;
    }

    /// Opens it after its end, where it was.
    pub async fn up_again(&mut self) {
        self.open(&[]).await;
    }

    /// Ends it as Ctrl-C does, colors included.
    pub async fn down(&mut self) -> Option<i32> {
        let mut door = self.door.take().expect("it is open");
        signal("TERM", door.id().expect("it has not been waited for"));
        tokio::time::timeout(PATIENCE, door.wait()).await.expect("it ends").expect("a child can be waited for").code()
    }

    async fn open(&mut self, arguments: &[String]) {
        let mut command = self.command();
        command.args(["local", "up", "--listen", &self.address.to_string()]);
        command.args(["--operations-listen", &self.operations.to_string()]).args(arguments);
        let mut door = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the platform starts");
        let opened = opened(&mut door, PATIENCE).await;
        (self.address, self.operations, self.door) = (opened.0, opened.1, Some(door));
    }

    /// Where clients come in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators come in.
    pub fn operations(&self) -> SocketAddr {
        self.operations
    }

    /// Where it keeps everything.
    pub fn state(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    /// What operators of the platform bring.
    pub fn secret(&self) -> PathBuf {
        self.data.path().join("front.secret")
    }

    fn command(&self) -> Command {
        let mut command = command::rollout_at(&self.program);
        command.arg("--state").arg(self.data.path());
        command
    }

    /// Begins a `rollout` command.
    pub fn begin(&self, arguments: &[&str]) -> Running {
        let mut command = self.command();
        command.arg("--json").args(arguments);
        Running::start(command)
    }

    /// Gives a `rollout` command, to its end.
    pub async fn rollout(&self, arguments: &[&str]) -> Ended {
        self.begin(arguments).end().await
    }

    /// Gives a `rollout` command whose words go where ours go. Whether it did what it should.
    pub async fn shown(&self, arguments: &[&str]) -> bool {
        let mut command = self.command();
        command.args(arguments).kill_on_drop(true);
        command.status().await.expect("the command starts").success()
    }

    /// What `rollout status` sees, with the number of each color's replicas in service.
    pub async fn seen(&self) -> Value {
        let secret = self.secret();
        // The platform of an older build has none.
        let mut seen = if secret.exists() {
            operate(self.operations, "GET", "/platform", &secret).await.json()
        } else {
            get(self.operations, "/platform").await.json()
        };
        for color in ["blue", "green"] {
            let addresses = seen["routing"][color].as_array().map_or(0, Vec::len);
            seen[color]["ready"] = addresses.into();
        }
        seen
    }

    /// Waits until the platform looks like that.
    pub async fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let seen = self.seen().await;
            if condition(&seen) {
                return seen;
            }
            assert!(begun.elapsed() < PATIENCE, "it took too long until {what}: {seen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills a color's processes.
    pub async fn kill(&self, color: &str) {
        for process in self.seen().await[color]["processes"].as_array().into_iter().flatten() {
            signal("KILL", u32::try_from(process["pid"].as_u64().expect("it has a pid")).expect("it is one"));
        }
    }

    /// The one value that a query gives, as text.
    pub async fn query(&self, sql: &'static str) -> String {
        postgres::value(self.data.path().join("database"), sql).await
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // The colors outlive the door by design, and not the test.
        let colors = std::fs::read(self.data.path().join("colors.json")).unwrap_or_default();
        let colors: Value = serde_json::from_slice(&colors).unwrap_or_default();
        if let Some(mut door) = self.door.take() {
            let _ = door.start_kill();
        }
        for color in ["blue", "green"] {
            for process in colors[color]["processes"].as_array().into_iter().flatten() {
                let _ = std::process::Command::new("kill").args(["-KILL", &process["pid"].to_string()]).status();
            }
        }
        postgres::end(&self.data.path().join("database"));
    }
}

/// Where a door says that it listens, for clients and for operators. Its stderr is read on.
pub async fn opened(door: &mut Child, within: Duration) -> (SocketAddr, SocketAddr) {
    let mut lines = BufReader::new(door.stderr.take().expect("stderr is piped")).lines();
    let opened = async {
        while let Some(line) = lines.next_line().await.expect("a log is text") {
            if let Some((_, rest)) = line.split_once("listens on http://") {
                let (address, operations) = rest.split_once(", operations on http://").expect("it logs both addresses");
                let parse = |word: &str| word.parse().expect("it logs addresses");
                return (parse(address), parse(operations));
            }
        }
        panic!("the door does not open")
    };
    let opened = tokio::time::timeout(within, opened).await.expect("the door opens");
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    opened
}
