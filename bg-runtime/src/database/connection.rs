//! One connection of the pool, and a transaction on it.
//!
//! What must stay true: a connection on which a statement was given up half way is taken out of the pool, and the server is
//! told to stop, because the next user would otherwise wait behind a stranger's statement. Statements are `&'static str`:
//! their cache is then as small as the program, and nobody builds SQL out of values.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object};
use futures_util::{FutureExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, RowStream, Statement};

use super::error::is_stale_plan;
use super::startup::Connector;
use super::{DatabaseError, Pooler};

/// A value for a statement, and the PostgreSQL type it has there. The type is named because an unnamed statement has no
/// other way to learn it in one round trip.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection, given back to the pool when dropped.
///
/// Statements may be sent side by side; the server answers them in order.
pub struct Connection {
    // Taken only by `drop`.
    object: Option<Object>,
    /// In whose name statements run, if it is anybody's.
    principal: Option<Box<str>>,
    shared: Arc<Shared>,
    abandoned: AtomicBool,
}

/// A transaction, rolled back when dropped without [`commit`](Transaction::commit).
pub struct Transaction<'a> {
    connection: &'a mut Connection,
    failed: AtomicBool,
    marked: AtomicBool,
    ended: bool,
}

/// What every connection of a pool knows.
pub(super) struct Shared {
    pooler: Pooler,
    tls: Connector,
    /// When we stop waiting for an answer.
    patience: Duration,
}

/// Marks the connection as abandoned unless the answer came.
struct Unanswered<'a>(&'a AtomicBool);

/// How long the server gets to hear that a statement was given up. Longer would pile up connections during an outage.
const CANCEL: Duration = Duration::from_secs(1);

/// The policies of row-level security read this setting. It ends with the transaction, so that no pooler hands it on.
const SET_PRINCIPAL: &str = "SELECT set_config('mcp.principal', $1, true)";

/// Statements with up to so many parameters find their types without an allocation; ours have fewer.
const FEW: usize = 16;

/// Whatever runs a statement: a connection, a transaction on it, or a [`Session`](super::Session).
pub trait Query: Sync {
    /// Every row a statement gives.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    fn query(
        &self,
        sql: &'static str,
        parameters: &[Parameter<'_>],
    ) -> impl Future<Output = Result<Vec<Row>, DatabaseError>> + Send;

    /// The row a statement gives, if it gives one.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    fn query_opt(
        &self,
        sql: &'static str,
        parameters: &[Parameter<'_>],
    ) -> impl Future<Output = Result<Option<Row>, DatabaseError>> + Send {
        async move { at_most_one(self.query(sql, parameters).await?) }
    }
}

impl Query for Connection {
    async fn query(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        Self::query(self, sql, parameters).await
    }
}

impl Query for Transaction<'_> {
    async fn query(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        Self::query(self, sql, parameters).await
    }
}

impl Query for super::Session {
    async fn query(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        Self::query(self, sql, parameters).await
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(pooler: Pooler, tls: Connector, statement_timeout: Duration) -> Self {
        // The server ends a statement itself where it was told to at start-up. The extra second is for a server or a network
        // that went silent; through a transaction pooler ours is the only clock.
        let patience = match pooler {
            Pooler::Direct => statement_timeout + Duration::from_secs(1),
            Pooler::Transaction => statement_timeout,
        };
        Self { pooler, tls, patience }
    }
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(object: Object, principal: Option<&str>, shared: Arc<Shared>) -> Self {
        Self { object: Some(object), principal: principal.map(Into::into), shared, abandoned: AtomicBool::new(false) }
    }

    /// Every row a statement gives.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn query(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        Ok(self.answer(self.shared.patience, self.run(sql, parameters, true)).await?.0)
    }

    /// The row a statement gives, if it gives one. More than one is a [`DatabaseError::Mismatch`].
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn query_opt(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Option<Row>, DatabaseError> {
        at_most_one(self.query(sql, parameters).await?)
    }

    /// Runs a statement and counts the rows it touched.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn execute(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<u64, DatabaseError> {
        Ok(self.answer(self.shared.patience, self.run(sql, parameters, true)).await?.1)
    }

