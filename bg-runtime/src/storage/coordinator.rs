//! Who moves migrations: one at a time, and every move a compare-and-set.
//!
//! A coordinator holds an advisory lock on a connection of its own, so that it ends with its process, and a lease with an
//! epoch, so that everybody sees who it is. What must stay true: a move happens whole or not at all, a coordinator that died
//! between two steps is continued by the next one, and nothing waits for a lock while others queue behind it for long.

mod grant;

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::backfill::{self, Filled, Pace, Progress};
use super::control::{ANNOUNCE, LIVE, NEXT_EPOCH, TABLES};
use super::dual_write::DualWrite;
use super::migration::{
    Applied, Blocker, CONTROL_TABLES, Migration, MigrationError, Pause, RECORD, Step, StepKind, check_record, checksum,
    in_the_way, recorded, steps,
};
use super::phase::Phase;
use super::status::{FILL, MigrationStatus, ReplicaStatus, Status, read_status};
use super::validator::{self, ValidateOptions, Verdict};
use crate::database::{Database, DatabaseError, Session, Type};

/// Moves migrations. Dropping it gives the lock back.
#[derive(Debug)]
pub struct Coordinator {
    session: Session,
    database: Database,
    migrations: Vec<Migration>,
    actor: String,
    lease: i64,
    pid: i32,
    /// The schema the tables are in, quoted.
    schema: String,
    blockers: Mutex<Vec<Blocker>>,
}

