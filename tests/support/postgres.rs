//! A place for a private PostgreSQL: a directory that is gone when the test is over. The server that uses it starts and stops
//! PostgreSQL itself.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use bg_runtime::{
    Database,
    database::{
        DatabaseConfig,
        private::{PrivateConfig, PrivateServer},
    },
};

/// A temporary directory that an unprivileged PostgreSQL can reach.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// A user of the PostgreSQL that is there until the end.
    keeps: OnceLock<Database>,
}

impl DataDir {
    /// A new one.
    pub fn new() -> Self {
        let unique = format!("mcp-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self { path, keeps: OnceLock::new() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a PostgreSQL in it, which ends with the value that is given.
    pub async fn start(&self) -> PrivateServer {
        let config = PrivateConfig { data_dir: self.database().into(), binaries: None, path: std::env::var_os("PATH") };
        PrivateServer::open(&config).await.expect("a private PostgreSQL starts")
    }

    /// Starts a PostgreSQL in it with a database whose owner is no superuser, as one has in production, and gives the address
    /// of that. It ends with the directory.
    pub async fn owned(&self) -> String {
        let config =
            DatabaseConfig { data_dir: self.database().into(), path: std::env::var_os("PATH"), ..DatabaseConfig::default() };
        let superuser = Database::open(config).await.expect("a private PostgreSQL starts");
        let connection = superuser.get().await.expect("PostgreSQL answers");
        for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
            connection.batch_execute(sql).await.expect("a superuser may make a user and a database");
        }
        drop(connection);
        self.keeps.set(superuser).expect("it is started once");
        format!("postgres://app@{}/app", self.path.join("db/socket").display().to_string().replace('/', "%2F"))
    }

    /// The one value that a query gives, as text: `SELECT count(*) …`. Somebody else runs the server by then.
    pub async fn query(&self, sql: &'static str) -> String {
        value(self.database().into(), sql).await
    }

    /// Changes something in it. Somebody else runs the server by then.
    pub async fn execute(&self, sql: &'static str) {
        let config = DatabaseConfig { data_dir: self.database().into(), path: std::env::var_os("PATH"), ..Default::default() };
        let database = Database::open(config).await.expect("the private PostgreSQL is joined");
        database.get().await.expect("PostgreSQL answers").execute(sql, &[]).await.expect("the statement is one");
        database.close().await.expect("a database can be closed");
    }

    /// For `DATA_DIR`.
    pub fn database(&self) -> String {
        self.path.join("db").display().to_string()
    }
}

impl Default for DataDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        end(&self.path.join("db"));
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The one value that a query gives, as text, in the private PostgreSQL of this directory. Somebody else runs the server.
pub async fn value(data_dir: PathBuf, sql: &'static str) -> String {
    let config = DatabaseConfig { data_dir, path: std::env::var_os("PATH"), ..DatabaseConfig::default() };
    let database = Database::open(config).await.expect("the private PostgreSQL is joined");
    let sql = Box::leak(format!("SELECT coalesce((({sql}))::text, '')").into_boxed_str());
    let row = database.get().await.expect("PostgreSQL answers").query_opt(sql, &[]).await.expect("the query is one");
    let value = row.expect("a query of one value gives it").get(0);
    database.close().await.expect("a database can be closed");
    value
}

/// Ends the private PostgreSQL of a directory: a server killed by its test leaves its own to the next user, and here there is
/// none.
pub fn end(data_dir: &Path) {
    let pid_file = data_dir.join("cluster/postmaster.pid");
    if let Some(pid) = std::fs::read_to_string(pid_file).ok().and_then(|text| text.lines().next().map(str::to_owned)) {
        let _ = std::process::Command::new("kill").args(["-QUIT", &pid]).status();
    }
}

static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
