//! The audit log: one row for each call of a tool that may change something, whatever came of it.
//!
//! What must stay true: a call that acts through [`Once`](crate::answers::Once) and its row are one transaction, so that none
//! is there without the other; every other row is written within a moment after the call. A row says who called what, when,
//! on which build, how it ended, and what was changed, and never what the arguments or the result say: they may hold anything
//! about anybody, they would be kept longer here than in the rows they are about, and whoever may read the audit log need not
//! be somebody who may read those.
//!
//! A tool that does not say what it changed leaves a row without an object; who and when then find it in the tool's own tables.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bg_runtime::{
    Database, Release,
    database::{DatabaseError, Transaction, Type},
    storage::migration::Migration,
};

use crate::{
    batch::{Batch, Line},
    extract::{Call, FromCall, Principal, Rejection},
    telemetry::{metrics::Outcome, throttle::Throttle},
};

/// The table of the audit log.
pub const MIGRATION: Migration = Migration::new("0010_audit", include_str!("../migrations/0010_audit/expand.sql"));

/// An argument of a tool that changes something: says what it changed, for the audit log.
///
/// ```
/// # use mcp_server::audit::Audit;
/// async fn cancel(audit: Audit) -> &'static str {
///     audit.concerns("appointment 8a0d2f7e");
///     "Cancelled."
/// }
/// ```
///
/// A tool with a [`Once`](crate::answers::Once) may say it with [`Act::concerns`](crate::answers::Act::concerns).
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Record>>);

/// What becomes the row of one call.
#[derive(Debug)]
pub(crate) struct Record {
    log: Arc<Log>,
    principal: Principal,
    tool: String,
    object: Mutex<Option<String>>,
    /// How the call ended, as far as that is known.
    outcome: OnceLock<&'static str>,
    /// Whether the tool has begun. What is refused before that changes nothing, and leaves no row.
    has_begun: AtomicBool,
    /// Whether the row was written in the transaction of the act.
    is_written: AtomicBool,
}

/// The audit log of this process.
#[derive(Debug)]
pub(crate) struct Log {
    color: String,
    build: String,
    rows: Batch<Row>,
    created: Instant,
    dropped: Throttle,
}

/// A row that is written after its call.
#[derive(Debug)]
pub(crate) struct Row {
    occurred_at: SystemTime,
    principal: String,
    tool: String,
    outcome: &'static str,
    object: Option<String>,
    color: String,
    build: String,
}

/// Longer names of objects are cut: a name is not the place for what a caller sent.
const MAX_OBJECT_CHARS: usize = 200;
/// A call that went away without an end: its client disconnected.
const CANCELLED: &str = "cancelled";

const REAP_EVERY: Duration = Duration::from_secs(60);
/// Rows of one statement that deletes, so that none takes long.
const REAPED_TOGETHER: u64 = 5000;

const WRITE: &str = "INSERT INTO mcp_audit (principal, tool, outcome, object, color, build) VALUES ($1, $2, $3, $4, $5, $6)";
const WRITE_ALL: &str = "INSERT INTO mcp_audit (occurred_at, principal, tool, outcome, object, color, build) \
     SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])";
/// One process at a time.
const REAP: &str = "WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('mcp_audit reaper')) AS mine) \
     DELETE FROM mcp_audit USING mine WHERE mine AND id IN \
     (SELECT id FROM mcp_audit WHERE occurred_at < now() - make_interval(secs => $1) LIMIT 5000)";

// === impl Audit ===

impl Audit {
    /// Says what the call changes: a kind and an id, such as `appointment 8a0d2f7e`. The last thing said counts.
    pub fn concerns(&self, object: impl Into<String>) {
        if let Some(record) = &self.0 {
            record.concerns(object.into());
        }
    }
}

impl<S> FromCall<S> for Audit {
    fn from_call(call: &Call<'_>, _state: &S) -> Result<Self, Rejection> {
        Ok(Self(call.audit.clone()))
    }
}

// === impl Record ===

impl Record {
    pub(crate) fn new(log: &Arc<Log>, principal: &Principal, tool: &str) -> Self {
        Self {
            log: log.clone(),
            principal: principal.clone(),
            tool: tool.to_owned(),
            object: Mutex::default(),
            outcome: OnceLock::new(),
            has_begun: AtomicBool::new(false),
            is_written: AtomicBool::new(false),
        }
    }

    pub(crate) fn concerns(&self, mut object: String) {
        object.retain(|character| character != '\0');
        if let Some((end, _)) = object.char_indices().nth(MAX_OBJECT_CHARS) {
            object.truncate(end);
        }
        *self.object.lock().unwrap_or_else(PoisonError::into_inner) = Some(object);
    }

