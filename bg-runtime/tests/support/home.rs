//! A PostgreSQL of the test's own, and what waits for it.
//!
//! Each test makes its server in a directory of its own and leaves no process behind, whether it passes or not.

use std::future::Future;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bg_runtime::database::{Database, DatabaseConfig};
use rustix::process::{Pid, Signal, kill_process};

/// No test takes longer, unless it says so.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A directory for one test's server. Dropping it ends the server, should the test have failed before its own end.
pub(crate) struct Home {
    pub(crate) directory: PathBuf,
}

/// A PgBouncer before the server of a [`Home`].
pub(crate) struct Bouncer {
    process: Child,
    pub(crate) directory: PathBuf,
}

// === impl Home ===

impl Home {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bg-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).unwrap();
        Self { directory }
    }

    pub(crate) fn config(&self) -> DatabaseConfig {
        // The defaults but for the machine: one that builds next to the test is slow to fork a server process.
        let create = Duration::from_secs(10);
        DatabaseConfig { data_dir: self.directory.clone(), path: std::env::var_os("PATH"), create, ..DatabaseConfig::default() }
    }

    pub(crate) async fn open(&self) -> Database {
        Database::open(self.config()).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    pub(crate) fn pid(&self) -> Pid {
        self.find_pid().expect("a server is running")
    }

    pub(crate) fn find_pid(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.directory.join("cluster/postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.trim().parse().ok()?)
    }

    pub(crate) fn url(&self, socket_dir: &Path, name: &str) -> String {
        format!("postgres://mcp@{}/{name}", socket_dir.to_str().unwrap().replace('/', "%2F"))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Only a server that still answers is the one in the file.
        if let Some(pid) = self.find_pid()
            && UnixStream::connect(self.directory.join("socket/.s.PGSQL.5432")).is_ok()
        {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

// === impl Bouncer ===

impl Bouncer {
    pub(crate) async fn start(home: &Home) -> Self {
        let server = home.directory.join("socket");
        let owner = std::fs::metadata(&server).unwrap();
        let directory = home.directory.join("bouncer");
        std::fs::create_dir(&directory).unwrap();
        let settings = directory.join("pgbouncer.ini");
        let mut file = std::fs::File::create(&settings).unwrap();
        write!(
            file,
            "[databases]\napp = host={0} port=5432 user=app\n* = host={0} port=5432 user=mcp\n[pgbouncer]\nlisten_addr =\nlisten_port = 5432\n\
             unix_socket_dir = {1}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 100\n\
             logfile = {2}\n",
            server.display(),
            directory.display(),
            directory.join("log").display(),
        )
        .unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
        for path in [&directory, &settings] {
            chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        // Debian keeps it where only root's PATH leads.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/local/sbin".into(), "/opt/homebrew/bin".into()])
            .map(|directory| directory.join("pgbouncer"))
            .find(|file| file.is_file())
            .expect("this test needs PgBouncer: apt install pgbouncer, dnf install pgbouncer or brew install pgbouncer");
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        command.arg("-q").arg(&settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let bouncer = Self { process, directory };
        let socket = bouncer.directory.join(".s.PGSQL.5432");
        until("PgBouncer listens", || async { UnixStream::connect(&socket).is_ok() }).await;
        bouncer
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) async fn run(database: &Database, sql: &str) {
    database.get().await.unwrap().batch_execute(sql).await.unwrap();
}

pub(crate) async fn count(database: &Database, sql: &'static str) -> i64 {
    database.get().await.unwrap().query_opt(sql, &[]).await.unwrap().unwrap().get(0)
}

/// Everything a log would show of an error.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = format!("{error:?} {error}");
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(&format!(": {error}"));
        source = error.source();
    }
    words
}

pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.expect("the test ends in time")
}

/// Waits for a condition to become true.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    eventually(what, || async { if condition().await { Ok(()) } else { Err("not yet") } }).await;
}

/// Waits for something to succeed.
pub(crate) async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    attempt: impl Fn() -> F,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) if Instant::now() > deadline => panic!("{what}: {error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
