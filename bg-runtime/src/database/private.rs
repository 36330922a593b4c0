//! The PostgreSQL that we run ourselves when no URL was given, shared by every process that names the same directory.
//!
//! ```text
//! <data_dir>/cluster/         PostgreSQL's own directory
//!            socket/          its Unix socket, or under /tmp when that path is too long for one
//!            start.lock       held exclusively while someone starts, joins or leaves
//!            users.lock       held shared by each user; who can hold it exclusively is the last
//!            postgresql.log
//! ```
//!
//! What must stay true: one directory has at most one server, nobody stops it while another uses it, and a user that dies
//! by kill -9 leaves nothing that the next one cannot take over. The kernel drops the locks of the dead, which is why they
//! are locks and not files with a process id in them.

mod binaries;
mod place;

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

use self::binaries::Binaries;
use self::place::Place;

/// What a private server needs to know.
#[derive(Clone, Debug)]
pub struct PrivateConfig {
    /// The directory for everything of this server.
    pub data_dir: PathBuf,
    /// The directory that holds `initdb` and `postgres`, if the usual places are not meant.
    pub binaries: Option<PathBuf>,
    /// The caller's `PATH`.
    pub path: Option<OsString>,
}

/// A share in a running private server. Given up by [`close`](Self::close), or without waiting when dropped.
#[derive(Debug)]
pub struct PrivateServer {
    config: PrivateConfig,
    place: Place,
    // Locked shared for as long as the server is ours to use.
    users: Option<File>,
}

/// Why there is no private server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateError {
    /// No usable PostgreSQL is installed.
    #[error(
        "no PostgreSQL {} or newer found{found}; set DATABASE_URL, or install one: \
         `apt install postgresql`, `dnf install postgresql-server` or `brew install postgresql`",
        binaries::OLDEST
    )]
    NoBinaries {
        /// What was found instead, as `: …`, or nothing.
        found: String,
    },
    /// The data was written by a PostgreSQL of another major version.
    #[error(
        "{} was made by PostgreSQL {cluster}, and only {installed} is installed; install that version, or move the directory away",
        directory.display()
    )]
    Version {
        /// Where the data is.
        directory: PathBuf,
        /// The version that made it.
        cluster: u32,
        /// The versions we found.
        installed: String,
    },
    /// A file or directory could not be made, read or changed.
    #[error("{} is not usable", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// PostgreSQL refuses to run as root, and the account that it runs as instead cannot reach the data.
    #[error("{} cannot be entered by the account `{account}`, as which PostgreSQL runs when we are root; choose another data directory", path.display())]
    Unreachable {
        /// The first directory that is closed to it.
        path: PathBuf,
        /// Its name.
        account: String,
    },
    /// PostgreSQL refuses to run as root, and there is no account to run it as.
    #[error("PostgreSQL does not run as root, and there is neither an account `postgres` nor `nobody`")]
    NoAccount,
    /// The directory for the socket belongs to somebody else, who could listen in.
    #[error("{} belongs to another account or is open to others", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// Another process has been starting or stopping the server for too long.
    #[error("{} has been locked by another process for too long", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The data directory could not be made.
    #[error("initdb failed: {output}")]
    Initdb {
        /// The end of what it said.
        output: String,
    },
    /// The server did not start.
    #[error("PostgreSQL did not start; the end of {}: {tail}", log.display())]
    Start {
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The server did not stop.
    #[error("PostgreSQL (process {pid}) did not stop in time")]
    Stop {
        /// The postmaster's process id.
        pid: i32,
    },
}

/// What answers on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulse {
    Ready,
    /// Starting, recovering or shutting down.
    Changing,
    Nobody,
}

/// Recovery after a crash is the slowest start. PostgreSQL writes a checkpoint's worth in far less than this.
const START: Duration = Duration::from_secs(30);
/// `initdb` takes about a second; a loaded machine may take twenty.
const INITDB: Duration = Duration::from_secs(60);
/// A fast shutdown ends every statement and writes a checkpoint.
const STOP: Duration = Duration::from_secs(10);
/// A process is gone milliseconds after its last act, unless its parent neglects it.
const REAP: Duration = Duration::from_millis(500);
/// A start takes about 80 ms, so this is soon enough to be felt by nobody and seldom enough to cost nothing.
const POLL: Duration = Duration::from_millis(15);

const USER: &str = "mcp";

/// Small, for it shares a machine with what it serves; durable, for people will keep data in it all the same.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "port=5432",
    "unix_socket_permissions=0700",
    "shared_buffers=16MB",
    // Two colors with a pool of 10 each, during a switch, with as many again for tests and tools.
    "max_connections=50",
    "jit=off",
    // Nobody replicates from here.
    "wal_level=minimal",
    "max_wal_senders=0",
    "autovacuum_max_workers=1",
    "logging_collector=off",
    "lc_messages=C",
    "log_timezone=UTC",
    "timezone=UTC",
];

