//! The targets behind a balancer, and how they are: the harness's own truth, because moto calls everybody healthy.
//!
//! What must stay true: a target that is deregistered is `draining` for the whole delay, and nobody new is sent there.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::task::{PORTS, free_address};

/// The targets of every group. Clones are the same.
#[derive(Clone, Debug)]
pub struct Targets {
    groups: Arc<watch::Sender<Groups>>,
}

/// By the ARN of their group.
pub type Groups = BTreeMap<String, Vec<Target>>;

/// One target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is.
    pub state: State,
    /// Answers to health checks in a row that speak against the state.
    against: u32,
}

/// How a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not answered yet.
    Initial,
    /// It gets requests.
    Healthy,
    /// It gets requests only while nobody of its group is healthy.
    Unhealthy,
    /// It finishes what it began.
    Draining,
}

/// A target that the harness answers as, where many are needed and one program for each would be too many. Nobody listens until
/// it is opened, and nobody any more once it is dropped.
#[derive(Debug)]
pub struct Stub {
    ip: Ipv4Addr,
    color: String,
    listening: JoinSet<()>,
}

/// So many answers in a row make a target unhealthy, or healthy again. The first good one makes a new target healthy.
const THRESHOLD: u32 = 2;

// === impl Targets ===

impl Targets {
    /// Nobody yet.
    pub fn new() -> Self {
        Self { groups: Arc::new(watch::Sender::new(Groups::new())) }
    }

    /// How they all are, at every moment.
    pub fn watch(&self) -> watch::Receiver<Groups> {
        self.groups.subscribe()
    }

    /// Adds one.
    pub fn register(&self, group: &str, address: SocketAddr) {
        self.groups.send_modify(|groups| {
            let targets = groups.entry(group.to_owned()).or_default();
            targets.retain(|target| target.address != address);
            targets.push(Target { address, state: State::Initial, against: 0 });
        });
    }

    /// Sends nobody there any more, and forgets it after this long. Comes back when it is forgotten.
    pub async fn deregister(&self, group: &str, ip: Ipv4Addr, delay: Duration) {
        self.change(group, ip, |target| target.state = State::Draining);
        tokio::time::sleep(delay).await;
        self.groups.send_modify(|groups| {
            groups.entry(group.to_owned()).or_default().retain(|target| target.address.ip() != ip);
        });
    }

    /// How one is; `None` when nobody knows it.
    pub fn state(&self, group: &str, ip: Ipv4Addr) -> Option<State> {
        self.groups.borrow().get(group)?.iter().find(|target| target.address.ip() == ip).map(|target| target.state)
    }

    /// Whether one gets requests, of whatever group.
    pub fn is_healthy(&self, ip: Ipv4Addr) -> bool {
        let groups = self.groups.borrow();
        groups.values().flatten().any(|target| target.address.ip() == ip && target.state == State::Healthy)
    }

    /// Writes down what a health check came to.
    pub fn checked(&self, group: &str, address: SocketAddr, is_good: bool) {
        self.groups.send_if_modified(|groups| {
            let targets = groups.get_mut(group).into_iter().flatten();
            let Some(target) = targets.into_iter().find(|target| target.address == address) else { return false };
            let before = target.state;
            target.check(is_good);
            target.state != before
        });
    }

    fn change(&self, group: &str, ip: Ipv4Addr, change: impl FnOnce(&mut Target)) {
        self.groups.send_modify(|groups| {
            let targets = groups.get_mut(group).into_iter().flatten();
            targets.into_iter().find(|target| target.address.ip() == ip).map(change);
        });
    }
}

impl Default for Targets {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Target ===

impl Target {
    fn check(&mut self, is_good: bool) {
        let speaks_against = match self.state {
            State::Draining => return,
            State::Initial | State::Unhealthy => is_good,
            State::Healthy => !is_good,
        };
        self.against = if speaks_against { self.against + 1 } else { 0 };
        let needed = if self.state == State::Initial { 1 } else { THRESHOLD };
        if self.against >= needed {
            self.against = 0;
            self.state = if is_good { State::Healthy } else { State::Unhealthy };
        }
    }
}

// === impl Stub ===

impl Stub {
    pub(super) fn new(targets: &Targets, group: &str, color: &str) -> Self {
        let ip = free_address();
        targets.register(group, SocketAddr::from((ip, PORTS[0])));
        Self { ip, color: color.to_owned(), listening: JoinSet::new() }
    }

    /// Answers from now on that all is well.
    pub async fn open(&mut self) {
        for port in PORTS {
            let socket = TcpListener::bind((self.ip, port)).await.expect("the address is nobody's");
            let answer =
                format!("HTTP/1.1 200 OK\r\nrelease-color: {}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}", self.color);
            self.listening.spawn(async move {
                while let Ok((stream, _)) = socket.accept().await {
                    let _ = say(stream, &answer).await;
                }
            });
        }
    }

    /// Is there no more.
    pub fn close(&mut self) {
        self.listening.abort_all();
    }
}

/// Reads one request, which has no body, and answers it.
async fn say(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(answer.as_bytes()).await
}

// === impl State ===

impl State {
    /// As AWS says it: the state, and the reason for it if it has one.
    pub fn words(self) -> (&'static str, Option<(&'static str, &'static str)>) {
        match self {
            Self::Initial => ("initial", Some(("Elb.RegistrationInProgress", "Target registration is in progress"))),
            Self::Healthy => ("healthy", None),
            Self::Unhealthy => ("unhealthy", Some(("Target.FailedHealthChecks", "Health checks failed"))),
            Self::Draining => ("draining", Some(("Target.DeregistrationInProgress", "Target deregistration is in progress"))),
        }
    }
}
