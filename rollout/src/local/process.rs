//! One replica as a process of its own, which outlives whoever started it.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use bg_runtime::Color;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::driver::Image;

/// A process that was started here, or by an earlier life.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    /// Its place among the color's replicas.
    pub(crate) number: u32,
    pub(crate) pid: i32,
    /// When the kernel started it, in its own clock: a process id is given out again.
    born: Option<u64>,
    pub(crate) generation: u64,
    address: Option<SocketAddr>,
    operations: Option<SocketAddr>,
    log: PathBuf,
    /// Until when it may take its time, once it was told to stop.
    pub(crate) told_to_stop: Option<SystemTime>,
    /// Ours to wait for, if this life started it.
    #[serde(skip)]
    child: Option<Child>,
}

/// What a look at a process showed.
#[derive(Debug)]
pub(crate) enum State {
    Alive,
    /// It ended: how, and its last words.
    Gone(String),
}

/// Of a process that ended, this much is told.
const LAST_WORDS: u64 = 600;

// === impl Process ===

impl Process {
    /// Starts a replica. Its log begins anew.
    pub(crate) fn start(color: Color, number: u32, image: &Image, generation: u64, directory: &Path) -> io::Result<Self> {
        let log = directory.join(format!("{color}-{number}.log"));
        let file = File::create(&log)?;
        let mut command = Command::new(&image.name);
        command.envs(super::environment(color, image, directory));
        // LISTEN says it, and a server that is told both refuses.
        command.env_remove("PORT");
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // Of its own group, so that Ctrl-C at the door's terminal does not reach it.
        let child = command.process_group(0).spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Self {
            number,
            pid,
            born: born(pid),
            generation,
            address: None,
            operations: None,
            log,
            told_to_stop: None,
            child: Some(child),
        })
    }

    /// Whether it lives. One that was told to stop and does not is killed when its time is over.
    pub(crate) fn look(&mut self) -> State {
        let ended = match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(Some(status)) => Some(format!("ended with {status}")),
                _ => None,
            },
            // Another life's child: whoever inherits it waits for it.
            None if born(self.pid) != self.born || self.born.is_none() && !exists(self.pid) => Some("ended".to_owned()),
            None => None,
        };
        if let Some(how) = ended {
            let words = format!("{} {how}", self.number);
            return State::Gone(match self.last_words() {
                said if said.is_empty() => words,
                said => format!("{words}: {said}"),
            });
        }
        if self.told_to_stop.is_some_and(|until| SystemTime::now() > until) {
            tracing::warn!("process {} did not stop in time and is killed", self.pid);
            self.signal(Signal::KILL);
        }
        State::Alive
    }

    /// Tells it to stop, once.
    pub(crate) fn stop(&mut self, within: Duration) {
        if self.told_to_stop.is_none() {
            self.told_to_stop = Some(SystemTime::now() + within);
            self.signal(Signal::TERM);
        }
    }

    /// Where it listens: for clients, and for operators. `None` until it says so.
    pub(crate) fn addresses(&mut self) -> Option<(SocketAddr, SocketAddr)> {
        if self.address.is_none() {
            let log = std::fs::read_to_string(&self.log).ok()?;
            // `… listens on http://127.0.0.1:3000, operations on http://127.0.0.1:9464`
            let after = |mark: &str| {
                let rest = log.split_once(mark)?.1;
                let end = rest.find(|byte: char| byte != '.' && byte != ':' && !byte.is_ascii_digit()).unwrap_or(rest.len());
                rest[..end].parse().ok()
            };
            self.operations = after("operations on http://");
            self.address = after("listens on http://");
        }
        Some((self.address?, self.operations?))
    }

    fn signal(&self, signal: Signal) {
        // Looked at just before: it is still the one that was started.
        if born(self.pid) == self.born
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn last_words(&self) -> String {
        let read = || {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
            let mut words = Vec::new();
            file.read_to_end(&mut words)?;
            io::Result::Ok(String::from_utf8_lossy(&words).into_owned())
        };
        let words = read().unwrap_or_default();
        words.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev().map(crate::plain).collect::<Vec<_>>().join(" / ")
    }
}

impl Clone for Process {
    /// The clone is another life's: it cannot be waited for.
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), child: None, ..*self }
    }
}

fn exists(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// When the kernel started a process that lives; `None` where there is no /proc, or when it is gone.
pub(crate) fn born(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}