/// How to log in to the server behind a socket directory.
pub(super) fn login(socket_dir: &Path) -> Config {
    let mut config = Config::new();
    config.host_path(socket_dir).user(USER).dbname("postgres").ssl_mode(tokio_postgres::config::SslMode::Disable);
    config
}

// === impl PrivateServer ===

impl PrivateServer {
    /// Joins the server of a directory, or makes and starts it.
    ///
    /// # Errors
    ///
    /// See [`PrivateError`].
    pub async fn open(config: &PrivateConfig) -> Result<Self, PrivateError> {
        let place = Place::prepare(&config.data_dir)?;
        let start = lock(&place.start_lock()).await?;
        // Only while nobody starts or stops: a user that comes between the last one's check and its stop would lose its server.
        let users = open_lock(&place.users_lock())?;
        users.lock_shared().map_err(|source| PrivateError::File { path: place.users_lock(), source })?;
        let server = Self { config: config.clone(), place, users: Some(users) };
        server.ensure_locked().await?;
        drop(start);
        Ok(server)
    }

    /// Starts the server again should it have died.
    ///
    /// # Errors
    ///
    /// See [`PrivateError`].
    pub async fn ensure(&self) -> Result<(), PrivateError> {
        let _start = lock(&self.place.start_lock()).await?;
        self.ensure_locked().await
    }

