//! The database both colors share, and the way to it: a pool of connections to PostgreSQL.
//!
//! With a URL the pool goes there; without one it goes to a PostgreSQL that we run ourselves ([`private`]), so that there is
//! one SQL dialect everywhere. What must stay true: everything here that waits has a deadline, a connection on which a
//! statement was given up is never handed to anybody else, and no error shows a password or a parameter.

mod address;
mod connection;
mod error;
pub mod private;
mod session;
mod startup;
mod tls;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType};
pub use tokio_postgres::Row;
pub use tokio_postgres::error::SqlState;
pub use tokio_postgres::types::{FromSql, Json, ToSql, Type};

pub use self::connection::{Connection, Parameter, Query, Transaction};
pub use self::error::{Cause, DatabaseError};
pub use self::session::{Notification, Session};

use self::address::Address;
use self::connection::Shared;
use self::private::{PrivateConfig, PrivateServer};
use self::startup::Connector;
use crate::Secret;

/// Where the database is and how patient we are with it.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// A PostgreSQL URL or key-value string. `None` runs a private server in [`data_dir`](Self::data_dir).
    pub url: Option<Secret>,
    /// The way to the same database past a transaction pooler, for what a pooler cannot carry: notifications and
    /// migrations. `None` is the same way as the pool's.
    pub direct_url: Option<Secret>,
    /// Where a private server keeps its data. Unused when there is a URL.
    pub data_dir: PathBuf,
    /// The directory that holds `initdb` and `postgres`. `None` looks in the usual places.
    pub binaries: Option<PathBuf>,
    /// The `PATH` in which to look for them; the caller's, because this library reads no environment.
    pub path: Option<OsString>,
    /// The most connections one process keeps open.
    pub pool_size: usize,
    /// How long a caller waits for a connection to become free.
    pub wait: Duration,
    /// How long opening a connection may take.
    pub create: Duration,
    /// How long proving a kept connection may take.
    pub recycle: Duration,
    /// How long one statement may run.
    pub statement_timeout: Duration,
    /// What stands between us and the server.
    pub pooler: Pooler,
    /// The name that `pg_stat_activity` shows.
    pub application_name: String,
}

/// What stands between a connection of ours and the PostgreSQL server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooler {
    /// Nothing, or something that gives each of our connections its own session.
    #[default]
    Direct,
    /// A pooler in transaction mode (PgBouncer of any version): no named statement, no session state, no startup options.
    Transaction,
}

/// A pool of connections. Cheap to clone; the clones are the same pool.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

/// What the pool holds at this moment. The numbers are read one after the other, so they may disagree by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// The most connections the pool opens.
    pub pool_size: usize,
    /// Connections that are open.
    pub open: usize,
    /// Open connections that nobody uses.
    pub idle: usize,
    /// Callers without a connection yet.
    pub waiting: usize,
}

/// The way of a session.
struct Direct {
    postgres: tokio_postgres::Config,
    tls: Connector,
    pooler: Pooler,
    statement_timeout: Duration,
}

struct Inner {
    pool: Pool,
    pool_size: usize,
    wait: Duration,
    place: String,
    shared: Arc<Shared>,
    direct: Direct,
    /// Where a private server keeps its data.
    data_dir: Option<PathBuf>,
    // `None` inside the lock once the server was given up.
    private: Option<tokio::sync::Mutex<Option<PrivateServer>>>,
}

// === impl DatabaseConfig ===

impl DatabaseConfig {
    /// The user that [`url`](Self::url) names.
    #[must_use]
    pub fn user(&self) -> Option<String> {
        address::user(self.url.as_ref()?.expose())
    }
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: None,
            direct_url: None,
            data_dir: PathBuf::from(".dev/postgresql"),
            binaries: None,
            path: None,
            // Two colors of a few replicas each must fit under PostgreSQL's default of 100 connections.
            pool_size: 10,
            // Longer than any healthy queue, shorter than the patience of a model waiting for its tool.
            wait: Duration::from_secs(2),
            // A lost first packet is sent again after one second; that, a TLS handshake and a login fit.
            create: Duration::from_secs(3),
            // Recycling asks the server nothing; this only bounds a surprise.
            recycle: Duration::from_secs(1),
            // Below the tool timeout, so that the server gives up before the caller does.
            statement_timeout: Duration::from_secs(10),
            pooler: Pooler::Direct,
            application_name: "mcp-server".to_owned(),
        }
    }
}