    /// Runs statements, parted by semicolons, that take no values and give no rows. It must leave no session state behind: the
    /// connection goes back to the pool as it is.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn batch_execute(&self, sql: &str) -> Result<(), DatabaseError> {
        self.batch_execute_within(sql, self.shared.patience).await
    }

    /// Begins a transaction at read committed, in the name of the connection's principal.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, DatabaseError> {
        // Made first, so that one that has begun and is told no principal is rolled back like any other.
        let transaction =
            Transaction { connection: self, failed: AtomicBool::new(false), marked: AtomicBool::new(false), ended: false };
        let connection = &*transaction.connection;
        match &connection.principal {
            None => connection.batch_execute("BEGIN").await?,
            Some(principal) => connection.answer(connection.shared.patience, connection.begin_as(principal)).await?,
        }
        Ok(transaction)
    }

    async fn batch_execute_within(&self, sql: &str, patience: Duration) -> Result<(), DatabaseError> {
        self.answer(patience, self.client().batch_execute(sql)).await
    }

    /// Waits for an answer, and remembers when nobody did.
    async fn answer<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DatabaseError> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(DatabaseError::Abandoned);
        }
        let unanswered = Unanswered(&self.abandoned);
        // Running out of patience drops `unanswered`, as the caller's dropping this future does.
        let answer = tokio::time::timeout(patience, work).await.map_err(|_| DatabaseError::Timeout)?;
        std::mem::forget(unanswered);
        answer.map_err(|error| DatabaseError::from_statement(&error))
    }

    /// Runs a statement, and once more if a migration changed a table under it. Alone it has no transaction around it; in a
    /// transaction the error has ended that as well, so only the caller can begin again.
    async fn run(&self, sql: &str, parameters: &[Parameter<'_>], alone: bool) -> Result<(Vec<Row>, u64), tokio_postgres::Error> {
        match self.try_run(sql, parameters, alone).await {
            Err(error) if is_stale_plan(&error) => {
                self.client().statement_cache.clear();
                if alone { self.try_run(sql, parameters, alone).await } else { Err(error) }
            }
            ran => ran,
        }
    }

    async fn try_run(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
        alone: bool,
    ) -> Result<(Vec<Row>, u64), tokio_postgres::Error> {
        let statement = self.prepare(sql, parameters).await?;
        let ran = collect(self.send(statement.as_ref(), sql, parameters));
        let Some(principal) = self.principal.as_deref().filter(|_| alone) else { return ran.await };
        let parameters = [(&principal as _, Type::TEXT)];
        let set = self.prepare(SET_PRINCIPAL, &parameters).await?;
        let set = collect(self.send(set.as_ref(), SET_PRINCIPAL, &parameters));
        let client = self.client();
        // Each leaves at its first poll, in this order, so the four cost one round trip. After an error the server passes over
        // what follows, and the COMMIT is a ROLLBACK.
        let (begun, set, ran, ended) =
            tokio::join!(biased; client.batch_execute("BEGIN"), set, ran, client.batch_execute("COMMIT"));
        begun?;
        set?;
        let ran = ran?;
        ended.map(|()| ran)
    }

    async fn begin_as(&self, principal: &str) -> Result<(), tokio_postgres::Error> {
        let parameters = [(&principal as _, Type::TEXT)];
        let set = self.prepare(SET_PRINCIPAL, &parameters).await?;
        let set = collect(self.send(set.as_ref(), SET_PRINCIPAL, &parameters));
        let (begun, set) = tokio::join!(biased; self.client().batch_execute("BEGIN"), set);
        begun?;
        set.map(drop)
    }

    /// The statement as the server knows it; behind a pooler it knows none.
    async fn prepare(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Option<Statement>, tokio_postgres::Error> {
        if self.shared.pooler == Pooler::Transaction {
            return Ok(None);
        }
        // The types are given to the server, so that a statement means the same here and through a pooler.
        let statement = if parameters.len() <= FEW {
            let types: [Type; FEW] =
                std::array::from_fn(|index| parameters.get(index).map_or(Type::UNKNOWN, |(_, kind)| kind.clone()));
            self.client().prepare_typed_cached(sql, &types[..parameters.len()]).await?
        } else {
            let types: Vec<Type> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
            self.client().prepare_typed_cached(sql, &types).await?
        };
        Ok(Some(statement))
    }

    async fn send(
        &self,
        statement: Option<&Statement>,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<RowStream, tokio_postgres::Error> {
        match statement {
            Some(statement) => self.client().query_raw(statement, parameters.iter().map(|(value, _)| *value)).await,
            None => self.client().query_typed_raw(sql, parameters.iter().map(|(value, kind)| (*value, kind.clone()))).await,
        }
    }

    fn client(&self) -> &ClientWrapper {
        self.object.as_ref().expect("only drop takes the object")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !*self.abandoned.get_mut() {
            return;
        }
        let Some(object) = self.object.take() else { return };
        // Taking it frees the place in the pool now; for at most `CANCEL` the server sees one connection more.
        let client = Object::take(object);
        let Ok(runtime) = Handle::try_current() else { return };
        let tls = self.shared.tls.clone();
        runtime.spawn(async move {
            let canceled = async {
                client.cancel_token().cancel_query(tls).await?;
                // The answer to an empty statement comes after the canceled one's. Closing before it would make PgBouncer
                // forget whose statement to cancel.
                client.batch_execute("").await
            };
            match tokio::time::timeout(CANCEL, canceled).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error = %error, "a given-up statement could not be canceled"),
                Err(_) => tracing::debug!("a given-up statement was not canceled in time"),
            }
        });
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("abandoned", &self.abandoned).finish_non_exhaustive()
    }
}