    /// The directory of its Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.place.socket
    }

    /// The process id of the postmaster, as it wrote it down.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.place.postmaster_pid()
    }

    /// Leaves the server. The last to leave stops it and waits until it is down.
    ///
    /// # Errors
    ///
    /// [`PrivateError::Stop`] when it does not stop in time, and what else [`PrivateError`] names.
    pub async fn close(mut self) -> Result<(), PrivateError> {
        let _start = lock(&self.place.start_lock()).await?;
        let Some(pid) = self.leave() else { return Ok(()) };
        let mut until = Instant::now() + STOP;
        let mut removed = false;
        while rustix::process::test_kill_process(pid).is_ok() {
            // Removing the file is the last act of a clean shutdown. A process that stays after it waits for a parent that does
            // not ask for its end, which is no reason to wait as well.
            if !removed && self.place.postmaster_pid() != Some(pid.as_raw_pid()) {
                removed = true;
                until = until.min(Instant::now() + REAP);
            }
            match Instant::now() >= until {
                true if removed => break,
                true => return Err(PrivateError::Stop { pid: pid.as_raw_pid() }),
                false => tokio::time::sleep(POLL).await,
            }
        }
        tracing::info!(database.pid = pid.as_raw_pid(), "the private PostgreSQL server was stopped by its last user");
        Ok(())
    }

    /// Gives up our share, under the start lock, and tells the server to stop when it was the last.
    fn leave(&mut self) -> Option<Pid> {
        let users = self.users.take()?;
        users.try_lock().ok()?;
        // A file that a killed server left may name a process that has nothing to do with us. Only a server that answers on
        // our socket wrote it.
        UnixStream::connect(self.place.socket_file()).ok()?;
        let pid = Pid::from_raw(self.place.postmaster_pid()?)?;
        // SIGINT is PostgreSQL's fast shutdown: statements are ended, nothing is lost.
        rustix::process::kill_process(pid, Signal::INT).ok()?;
        Some(pid)
    }

    async fn ensure_locked(&self) -> Result<(), PrivateError> {
        let until = Instant::now() + START;
        if self.settled(until).await? == Pulse::Ready {
            return Ok(());
        }
        let cluster = self.place.cluster_version()?;
        let binaries = Binaries::find(&self.config, &self.place, cluster).await?;
        if cluster.is_none() {
            self.initialize(&binaries).await?;
        }
        loop {
            let log_begin = self.log_length();
            let mut exit = self.spawn(&binaries)?;
            loop {
                match pulse(&self.place).await {
                    Pulse::Ready => {
                        tracing::info!(
                            database.pid = self.pid(),
                            database.version = binaries.version,
                            "a private PostgreSQL server was started in {}",
                            self.place.root.display()
                        );
                        return Ok(());
                    }
                    _ if Instant::now() >= until => return Err(self.not_started(log_begin)),
                    _ => {}
                }
                if tokio::time::timeout(POLL, &mut exit).await.is_ok() {
                    break;
                }
            }
            // After a kill -9 the dead server's children need a moment to notice, and until then hold its memory.
            let tail = self.log_since(log_begin);
            let passing = tail.contains("shared memory block") || tail.contains("lock file");
            if !passing || Instant::now() >= until {
                return Err(self.not_started(log_begin));
            }
            tokio::time::sleep(POLL * 4).await;
        }
    }

    /// What answers once it is done starting up or shutting down.
    async fn settled(&self, until: Instant) -> Result<Pulse, PrivateError> {
        loop {
            match pulse(&self.place).await {
                Pulse::Changing if Instant::now() >= until => return Err(self.not_started(0)),
                Pulse::Changing => tokio::time::sleep(POLL).await,
                settled => return Ok(settled),
            }
        }
    }

    async fn initialize(&self, binaries: &Binaries) -> Result<(), PrivateError> {
        // Made beside its place and moved there when whole, so that half of one is never taken for it.
        let unfinished = self.place.root.join("cluster.unfinished");
        // `C` sorts by bytes, which never changes under an index. `C.UTF-8` for letters lets `lower()` know É, where there is one.
        let mut output = String::new();
        for letters in ["C.UTF-8", "C"] {
            match std::fs::remove_dir_all(&unfinished) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(PrivateError::File { path: unfinished, source });
                }
                _ => {}
            }
            let mut command = self.place.command(&binaries.initdb());
            command
                .arg("--pgdata")
                .arg(&unfinished)
                .args(["--username", USER, "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"])
                .args(["--locale=C", &format!("--lc-ctype={letters}")]);
            let mut command = tokio::process::Command::from(command);
            command.kill_on_drop(true).stdin(Stdio::null());
            let finished = match tokio::time::timeout(INITDB, command.output()).await {
                Ok(finished) => finished.map_err(|source| PrivateError::File { path: binaries.initdb(), source })?,
                Err(_) => return Err(PrivateError::Initdb { output: "it took too long".to_owned() }),
            };
            if finished.status.success() {
                return std::fs::rename(&unfinished, self.place.cluster())
                    .map_err(|source| PrivateError::File { path: self.place.cluster(), source });
            }
            output = last_lines(&String::from_utf8_lossy(&finished.stderr));
        }
        Err(PrivateError::Initdb { output })
    }

    /// Starts a postmaster; the receiver hears of its end.
    fn spawn(&self, binaries: &Binaries) -> Result<oneshot::Receiver<()>, PrivateError> {
        let log_file = |source| PrivateError::File { path: self.place.log(), source };
        let log = OpenOptions::new().create(true).append(true).open(self.place.log()).map_err(log_file)?;
        let mut command = self.place.command(&binaries.postgres());
        command.arg("-D").arg(self.place.cluster()).arg("-k").arg(&self.place.socket);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command
            // Its own process group: a Ctrl-C in our terminal is for us, and the other color still needs the server.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(log_file)?)
            .stderr(log);
        let mut child = command.spawn().map_err(|source| PrivateError::File { path: binaries.postgres(), source })?;
        let (ended, exit) = oneshot::channel();
        // A thread and not a task: the server outlives the runtime that started it, and one that is dead but not waited for
        // still counts as running to the PostgreSQL that wants to take its place.
        std::thread::Builder::new()
            .name("private-postgresql".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                let _ = child.wait();
                let _ = ended.send(());
            })
            .map_err(|source| PrivateError::File { path: binaries.postgres(), source })?;
        Ok(exit)
    }

    fn not_started(&self, log_begin: u64) -> PrivateError {
        PrivateError::Start { log: self.place.log(), tail: last_lines(&self.log_since(log_begin)) }
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(self.place.log()).map_or(0, |metadata| metadata.len())
    }

    fn log_since(&self, begin: u64) -> String {
        let mut bytes = Vec::new();
        // At most the last 16 KiB: the log of a server that ran for months is long.
        let begin = begin.max(self.log_length().saturating_sub(16 * 1024));
        if let Ok(mut log) = File::open(self.place.log())
            && log.seek(SeekFrom::Start(begin)).is_ok()
        {
            let _ = log.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        // Nothing here may wait. Without the start lock somebody is about to join or stop the server, and takes it over.
        if self.users.is_some()
            && let Ok(start) = open_lock(&self.place.start_lock())
            && start.try_lock().is_ok()
        {
            self.leave();
        }
    }
}

async fn pulse(place: &Place) -> Pulse {
    let mut config = login(&place.socket);
    config.connect_timeout(Duration::from_secs(2));
    match tokio::time::timeout(Duration::from_secs(3), config.connect(NoTls)).await {
        Ok(Ok(_)) => Pulse::Ready,
        Ok(Err(error)) => match error.code() {
            Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => Pulse::Changing,
            // It answers, if only to say that it is full.
            Some(_) => Pulse::Ready,
            None if error.is_closed() => Pulse::Changing,
            None => Pulse::Nobody,
        },
        // It accepts and says nothing: too busy.
        Err(_) => Pulse::Changing,
    }
}

/// Takes a lock exclusively, waiting as long as a start may take.
async fn lock(path: &Path) -> Result<File, PrivateError> {
    let file = open_lock(path)?;
    let until = Instant::now() + INITDB + START;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                return Err(PrivateError::Locked { path: path.to_owned() });
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(POLL).await,
            Err(TryLockError::Error(source)) => return Err(PrivateError::File { path: path.to_owned(), source }),
        }
    }
}

fn open_lock(path: &Path) -> Result<File, PrivateError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(|source| PrivateError::File { path: path.to_owned(), source })
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join(" | ")
}