// === impl Database ===

impl Database {
    /// Prepares the pool. A database behind a URL is not contacted, for it may be away while we start; a private server is
    /// started, or joined when the other color runs it already.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Configuration`] for settings that cannot work, [`DatabaseError::Private`] when no private server
    /// can be had.
    pub async fn open(config: DatabaseConfig) -> Result<Self, DatabaseError> {
        if config.pool_size == 0 {
            return Err(DatabaseError::Configuration("the pool size must be at least 1".to_owned()));
        }
        let (address, private) = match &config.url {
            Some(url) => (Address::parse(url.expose(), &config)?, None),
            None => {
                let server = PrivateServer::open(&PrivateConfig {
                    data_dir: config.data_dir.clone(),
                    binaries: config.binaries.clone(),
                    path: config.path.clone(),
                })
                .await?;
                // Nothing stands between us and a socket in our own directory, whatever the pooler of the URL was.
                let address = Address::private(server.socket_dir(), &config);
                (address, Some(tokio::sync::Mutex::new(Some(server))))
            }
        };
        let pooler = if private.is_some() { Pooler::Direct } else { config.pooler };
        address.warn();
        let tls = tls::connector(&address)?;
        let (direct, direct_tls, direct_pooler) = match &config.direct_url {
            Some(url) if private.is_none() => {
                let direct = Address::parse(url.expose(), &DatabaseConfig { pooler: Pooler::Direct, ..config.clone() })?;
                direct.warn();
                let tls = tls::connector(&direct)?;
                (direct.postgres, tls, Pooler::Direct)
            }
            _ => (address.postgres.clone(), tls.clone(), pooler),
        };
        let direct =
            Direct { postgres: direct, tls: direct_tls, pooler: direct_pooler, statement_timeout: config.statement_timeout };
        let manager =
            Manager::from_config(address.postgres, tls.clone(), ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(config.pool_size)
            .wait_timeout(Some(config.wait))
            .create_timeout(Some(config.create))
            .recycle_timeout(Some(config.recycle))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a pool with timeouts names its runtime");
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                pool_size: config.pool_size,
                wait: config.wait,
                place: address.place,
                shared: Arc::new(Shared::new(pooler, tls, config.statement_timeout)),
                direct,
                data_dir: private.is_some().then_some(config.data_dir),
                private,
            }),
        })
    }

    /// A connection, for as long as it is held. A private server that died is started again on the way.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Busy`] when none became free in time; [`DatabaseError::Unavailable`] and
    /// [`DatabaseError::Refused`] when none could be opened; [`DatabaseError::Closed`] after [`close`](Self::close).
    pub async fn get(&self) -> Result<Connection, DatabaseError> {
        self.get_as(None).await
    }

    /// A connection whose statements and transactions run in the name of a principal: each is told to the policies of
    /// row-level security as the setting `mcp.principal`, for one transaction, which a pooler in between does not mix up. A
    /// statement that forgets whose rows it wants then gets those of this principal and no others; so does one that wants
    /// somebody else's. It costs no round trip. `None` is nobody in particular, whom policies don't limit.
    ///
    /// A table obeys when it has a policy that reads the setting and `FORCE ROW LEVEL SECURITY`, and when the user of the
    /// database is neither a superuser nor has `BYPASSRLS`: see [`obeys_policies`](Self::obeys_policies).
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn get_as(&self, principal: Option<&str>) -> Result<Connection, DatabaseError> {
        match self.take(principal).await {
            Err(DatabaseError::Unavailable { .. }) if self.inner.private.is_some() => {
                self.revive().await?;
                self.take(principal).await
            }
            taken => taken,
        }
    }

    /// Whether row-level security holds for the user that connections are opened as.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn obeys_policies(&self) -> Result<bool, DatabaseError> {
        const BYPASSES: &str = "SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let row = self.get().await?.query_opt(BYPASSES, &[]).await?;
        Ok(row.is_some_and(|row| !row.get::<_, bool>(0)))
    }

    /// Whether the user that connections are opened as owns a table of the schema, or is one that does not have to.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn owns_tables(&self) -> Result<bool, DatabaseError> {
        const OWNS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
             ON n.oid = c.relnamespace WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') \
             AND pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'))";
        let row = self.get().await?.query_opt(OWNS, &[]).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Whether the user that connections are opened as may add tables.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn may_migrate(&self) -> Result<bool, DatabaseError> {
        const MAY: &str = "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)";
        let row = self.get().await?.query_opt(MAY, &[]).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Whether we run the database ourselves.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.inner.private.is_some()
    }

    /// The directory that the processes share that run the database themselves. It is closed to other users.
    #[must_use]
    pub fn data_dir(&self) -> Option<&std::path::Path> {
        self.inner.data_dir.as_deref()
    }

    /// A connection of one's own, outside the pool and not counted by it. Past a transaction pooler when there is a way
    /// ([`DatabaseConfig::direct_url`]).
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn session(&self) -> Result<Session, DatabaseError> {
        if self.inner.pool.is_closed() {
            return Err(DatabaseError::Closed);
        }
        match Session::connect(&self.inner.direct).await {
            Err(DatabaseError::Unavailable { .. }) if self.inner.private.is_some() => {
                self.revive().await?;
                Session::connect(&self.inner.direct).await
            }
            connected => connected,
        }
    }

    /// Asks the database for an answer and gives the time it took, waiting for a connection included.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get), and [`DatabaseError::Timeout`] past the deadline.
    pub async fn check(&self, deadline: Duration) -> Result<Duration, DatabaseError> {
        let begun = Instant::now();
        let answer = async { self.get().await?.execute("SELECT 1", &[]).await };
        tokio::time::timeout(deadline, answer).await.map_err(|_| DatabaseError::Timeout)??;
        Ok(begun.elapsed())
    }

    /// What the pool holds.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let status = self.inner.pool.status();
        PoolStatus { pool_size: self.inner.pool_size, open: status.size, idle: status.available, waiting: status.waiting }
    }

    /// The database's address without credentials, for logs.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// Ends the pool: idle connections close now, those in use when they are given back. The last user of a private server
    /// stops it and waits for that. A second call does nothing.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Private`] when the private server does not stop.
    pub async fn close(&self) -> Result<(), DatabaseError> {
        self.inner.pool.close();
        if let Some(private) = &self.inner.private
            && let Some(server) = private.lock().await.take()
        {
            server.close().await?;
        }
        Ok(())
    }

    async fn take(&self, principal: Option<&str>) -> Result<Connection, DatabaseError> {
        match self.inner.pool.get().await {
            Ok(object) => Ok(Connection::new(object, principal, Arc::clone(&self.inner.shared))),
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(DatabaseError::Busy { waited: self.inner.wait }),
            Err(PoolError::Timeout(_)) => Err(DatabaseError::unavailable("opening a connection took too long")),
            Err(PoolError::Backend(error)) => Err(DatabaseError::from_connecting(&error)),
            Err(PoolError::Closed) => Err(DatabaseError::Closed),
            Err(PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => {
                unreachable!("the pool names its runtime and has no hooks")
            }
        }
    }

    async fn revive(&self) -> Result<(), DatabaseError> {
        // The lock lets one caller start the server while the others wait for it; theirs then is a check that it lives.
        if let Some(private) = &self.inner.private
            && let Some(server) = private.lock().await.as_ref()
        {
            server.ensure().await?;
        }
        Ok(())
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("place", &self.inner.place).field("status", &self.status()).finish()
    }
}