/// Why a migration was not moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// Somebody else is at it.
    #[error("{holder} is moving migrations; only one can at a time")]
    Taken {
        /// Who, as it calls itself.
        holder: String,
    },
    /// There is no such migration, or it changes no table's shape.
    #[error("{name} has no phases; these migrations have: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// It may not be done yet, or not from here. All reasons.
    #[error("{migration} stays in phase {phase}:\n  - {}", reasons.join("\n  - "))]
    Refused {
        /// The migration.
        migration: &'static str,
        /// Where it stands.
        phase: Phase,
        /// Why.
        reasons: Vec<String>,
    },
    /// Somebody else moved it meanwhile.
    #[error("{0} was moved by somebody else meanwhile; look at its status and decide anew")]
    Moved(&'static str),
    /// A lock could not be had in time.
    #[error("{what} did not get its lock in {attempts} attempts{}", in_the_way(blockers))]
    Blocked {
        /// What wanted it.
        what: String,
        /// How often it was tried.
        attempts: u32,
        /// Who had it.
        blockers: Vec<Blocker>,
    },
    /// The dump could not be written; nothing was dropped.
    #[error("the dump of what is to be dropped could not be written; nothing was dropped")]
    Dump(#[from] std::io::Error),
    /// The way to the database cannot hold a lock.
    #[error(
        "migrations need a connection past the transaction pooler: give the database's direct URL, or leave them to a job that has it"
    )]
    Pooled,
    /// A migration failed.
    #[error(transparent)]
    Migration(#[from] Box<MigrationError>),
    /// The database failed or refused.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// A flag that was set.
#[derive(Clone, Debug, Serialize)]
pub struct FlagStatus {
    /// Its name.
    pub name: String,
    /// The share of principals it lets in.
    pub percent: i16,
    /// Who set it.
    pub changed_by: String,
}

/// The advisory lock of all coordinators: the first eight bytes of SHA-256("mcp_migrations"), so that no application picks it
/// too.
const LOCK: i64 = 0x9246_9a17_ba3b_5225_u64.cast_signed();

/// The queue behind an ALTER that waits holds up every reader of its table, so no attempt waits longer than a reader may.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";
/// The fence holds up every writer while it waits for those in flight; it tries again rather than be noticed.
const FENCE_TIMEOUT: &str = "SET LOCAL lock_timeout = '40ms'";
const FENCE_ATTEMPTS: u32 = 100;
const FIRST_LOOK: Duration = Duration::from_millis(15);
/// How often a step's wait is looked at from outside.
const LOOK: Duration = Duration::from_millis(150);
/// How long a change that is quick once it has its lock tries to get it.
const LOCKED_WITHIN: Duration = Duration::from_secs(60);
/// No statement of a migration takes longer: an index on a large table, a proof.
const LONGEST_STATEMENT: Duration = Duration::from_secs(6 * 3600);

// === impl CoordinatorError ===

impl CoordinatorError {
    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Taken { .. } | Self::Moved(_) => true,
            Self::Database(error) => error.is_retryable(),
            _ => false,
        }
    }

    pub(super) fn into_database(self) -> Option<DatabaseError> {
        match self {
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

// === impl Coordinator ===

impl Coordinator {
    /// Becomes the coordinator, waiting its turn. `actor` is who moves, in the log: a person, a rollout, a start.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::Taken`] when the turn did not come in time; [`CoordinatorError::Pooled`] behind a transaction
    /// pooler without a direct way.
    pub async fn take(
        database: &Database,
        migrations: &[Migration],
        actor: &str,
        deadline: Duration,
    ) -> Result<Self, CoordinatorError> {
        let until = Instant::now() + deadline;
        let mut session = database.session().await?;
        if !session.is_direct() {
            return Err(CoordinatorError::Pooled);
        }
        let mut pause = Pause::new();
        loop {
            // Tried and not waited for: a waiting statement is a transaction, which a CREATE INDEX CONCURRENTLY of the one
            // who holds the lock would wait for in its turn.
            let turn = session.query_opt("SELECT pg_try_advisory_lock($1)", &[(&LOCK, Type::INT8)]).await?;
            if turn.is_some_and(|row| row.get(0)) {
                break;
            }
            if !pause.before(until).await {
                return Err(CoordinatorError::Taken { holder: holder(&session).await });
            }
        }
        if session.query_opt(CONTROL_TABLES, &[]).await?.is_none() {
            session.batch_execute(&format!("BEGIN; {LOCK_TIMEOUT}; {TABLES}; COMMIT")).await?;
        }
        session.set_patience(LONGEST_STATEMENT).await?;
        // A server process that works for a coordinator that was killed notices within this time; not every system can.
        let _ = session.batch_execute("SET client_connection_check_interval = '2s'").await;
        // The names of replicas that were killed; those that live say so every few seconds.
        session.batch_execute("DELETE FROM mcp_replicas WHERE seen_at < now() - interval '1 day'").await?;
        let take = "UPDATE mcp_control SET lease_epoch = lease_epoch + 1, lease_holder = $1, lease_taken_at = now() \
             RETURNING lease_epoch, pg_backend_pid(), quote_ident(current_schema())";
        let row = session.query_opt(take, &[(&actor, Type::TEXT)]).await?;
        let row = row.ok_or_else(|| DatabaseError::mismatch("mcp_control has no row"))?;
        Ok(Self {
            lease: row.get(0),
            pid: row.get(1),
            schema: row.get(2),
            session,
            database: database.clone(),
            migrations: migrations.to_vec(),
            actor: actor.to_owned(),
            blockers: Mutex::default(),
        })
    }

    /// Where everything stands.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn status(&self) -> Result<Status, DatabaseError> {
        read_status(&self.session, &self.migrations).await
    }

    /// Applies every expand that is missing, and gives what it applied.
    ///
    /// # Errors
    ///
    /// See [`MigrationError`]. What was applied before the failure stays.
    pub async fn expand(&mut self, until: Instant) -> Result<Vec<Applied>, MigrationError> {
        let record = recorded(&self.session.query(RECORD, &[]).await?);
        check_record(&self.migrations, &record)?;
        let mut applied = Vec::new();
        for migration in self.migrations.clone() {
            if record.contains_key(migration.name) {
                continue;
            }
            let begun = Instant::now();
            self.expand_one(&migration, until).await?;
            let took = begun.elapsed();
            let name = migration.name;
            tracing::info!(migration.name = name, duration_ms = took.as_millis(), "the migration {name} was applied");
            applied.push(Applied { name, took });
        }
        Ok(applied)
    }

    /// Makes the generated parts of an applied migration anew: columns, functions, trigger.
    ///
    /// # Errors
    ///
    /// See [`CoordinatorError`].
    pub async fn expand_again(&mut self, name: &str, until: Instant) -> Result<(), CoordinatorError> {
        let migration = self.find(name)?;
        let status = self.migration_status(&migration).await?;
        let Some(dual) = migration.dual_write.filter(|_| matches!(status.phase, Some(phase) if phase < Phase::Contract)) else {
            return Err(refuse(&migration, status.phase, "only what was generated and not contracted can be made anew"));
        };
        let sql = dual.expand_sql(&self.schema);
        self.in_transaction(&migration, &sql, until).await.map_err(Box::new)?;
        Ok(())
    }

    /// Fills the rows from before the trigger, moving to [`Phase::Backfill`] first. Goes on where an earlier run ended.
    ///
    /// # Errors
    ///
    /// See [`CoordinatorError`].
    pub async fn backfill(&mut self, name: &str, pace: &Pace, progress: &dyn Progress) -> Result<Filled, CoordinatorError> {
        let migration = self.find(name)?;
        // Expand is where a coordinator leaves it that died at the end of its expand.
        let status = self.advanced_past(&migration, &[Phase::Expand, Phase::Dual]).await?;
        if status.phase != Some(Phase::Backfill) {
            if status.phase > Some(Phase::Backfill) {
                return Ok(status.backfill.unwrap_or_default());
            }
            return Err(refuse(&migration, status.phase, "there is nothing to fill: expand it first"));
        }
        for step in parsed(&migration, migration.backfill).map_err(Box::new)? {
            match step.kind {
                StepKind::Batched => {
                    progress.doing(step.name, 0);
                    let key = format!("backfill:{}", step.name);
                    backfill::run(&self.session, migration.name, &key, step.sql, pace, progress).await?;
                }
                _ => {
                    let until = Instant::now() + LONGEST_STATEMENT;
                    self.step(&migration, "backfill", &step, until).await.map_err(Box::new)?;
                }
            }
        }
        let (about, pages) = match migration.dual_write {
            Some(dual) => (validator::about(&self.session, dual.table).await?, backfill::page_sql(dual)),
            // Nothing to touch, which is remembered as done.
            None => (0, "SELECT NULL::text, 0::bigint, 0::bigint WHERE $1::text IS NULL AND $2::int > 0".to_owned()),
        };
        progress.doing("backfill", about);
        let filled = backfill::run(&self.session, migration.name, FILL, &pages, pace, progress).await?;
        self.log(migration.name, &format!("backfilled {} of {} rows", filled.changed, filled.rows)).await?;
        Ok(filled)
    }

    /// Compares both shapes, moving to [`Phase::Validate`] first, and remembers the verdict. It changes nothing but the
    /// constraint that proves it.
    ///
    /// # Errors
    ///
    /// See [`CoordinatorError`]. A bad verdict is no error.
    pub async fn validate(
        &mut self,
        name: &str,
        options: ValidateOptions,
        progress: &dyn Progress,
    ) -> Result<Verdict, CoordinatorError> {
        let migration = self.find(name)?;
        let status = self.advanced_past(&migration, &[Phase::Backfill]).await?;
        if !matches!(status.phase, Some(Phase::Validate | Phase::ReadNew | Phase::Fenced)) {
            return Err(refuse(&migration, status.phase, "it can be validated from the phase validate on: fill it first"));
        }
        let epoch = status.moved_epoch;
        let verdict = match migration.dual_write {
            Some(dual) => {
                let mut verdict = validator::validate(&self.session, dual, &self.schema, epoch, progress).await?;
                if verdict.valid && !options.without_proof {
                    progress.doing("prove", 0);
                    if !validator::is_constrained(&self.session, dual).await? {
                        // Exclusive, but for a moment: it looks at no row.
                        let until = Instant::now() + LOCKED_WITHIN;
                        self.in_transaction(&migration, &dual.constraint_sql(), until).await.map_err(Box::new)?;
                    }
                    verdict.add(validator::proof(&self.session, dual).await?);
                }
                verdict
            }
            // There are no two shapes to compare.
            None => Verdict { migration: migration.name.to_owned(), valid: true, epoch, rows: 0, checks: Vec::new() },
        };
        let json = serde_json::to_string(&verdict).expect("a verdict serializes");
        self.session
            .query(
                "UPDATE mcp_migrations SET verdict = $2::text::jsonb, verdict_epoch = $3 WHERE name = $1 AND moved_epoch = $3",
                &[(&migration.name, Type::TEXT), (&json, Type::TEXT), (&epoch, Type::INT8)],
            )
            .await?;
        let word = if verdict.valid { "valid" } else { "not valid" };
        self.log(migration.name, &format!("validated: {word}, {} rows", verdict.rows)).await?;
        Ok(verdict)
    }

    /// Moves to the next phase, once nothing stands in the way. [`Phase::Contract`] is not reached like this.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::Refused`] with everything that stands in the way.
    pub async fn advance(&mut self, name: &str) -> Result<Phase, CoordinatorError> {
        let migration = self.find(name)?;
        let status = self.migration_status(&migration).await?;
        let (Some(from), Some(to)) = (status.phase, status.next) else {
            return Err(refuse(&migration, status.phase, "there is no phase after this one"));
        };
        if to == Phase::Contract {
            return Err(refuse(&migration, Some(from), "the contract drops the old columns for good: say `contract`"));
        }
        if !status.obstacles.is_empty() {
            return Err(CoordinatorError::Refused { migration: migration.name, phase: from, reasons: status.obstacles });
        }
        self.move_to(&migration, from, to).await?;
        Ok(to)
    }

    /// Moves back, where the table of phases says. From [`Phase::Expand`] it drops the new columns, and needs `undo`.
    ///
    /// # Errors
    ///
    /// See [`CoordinatorError`].
    pub async fn back(&mut self, name: &str, undo: bool) -> Result<Phase, CoordinatorError> {
        let migration = self.find(name)?;
        let status = self.migration_status(&migration).await?;
        let (Some(from), Some(to)) = (status.phase, status.back) else {
            return Err(refuse(&migration, status.phase, "there is no way back from here"));
        };
        if to > Phase::Idle {
            self.move_to(&migration, from, to).await?;
            return Ok(to);
        }
        let status = self.status().await?;
        let mut reasons: Vec<String> = status
            .replicas
            .iter()
            .filter(|replica| replica.knows.iter().any(|known| known == migration.name))
            .map(|replica| format!("the {} replica {} uses the new columns; take it away first", replica.color, replica.instance))
            .collect();
        if !undo {
            reasons.push("this drops the new columns and what only they say: add --undo to mean it".to_owned());
        }
        if !reasons.is_empty() {
            return Err(CoordinatorError::Refused { migration: migration.name, phase: from, reasons });
        }
        let mut sql = migration.dual_write.map(DualWrite::undo_sql).unwrap_or_default();
        sql.push_str(&joined(&migration, migration.undo).map_err(Box::new)?);
        // All of it or nothing: the record of the migration goes with what it recorded.
        let name = migration.name;
        let _ = write!(
            sql,
            "DELETE FROM mcp_migration_steps WHERE migration = '{name}'; DELETE FROM mcp_migrations WHERE name = '{name}'; \
                 {NEXT_EPOCH}; {ANNOUNCE}"
        );
        self.in_transaction(&migration, &sql, Instant::now() + LOCKED_WITHIN).await.map_err(Box::new)?;
        self.log(migration.name, "expand -> idle: undone").await?;
        Ok(Phase::Idle)
    }

    /// Writes what a contract would drop as SQL that `psql -f` reads, and gives the number of rows. The functions that make
    /// the old columns of the new ones come first.
    ///
    /// # Errors
    ///
    /// See [`CoordinatorError`].
    pub async fn dump(&self, name: &str, to: &mut (dyn AsyncWrite + Unpin + Send)) -> Result<u64, CoordinatorError> {
        let migration = self.find(name)?;
        let Some(dual) = migration.dual_write else {
            to.write_all(format!("-- {} generated no columns, so there are none to dump.\n", migration.name).as_bytes()).await?;
            to.flush().await?;
            return Ok(0);
        };
        let columns: Vec<_> = dual.old.columns.iter().map(|column| column.name).collect();
        let kinds: Vec<_> = dual.old.columns.iter().map(|column| format!("{} {}", column.name, column.kind)).collect();
        let (table, key, kind, columns) = (dual.table, dual.key.name, dual.key.kind, columns.join(", "));
        let head = format!(
            "-- What the contract of {} dropped from {table}. Load it with `psql -f`; then give the columns back and\n\
             -- UPDATE {table} SET … FROM dropped_from_{table}.\n\
             CREATE TABLE dropped_from_{table} ({key} {kind} PRIMARY KEY, row_version bigint, {});\n\
             COPY dropped_from_{table} ({key}, row_version, {columns}) FROM stdin;\n",
            migration.name,
            kinds.join(", "),
        );
        for column in dual.old.columns {
            let definition = "SELECT pg_get_functiondef(oid) FROM pg_proc \
                 WHERE proname = $1 AND pronamespace = current_schema()::regnamespace";
            if let Some(row) = self.session.query_opt(definition, &[(&dual.lens(column), Type::TEXT)]).await? {
                to.write_all(format!("{};\n", row.get::<_, String>(0).trim_end()).as_bytes()).await?;
            }
        }
        to.write_all(head.as_bytes()).await?;
        let copy = format!("COPY (SELECT {key}, row_version, {columns} FROM {table}) TO STDOUT");
        let mut stream = std::pin::pin!(self.session.copy_out(&copy).await?);
        let mut rows = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            rows += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            to.write_all(&piece).await?;
        }
        to.write_all(b"\\.\n").await?;
        to.flush().await?;
        Ok(rows)
    }

    /// Drops the old columns, the trigger and its functions, for good.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError::Refused`] before [`Phase::Fenced`], or while a replica lives that does not know the migration.
    pub async fn contract(&mut self, name: &str) -> Result<(), CoordinatorError> {
        let migration = self.find(name)?;
        let status = self.migration_status(&migration).await?;
        match status.phase {
            Some(Phase::Contract) => return Ok(()),
            Some(Phase::Fenced) => {}
            phase => return Err(refuse(&migration, phase, "only a fenced table can be contracted: advance it first")),
        }
        if !status.obstacles.is_empty() {
            return Err(CoordinatorError::Refused { migration: migration.name, phase: Phase::Fenced, reasons: status.obstacles });
        }
        self.contract_sql(&migration).await.map_err(Box::new)?;
        Ok(())
    }

    async fn contract_sql(&mut self, migration: &Migration) -> Result<(), MigrationError> {
        // The migration's own first: while the constraint is there, SET NOT NULL needs no look at the rows.
        let mut sql = joined(migration, migration.contract)?;
        if let Some(dual) = migration.dual_write {
            sql.push_str(&dual.contract_sql());
        }
        let (name, contract) = (migration.name, Phase::Contract.number());
        let _ = write!(
            sql,
            "{NEXT_EPOCH}; \
                 UPDATE mcp_migrations SET phase = {contract}, moved_at = now(), moved_epoch = (SELECT epoch FROM mcp_control) \
                 WHERE name = '{name}'; {ANNOUNCE}"
        );
        self.in_transaction(migration, &sql, Instant::now() + LOCKED_WITHIN).await?;
        self.log(name, "contracted").await?;
        Ok(())
    }

    /// Sets the share of principals that a flag lets in, in percent; `None` forgets the flag, which lets everybody in.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn set_flag(&self, name: &str, percent: Option<u8>) -> Result<(), DatabaseError> {
        let change = match percent {
            Some(_) => {
                "INSERT INTO mcp_flags (name, percent, changed_by) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE \
                 SET percent = excluded.percent, changed_at = now(), changed_by = excluded.changed_by"
            }
            None => "DELETE FROM mcp_flags WHERE name = $1 AND $2::smallint IS NULL AND $3::text IS NOT NULL",
        };
        // One statement: a change that is refused leaves no transaction open.
        let sql = format!(
            "WITH changed AS ({change}), control AS ({NEXT_EPOCH} RETURNING epoch) \
             SELECT pg_notify('mcp_control', epoch::text)::text FROM control"
        );
        let percent = percent.map(i16::from);
        let flag = [(&name as _, Type::TEXT), (&percent as _, Type::INT2), (&self.actor as _, Type::TEXT)];
        self.session.query(&sql, &flag).await?;
        Ok(())
    }

    /// The flags that were set.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn flags(&self) -> Result<Vec<FlagStatus>, DatabaseError> {
        let rows = self.session.query("SELECT name, percent, changed_by FROM mcp_flags ORDER BY name", &[]).await?;
        Ok(rows.iter().map(|row| FlagStatus { name: row.get(0), percent: row.get(1), changed_by: row.get(2) }).collect())
    }

    /// Waits until every live replica acts on this epoch or a later one, and gives those that do not.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn wait_for_replicas(&self, deadline: Duration) -> Result<Vec<ReplicaStatus>, DatabaseError> {
        let until = Instant::now() + deadline;
        loop {
            let status = self.status().await?;
            let behind: Vec<_> = status.replicas.into_iter().filter(|replica| replica.epoch_seen < status.epoch).collect();
            if behind.is_empty() || Instant::now() > until {
                return Ok(behind);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn find(&self, name: &str) -> Result<Migration, CoordinatorError> {
        let with_phases = || self.migrations.iter().filter(|migration| migration.has_phases());
        with_phases().find(|migration| migration.name == name).copied().ok_or_else(|| CoordinatorError::Unknown {
            name: name.to_owned(),
            known: with_phases().map(|migration| migration.name).collect(),
        })
    }

    /// Moves on for as long as it stands in one of these phases.
    async fn advanced_past(&mut self, migration: &Migration, phases: &[Phase]) -> Result<MigrationStatus, CoordinatorError> {
        loop {
            let status = self.migration_status(migration).await?;
            if !status.phase.is_some_and(|phase| phases.contains(&phase)) {
                return Ok(status);
            }
            self.advance(migration.name).await?;
        }
    }

    async fn migration_status(&self, migration: &Migration) -> Result<MigrationStatus, DatabaseError> {
        let status = self.status().await?;
        let found = status.migrations.into_iter().find(|found| found.name == migration.name);
        found.ok_or_else(|| DatabaseError::mismatch("the status leaves out a migration of this build"))
    }

    /// One compare-and-set: the phase, the fence that belongs to it, the epoch, the log and the word to the replicas.
    async fn move_to(&mut self, migration: &Migration, from: Phase, to: Phase) -> Result<i64, CoordinatorError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let moved = self.watched(self.try_move(migration, from, to)).await;
            match moved {
                Ok(Some(epoch)) => {
                    let name = migration.name;
                    tracing::info!(
                        migration.name = name,
                        migration.phase = to.word(),
                        epoch,
                        "the migration {name} moved from {from} to {to}"
                    );
                    return Ok(epoch);
                }
                Ok(None) => {
                    self.session.batch_execute("ROLLBACK").await?;
                    return Err(CoordinatorError::Moved(migration.name));
                }
                Err(error) => {
                    self.session.batch_execute("ROLLBACK").await?;
                    if !error.is_retryable() {
                        return Err(error.into());
                    }
                    if attempts >= FENCE_ATTEMPTS {
                        let what = format!("the move to {to}");
                        return Err(CoordinatorError::Blocked { what, attempts, blockers: self.blockers() });
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn try_move(&self, migration: &Migration, from: Phase, to: Phase) -> Result<Option<i64>, DatabaseError> {
        self.session.batch_execute(&format!("BEGIN; {FENCE_TIMEOUT}")).await?;
        if let Some(dual) = migration.dual_write.filter(|_| from.rule().old_writes && !to.rule().old_writes) {
            // Waits for every writer in flight and keeps new ones out until the fence is committed: they read it after us.
            self.session.batch_execute(&format!("{}; {FENCE_TIMEOUT}", dual.keep_vacuum_out())).await?;
            self.session.batch_execute(&format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", dual.table)).await?;
        }
        let shape = |dual: &DualWrite| if to.rule().old_writes { dual.old.schema } else { dual.new.schema };
        let least = migration.dual_write.map_or(0, shape);
        let event = format!("{from} -> {to}");
        let row = self
            .session
            .query_opt(
                "WITH control AS (UPDATE mcp_control SET epoch = epoch + 1 WHERE lease_epoch = $1 RETURNING epoch), \
                 moved AS (UPDATE mcp_migrations SET phase = $4, min_writer = $5, moved_at = now(), moved_epoch = control.epoch \
                   FROM control WHERE name = $2 AND phase = $3 RETURNING control.epoch), \
                 logged AS (INSERT INTO mcp_migration_log (migration, event, epoch, actor) SELECT $2, $6, epoch, $7 FROM moved) \
                 SELECT epoch, pg_notify('mcp_control', epoch::text)::text FROM moved",
                &[
                    (&self.lease, Type::INT8),
                    (&migration.name, Type::TEXT),
                    (&from.number(), Type::INT2),
                    (&to.number(), Type::INT2),
                    (&least, Type::INT2),
                    (&event, Type::TEXT),
                    (&self.actor, Type::TEXT),
                ],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        if to < from {
            // What was found to be filled and proven is to be found again on the way on.
            let again = "DELETE FROM mcp_migration_steps WHERE migration = $1 AND step LIKE 'backfill:%'";
            self.session.query(again, &[(&migration.name, Type::TEXT)]).await?;
            let verdict = "UPDATE mcp_migrations SET verdict = NULL, verdict_epoch = NULL WHERE name = $1";
            self.session.query(verdict, &[(&migration.name, Type::TEXT)]).await?;
        }
        self.session.batch_execute("COMMIT").await?;
        Ok(Some(row.get(0)))
    }

    async fn expand_one(&mut self, migration: &Migration, until: Instant) -> Result<(), MigrationError> {
        if let Some(dual) = migration.dual_write {
            self.clear_neighbors(migration, dual).await?;
        }
        for step in parsed(migration, Some(migration.expand))? {
            self.step(migration, "expand", &step, until).await?;
        }
        let name = migration.name;
        let phase = if migration.has_phases() { Phase::Expand.number().to_string() } else { "NULL".to_owned() };
        let sum = checksum(migration.expand);
        let mut sql = migration.dual_write.map(|dual| dual.expand_sql(&self.schema)).unwrap_or_default();
        // The row comes with the trigger that reads it.
        let _ = write!(
            sql,
            "{NEXT_EPOCH}; INSERT INTO mcp_migrations (name, checksum, phase, moved_epoch) \
                 VALUES ('{name}', '{sum}', {phase}, (SELECT epoch FROM mcp_control)); \
                 {ANNOUNCE}"
        );
        self.in_transaction(migration, &sql, until).await?;
        self.log(name, "expanded").await?;
        if migration.has_phases() {
            self.move_to(migration, Phase::Expand, Phase::Dual).await.map_err(Box::new)?;
        }
        Ok(())
    }

    /// At most two shapes of a table are alive at once. On a new database nobody has the older one in mind and no row has it:
    /// it is contracted on the way.
    async fn clear_neighbors(&mut self, migration: &Migration, dual: &DualWrite) -> Result<(), MigrationError> {
        for other in self.migrations.clone() {
            if other.name == migration.name || !same_table(&other, migration) {
                continue;
            }
            let phase = "SELECT phase FROM mcp_migrations WHERE name = $1 AND phase < $2";
            let contract = Phase::Contract.number();
            let phase = self.session.query_opt(phase, &[(&other.name, Type::TEXT), (&contract, Type::INT2)]).await?;
            let Some(phase) = phase.and_then(|row| Phase::from_number(row.get(0))) else { continue };
            let used = format!(
                "SELECT EXISTS (SELECT 1 FROM {}) OR EXISTS (SELECT 1 FROM mcp_replicas WHERE seen_at > now() - {LIVE})",
                dual.table
            );
            if self.session.query_opt(&used, &[]).await?.is_none_or(|row| row.get(0)) {
                return Err(MigrationError::Declaration(format!(
                    "{} cannot begin while {} is in phase {phase}: {} would have three shapes at once; contract {} first",
                    migration.name, other.name, dual.table, other.name
                )));
            }
            self.contract_sql(&other).await?;
        }
        Ok(())
    }

    async fn step(&mut self, migration: &Migration, part: &str, step: &Step, until: Instant) -> Result<(), MigrationError> {
        let key = format!("{part}:{}", step.name);
        let done = "SELECT 1 FROM mcp_migration_steps WHERE migration = $1 AND step = $2 AND finished_at IS NOT NULL";
        let names = [(&migration.name as _, Type::TEXT), (&key as _, Type::TEXT)];
        if self.session.query_opt(done, &names).await?.is_some() {
            return Ok(());
        }
        let finished = format!(
            "INSERT INTO mcp_migration_steps (migration, step, finished_at) VALUES ('{}', '{key}', now()) \
             ON CONFLICT (migration, step) DO UPDATE SET finished_at = now()",
            migration.name
        );
        match step.kind {
            // Together: a step that happened is a step that is remembered.
            StepKind::Transaction => {
                let sql = format!("{};\n{finished}", step.sql.trim_end().trim_end_matches(';'));
                self.in_transaction(migration, &sql, until).await
            }
            StepKind::Concurrently => {
                self.concurrently(migration, step, until).await?;
                self.session.batch_execute(&finished).await?;
                Ok(())
            }
            StepKind::Batched => {
                let pace = Pace::default();
                let ran = backfill::run(&self.session, migration.name, &key, step.sql, &pace, &()).await;
                ran.map(drop).map_err(|source| failed(migration, source))
            }
        }
    }

    /// Outside any transaction. What an earlier attempt left half-built is taken away first: `IF NOT EXISTS` would keep it.
    async fn concurrently(&mut self, migration: &Migration, step: &Step, until: Instant) -> Result<(), MigrationError> {
        let index = index_name(step.sql);
        let mut pause = Pause::new();
        loop {
            if let Some(index) = &index {
                let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)";
                let state = self.session.query_opt(valid, &[(index, Type::TEXT)]).await?;
                match state.map(|row| row.get::<_, bool>(0)) {
                    Some(true) => return Ok(()),
                    Some(false) => {
                        tracing::warn!(migration.name = migration.name, index, "the index {index} is invalid and is built anew");
                        self.watched(self.session.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")))
                            .await
                            .map_err(|source| failed(migration, source))?;
                    }
                    None => {}
                }
            }
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.session.batch_execute(&format!("SET statement_timeout = {}", left.as_millis())).await?;
            let ran = self.watched(self.session.batch_execute(step.sql)).await;
            self.session.batch_execute(&format!("SET statement_timeout = {}", LONGEST_STATEMENT.as_millis())).await?;
            match ran {
                Ok(()) => return Ok(()),
                Err(source) if source.is_retryable() => {
                    if !pause.before(until).await {
                        return Err(self.late(migration, source));
                    }
                }
                Err(source) => return Err(failed(migration, source)),
            }
        }
    }

    /// All of it in one transaction, tried until it gets its locks.
    async fn in_transaction(&mut self, migration: &Migration, sql: &str, until: Instant) -> Result<(), MigrationError> {
        let mut pause = Pause::new();
        loop {
            let left = until.saturating_duration_since(Instant::now()).as_millis().max(1);
            let calm = migration.dual_write.map(|dual| format!("{}; ", dual.keep_vacuum_out())).unwrap_or_default();
            let begin = format!("{calm}{LOCK_TIMEOUT}; SET LOCAL statement_timeout = {left}");
            self.session.batch_execute("BEGIN").await?;
            let ran = self.watched(async {
                self.session.batch_execute(&begin).await?;
                self.session.batch_execute(sql).await?;
                self.session.batch_execute("COMMIT").await
            });
            match ran.await {
                Ok(()) => return Ok(()),
                Err(source) => {
                    self.session.batch_execute("ROLLBACK").await?;
                    if !source.is_retryable() {
                        return Err(failed(migration, source));
                    }
                    if !pause.before(until).await {
                        return Err(self.late(migration, source));
                    }
                }
            }
        }
    }

    /// Looks from outside, while something waits, at who it waits for.
    async fn watched<T>(&self, work: impl Future<Output = Result<T, DatabaseError>>) -> Result<T, DatabaseError> {
        let watch = async {
            // The first look comes before the shortest wait, the fence's, is over.
            let mut every = tokio::time::interval_at(Instant::now() + FIRST_LOOK, LOOK);
            loop {
                every.tick().await;
                let Ok(found) = find_blockers(&self.database, self.pid).await else { continue };
                let mut known = self.blockers.lock().unwrap_or_else(PoisonError::into_inner);
                for blocker in &found {
                    if !known.iter().any(|other| other.pid == blocker.pid) {
                        tracing::warn!(blocker.pid = blocker.pid, "a migration waits for {blocker}");
                    }
                }
                if !found.is_empty() {
                    *known = found;
                }
            }
        };
        tokio::select! {
            done = work => done,
            () = watch => unreachable!("it looks until the work is done"),
        }
    }

    fn blockers(&self) -> Vec<Blocker> {
        self.blockers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn late(&self, migration: &Migration, source: DatabaseError) -> MigrationError {
        MigrationError::Deadline { name: migration.name, source: Some(source), blockers: self.blockers() }
    }

    async fn log(&self, migration: &str, event: &str) -> Result<(), DatabaseError> {
        self.session
            .query(
                "INSERT INTO mcp_migration_log (migration, event, actor) VALUES ($1, $2, $3)",
                &[(&migration, Type::TEXT), (&event, Type::TEXT), (&self.actor, Type::TEXT)],
            )
            .await?;
        Ok(())
    }
}

fn failed(migration: &Migration, source: DatabaseError) -> MigrationError {
    MigrationError::Failed { name: migration.name, source }
}

fn refuse(migration: &Migration, phase: Option<Phase>, reason: &str) -> CoordinatorError {
    let phase = phase.unwrap_or(Phase::Idle);
    CoordinatorError::Refused { migration: migration.name, phase, reasons: vec![reason.to_owned()] }
}

fn parsed(migration: &Migration, text: Option<&'static str>) -> Result<Vec<Step>, MigrationError> {
    let parsed = text.map(steps).transpose();
    let parsed = parsed.map_err(|wrong| MigrationError::Declaration(format!("{}: {wrong}", migration.name)))?;
    Ok(parsed.unwrap_or_default())
}

/// The steps one after the other, for where all of them are one transaction.
fn joined(migration: &Migration, text: Option<&'static str>) -> Result<String, MigrationError> {
    Ok(parsed(migration, text)?.iter().map(|step| format!("{};\n", step.sql)).collect())
}

fn same_table(one: &Migration, other: &Migration) -> bool {
    matches!((one.dual_write, other.dual_write), (Some(one), Some(other)) if one.table == other.table)
}

/// The name in `CREATE [UNIQUE] INDEX CONCURRENTLY [IF NOT EXISTS] name ON …`.
fn index_name(sql: &str) -> Option<String> {
    let code = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    let words: Vec<&str> = code.flat_map(str::split_whitespace).collect();
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    if upper.first()? != "CREATE" {
        return None;
    }
    let at = upper.iter().position(|word| word == "CONCURRENTLY")? + 1;
    let at = if upper.get(at)? == "IF" { at + 3 } else { at };
    (upper.get(at)? != "ON").then(|| words[at].to_owned())
}

async fn holder(session: &Session) -> String {
    let asked = session.query_opt("SELECT coalesce(lease_holder, 'somebody') FROM mcp_control", &[]).await;
    asked.ok().flatten().map_or_else(|| "somebody else".to_owned(), |row| row.get(0))
}

async fn find_blockers(database: &Database, pid: i32) -> Result<Vec<Blocker>, DatabaseError> {
    let rows = database
        .get()
        .await?
        .query(
            "SELECT pid, coalesce(application_name, ''), coalesce(state, backend_type, ''), \
             coalesce(extract(epoch FROM now() - xact_start), 0)::bigint \
             FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1))",
            &[(&pid, Type::INT4)],
        )
        .await?;
    let blocker = |row: &crate::database::Row| Blocker {
        pid: row.get(0),
        application: row.get(1),
        state: row.get(2),
        open_secs: row.get(3),
    };
    Ok(rows.iter().map(blocker).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_statement_is_found() {
        let name = |sql| index_name(sql).unwrap_or_default();
        assert_eq!(name("CREATE INDEX CONCURRENTLY a ON t (b)"), "a");
        assert_eq!(name("-- Why\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a\nON t (b)"), "a");
        assert_eq!(name("CREATE INDEX CONCURRENTLY ON t (b)"), "");
        assert_eq!(name("ALTER TYPE t ADD VALUE 'a'"), "");
    }
}