    /// The tool begins.
    pub(crate) fn begin(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// Notes how the call ended. What was noted first counts.
    pub(crate) fn end(&self, outcome: &'static str) {
        // A call that was replayed also ends well.
        let _ = self.outcome.set(outcome);
    }

    /// Writes the row in the transaction of the act. The row counts as written once that is [committed](Self::committed).
    pub(crate) async fn write(&self, transaction: &Transaction<'_>) -> Result<(), DatabaseError> {
        let object = self.object();
        let parameters = [
            (&self.principal.to_stored() as _, Type::TEXT),
            (&self.tool as _, Type::TEXT),
            (&word(Outcome::Ok) as _, Type::TEXT),
            (&object as _, Type::TEXT),
            (&self.log.color as _, Type::TEXT),
            (&self.log.build as _, Type::TEXT),
        ];
        transaction.execute(WRITE, &parameters).await.map(drop)
    }

    /// The transaction of the act was committed, with the row in it.
    pub(crate) fn committed(&self) {
        self.is_written.store(true, Ordering::Relaxed);
    }

    fn object(&self) -> Option<String> {
        self.object.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Record {
    /// A row is due whichever way the call went away: answered, timed out, or dropped with its connection.
    fn drop(&mut self) {
        if !*self.has_begun.get_mut() || *self.is_written.get_mut() {
            return;
        }
        self.log.add(Row {
            occurred_at: SystemTime::now(),
            principal: self.principal.to_stored().to_owned(),
            tool: std::mem::take(&mut self.tool),
            outcome: self.outcome.get().copied().unwrap_or(CANCELLED),
            object: self.object(),
            color: self.log.color.clone(),
            build: self.log.build.clone(),
        });
    }
}

/// The word for how a call ended.
pub(crate) const fn word(outcome: Outcome) -> &'static str {
    match outcome.error_type() {
        None => "ok",
        Some(kind) => kind,
    }
}

// === impl Log ===

impl Log {
    pub(crate) fn new(release: &Release) -> Self {
        let (color, build) = (release.color.to_string(), release.build());
        Self { color, build, rows: Batch::new(), created: Instant::now(), dropped: Throttle::default() }
    }

    fn add(&self, row: Row) {
        let tool = row.tool.clone();
        if !self.rows.add(row)
            && let Some(count) = self.dropped.count(self.created)
        {
            tracing::error!(
                tool.name = tool,
                count,
                "audit rows lost, too many wait for the database: {count}, the last of {tool}"
            );
        }
    }

    /// Waits until every row is written.
    pub(crate) async fn written(&self) {
        self.rows.written().await;
    }

    /// Writes rows, and deletes those that are older than `retention`, until it is dropped.
    pub(crate) async fn keep(&self, database: Database, retention: Option<Duration>) {
        tokio::join!(self.rows.keep(&database), reap(&database, retention));
    }
}

impl Line for Row {
    const NAME: &str = "audit rows";

    async fn write(database: &Database, rows: &[Self]) -> Result<(), DatabaseError> {
        let texts = |text: fn(&Self) -> &str| rows.iter().map(text).collect::<Vec<_>>();
        let times: Vec<SystemTime> = rows.iter().map(|row| row.occurred_at).collect();
        let (principals, tools, outcomes) = (texts(|row| &row.principal), texts(|row| &row.tool), texts(|row| row.outcome));
        let objects: Vec<Option<&str>> = rows.iter().map(|row| row.object.as_deref()).collect();
        let (colors, builds) = (texts(|row| &row.color), texts(|row| &row.build));
        let parameters = [
            (&times as _, Type::TIMESTAMPTZ_ARRAY),
            (&principals as _, Type::TEXT_ARRAY),
            (&tools as _, Type::TEXT_ARRAY),
            (&outcomes as _, Type::TEXT_ARRAY),
            (&objects as _, Type::TEXT_ARRAY),
            (&colors as _, Type::TEXT_ARRAY),
            (&builds as _, Type::TEXT_ARRAY),
        ];
        database.get().await?.execute(WRITE_ALL, &parameters).await.map(drop)
    }
}

async fn reap(database: &Database, retention: Option<Duration>) {
    let Some(retention) = retention.map(|retention| retention.as_secs_f64()) else { return };
    loop {
        tokio::time::sleep(REAP_EVERY).await;
        let reap = async || database.get().await?.execute(REAP, &[(&retention, Type::FLOAT8)]).await;
        loop {
            match reap().await {
                Ok(count) if count >= REAPED_TOGETHER => {}
                Ok(_) => break,
                Err(failure) => {
                    tracing::warn!(error = %failure, "old audit rows are deleted later: {failure}");
                    break;
                }
            }
        }
    }
}
