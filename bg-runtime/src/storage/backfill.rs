//! Filling a table page by page while it is in use.
//!
//! What must stay true: the place where a page ended is committed with the page, so that a kill at any moment repeats
//! nothing and leaves nothing out; a page is as large as it may be without being noticed.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::dual_write::DualWrite;
use crate::database::{DatabaseError, Session, Type};

/// How fast to go.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a page should take. Pages grow and shrink to meet it: whoever waits for a row waits no longer than this.
    pub page: Duration,
    /// The least and the most rows of a page.
    pub rows: (i32, i32),
    /// The share of the time to leave to others, in percent.
    pub rest_percent: u32,
    /// Wait while a replica (of PostgreSQL) is further behind than this.
    pub lag: Duration,
    /// … or than so many bytes.
    pub lag_bytes: i64,
}

/// Whom to tell how far a long piece of work is. All methods may be called often.
pub trait Progress: Send + Sync {
    /// What is being done now, to so many things, about.
    fn doing(&self, what: &str, of: u64);
    /// How many of them are done. It may fall back when something is begun again.
    fn done(&self, so_far: u64);
    /// Why it waits. Empty when it goes on.
    fn waits(&self, _why: &str) {}
}

/// Tells nobody.
impl Progress for () {
    fn doing(&self, _: &str, _: u64) {}
    fn done(&self, _: u64) {}
}

/// What a backfill did, in all its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filled {
    /// Rows passed.
    pub rows: u64,
    /// Rows changed.
    pub changed: u64,
}

/// A page that could not be done is tried so often: each time it is smaller.
const ATTEMPTS: u32 = 20;
/// How often replicas are asked how far behind they are.
const LOOK_AT_LAG: Duration = Duration::from_secs(1);

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self {
            // A tenth of what a person notices.
            page: Duration::from_millis(50),
            rows: (100, 10_000),
            rest_percent: 10,
            lag: Duration::from_secs(10),
            lag_bytes: 256 << 20,
        }
    }
}

/// The page of a table that changes its shape: touching a stale row lets the trigger fill it.
pub(super) fn page_sql(dual: &DualWrite) -> String {
    let (table, key, kind, mark) = (dual.table, dual.key.name, dual.key.kind, dual.mark);
    format!(
        "WITH page AS MATERIALIZED (SELECT {key} AS k, {mark} IS DISTINCT FROM row_version AS stale FROM {table} \
           WHERE $1::text IS NULL OR {key} > $1::text::{kind} ORDER BY {key} LIMIT $2), \
         changed AS (UPDATE {table} SET {mark} = NULL FROM page WHERE page.stale AND {table}.{key} = page.k \
           AND {table}.{mark} IS DISTINCT FROM {table}.row_version RETURNING 1) \
         SELECT (SELECT k::text FROM page ORDER BY k DESC LIMIT 1), (SELECT count(*) FROM page), (SELECT count(*) FROM changed)"
    )
}