// === impl Transaction ===

impl Transaction<'_> {
    /// As [`Connection::query`], in the transaction.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn query(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        let connection = &*self.connection;
        let ran = connection.answer(connection.shared.patience, connection.run(sql, parameters, false)).await;
        self.note(ran.map(|(rows, _)| rows))
    }

    /// As [`Connection::query_opt`], in the transaction.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn query_opt(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Option<Row>, DatabaseError> {
        at_most_one(self.query(sql, parameters).await?)
    }

    /// As [`Connection::execute`], in the transaction.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn execute(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<u64, DatabaseError> {
        let connection = &*self.connection;
        let ran = connection.answer(connection.shared.patience, connection.run(sql, parameters, false)).await;
        self.note(ran.map(|(_, count)| count))
    }

    /// As [`Connection::batch_execute`], in the transaction.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn batch_execute(&self, sql: &str) -> Result<(), DatabaseError> {
        self.note(self.connection.batch_execute(sql).await)
    }

    /// As [`batch_execute`](Self::batch_execute), for work that may take longer than a statement usually may, such as a
    /// migration.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn batch_execute_within(&self, sql: &str, patience: Duration) -> Result<(), DatabaseError> {
        self.note(self.connection.batch_execute_within(sql, patience).await)
    }

    /// From here on, statements run in the name of this principal: the policies of row-level security let through what is
    /// theirs. See [`Database::get_as`](super::Database::get_as).
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn act_as(&self, principal: &str) -> Result<(), DatabaseError> {
        if self.connection.principal.as_deref() == Some(principal) {
            return Ok(());
        }
        self.query(SET_PRINCIPAL, &[(&principal as _, Type::TEXT)]).await.map(drop)
    }

    /// Marks a point that [`back`](Self::back) returns to, in place of the one before.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn mark(&self) -> Result<(), DatabaseError> {
        // Without the release, each would stay until the end of the transaction.
        let marked = self.marked.swap(true, Ordering::Relaxed);
        self.batch_execute(if marked { "RELEASE SAVEPOINT mark; SAVEPOINT mark" } else { "SAVEPOINT mark" }).await
    }

    /// Undoes what came after the [`mark`](Self::mark), the failure of a statement included, and gives back the locks that it
    /// took. What came before stays.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`]; a transaction without a mark is refused by PostgreSQL.
    pub async fn back(&self) -> Result<(), DatabaseError> {
        self.batch_execute("ROLLBACK TO SAVEPOINT mark").await?;
        self.failed.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the transaction's work visible and durable.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::RolledBack`] when one of its statements had failed: PostgreSQL answers such a commit with a rollback
    /// and no error. Otherwise see [`DatabaseError`].
    pub async fn commit(mut self) -> Result<(), DatabaseError> {
        if *self.failed.get_mut() {
            return Err(DatabaseError::RolledBack);
        }
        self.ended = true;
        self.connection.batch_execute("COMMIT").await
    }

    /// Undoes the transaction's work and waits until it is undone.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn rollback(mut self) -> Result<(), DatabaseError> {
        self.ended = true;
        self.connection.batch_execute("ROLLBACK").await
    }

    fn note<T>(&self, result: Result<T, DatabaseError>) -> Result<T, DatabaseError> {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // An abandoned connection is closed, which rolls back; a ROLLBACK would wait behind its statement.
        if self.ended || *self.connection.abandoned.get_mut() {
            return;
        }
        // One poll queues the message. Whoever uses the connection next is answered after it.
        let _ = self.connection.client().batch_execute("ROLLBACK").now_or_never();
    }
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("failed", &self.failed).finish_non_exhaustive()
    }
}

// === impl Unanswered ===

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The rows of an answer, and how many the statement touched.
async fn collect(
    answer: impl Future<Output = Result<RowStream, tokio_postgres::Error>>,
) -> Result<(Vec<Row>, u64), tokio_postgres::Error> {
    let mut stream = pin!(answer.await?);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await? {
        rows.push(row);
    }
    Ok((rows, stream.rows_affected().unwrap_or(0)))
}

pub(super) fn at_most_one(mut rows: Vec<Row>) -> Result<Option<Row>, DatabaseError> {
    if rows.len() > 1 {
        return Err(DatabaseError::mismatch("a statement for at most one row gave more"));
    }
    Ok(rows.pop())
}