/// Goes on where the step stands, to the end.
pub(super) async fn run(
    session: &Session,
    migration: &str,
    step: &str,
    sql: &str,
    pace: &Pace,
    progress: &dyn Progress,
) -> Result<Filled, DatabaseError> {
    let names = [(&migration as _, Type::TEXT), (&step as _, Type::TEXT)];
    let begun = "INSERT INTO mcp_migration_steps AS s (migration, step) VALUES ($1, $2) \
         ON CONFLICT (migration, step) DO UPDATE SET step = s.step RETURNING position, done_rows, changed_rows, finished_at IS NOT NULL";
    let row = session.query_opt(begun, &names).await?.ok_or_else(|| DatabaseError::mismatch("an upsert gave no row"))?;
    let mut place: Option<String> = row.get(0);
    let count = |index| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
    let mut filled = Filled { rows: count(1), changed: count(2) };
    if row.get(3) {
        return Ok(filled);
    }
    progress.done(filled.rows);
    let mut size = 1000.clamp(pace.rows.0, pace.rows.1);
    let mut looked = None;
    let mut failures = 0;
    loop {
        if looked.is_none_or(|at: Instant| at.elapsed() > LOOK_AT_LAG) {
            wait_for_replicas(session, pace, progress).await?;
            looked = Some(Instant::now());
        }
        let begun = Instant::now();
        let (next, rows, changed) = match page(session, migration, step, sql, place.as_deref(), size).await {
            Ok(page) => page,
            Err(error) => {
                // Somebody holds a row for long, or two of us met: a smaller page meets fewer.
                failures += 1;
                let _ = session.batch_execute("ROLLBACK").await;
                let passes = error.is_retryable() && !matches!(error, DatabaseError::Unavailable { .. });
                if !passes || failures > ATTEMPTS {
                    return Err(error);
                }
                size = (size / 2).max(pace.rows.0);
                progress.waits("a row is held by somebody");
                tokio::time::sleep(pace.page * failures).await;
                progress.waits("");
                continue;
            }
        };
        failures = 0;
        filled.rows += rows;
        filled.changed += changed;
        progress.done(filled.rows);
        if next.is_none() {
            return Ok(filled);
        }
        place = next;
        let took = begun.elapsed();
        if took > pace.page {
            size = (size * 2 / 3).max(pace.rows.0);
        } else if took < pace.page / 2 {
            size = (size * 2).min(pace.rows.1);
        }
        if pace.rest_percent > 0 {
            tokio::time::sleep(took * pace.rest_percent.min(99) / (100 - pace.rest_percent.min(99))).await;
        }
    }
}

async fn page(
    session: &Session,
    migration: &str,
    step: &str,
    sql: &str,
    place: Option<&str>,
    size: i32,
) -> Result<(Option<String>, u64, u64), DatabaseError> {
    session.batch_execute("BEGIN").await?;
    let row = session
        .query_opt(sql, &[(&place, Type::TEXT), (&size, Type::INT4)])
        .await?
        .ok_or_else(|| DatabaseError::mismatch("a batched step must answer one row: the place, the rows, the changed rows"))?;
    let (next, rows, changed): (Option<String>, i64, i64) = (row.get(0), row.get(1), row.get(2));
    session
        .query(
            "UPDATE mcp_migration_steps SET position = coalesce($3, position), done_rows = done_rows + $4, \
             changed_rows = changed_rows + $5, finished_at = CASE WHEN $3 IS NULL THEN now() END \
             WHERE migration = $1 AND step = $2",
            &[(&migration, Type::TEXT), (&step, Type::TEXT), (&next, Type::TEXT), (&rows, Type::INT8), (&changed, Type::INT8)],
        )
        .await?;
    session.batch_execute("COMMIT").await?;
    let count = |rows: i64| u64::try_from(rows).unwrap_or(0);
    Ok((next, count(rows), count(changed)))
}

async fn wait_for_replicas(session: &Session, pace: &Pace, progress: &dyn Progress) -> Result<(), DatabaseError> {
    let lag = i64::try_from(pace.lag.as_millis()).unwrap_or(i64::MAX);
    let behind = "SELECT application_name, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint FROM pg_stat_replication \
         WHERE state = 'streaming' AND (extract(epoch FROM replay_lag) * 1000 > $1 \
         OR pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > $2) ORDER BY 2 DESC LIMIT 1";
    let mut waited = false;
    while let Some(row) = session.query_opt(behind, &[(&lag, Type::INT8), (&pace.lag_bytes, Type::INT8)]).await? {
        let (name, bytes): (String, i64) = (row.get(0), row.get(1));
        progress.waits(&format!("the replica {name} is {} MB behind", bytes >> 20));
        waited = true;
        tokio::time::sleep(LOOK_AT_LAG / 2).await;
    }
    if waited {
        progress.waits("");
    }
    Ok(())
}
