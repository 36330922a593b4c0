//! What a migration is, and the one thing every process does with them at its start: apply what is missing.
//!
//! A migration is a folder: `expand` adds what the new release needs, `backfill` fills it, `contract` removes what the old
//! release needed, `undo` takes the expand back. What must stay true: an applied migration never changes, nothing waits on a
//! lock without a bound, and a migration that only a newer release knows is none of our business until it fences us out.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::coordinator::{Coordinator, CoordinatorError};
use super::dual_write::DualWrite;
use super::phase::Phase;
use crate::database::{Connection, Database, DatabaseError, Row};

/// A step of the schema. What it does must suit the release before it as well as its own.
///
/// Each text is SQL: one transaction, or several steps, each after a line `-- step: NAME`. `-- step: NAME concurrently` is one
/// statement outside any transaction, such as `CREATE INDEX CONCURRENTLY`; it may run twice. `-- step: NAME batched` is one
/// statement that does a page of work: it is given the place where the last page ended (`$1`, text, NULL at first) and the
/// size of a page (`$2`, int), and answers one row: where this page ended (NULL when nothing is left), the rows it passed and
/// the rows it changed (bigint). The place is committed with the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// `NNNN_name`: the number gives the order.
    pub name: &'static str,
    /// Adds what the new release needs.
    pub expand: &'static str,
    /// Fills it, while both releases run.
    pub backfill: Option<&'static str>,
    /// Removes what the old release needed.
    pub contract: Option<&'static str>,
    /// Takes the expand back.
    pub undo: Option<&'static str>,
    /// The table that changes its shape, if one does: columns, trigger, backfill and validation come from this.
    pub dual_write: Option<&'static DualWrite>,
}

/// One step of a migration's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) kind: StepKind,
    pub(super) sql: &'static str,
}

/// How a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepKind {
    Transaction,
    Concurrently,
    Batched,
}

/// A migration that this call applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its name.
    pub name: &'static str,
    /// How long it took, without the attempts that failed.
    pub took: Duration,
}

/// Why the schema is not what this release needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// A name that says no order.
    #[error("the migration name {name:?} is not four digits, an underscore and lower-case words")]
    Name {
        /// The name.
        name: &'static str,
    },
    /// Two migrations of one number, or a smaller number after a greater.
    #[error("the migration {name} may not follow {before}: numbers must grow")]
    Order {
        /// The migration.
        name: &'static str,
        /// The one before it.
        before: &'static str,
    },
    /// A declaration or a step that cannot work.
    #[error("{0}")]
    Declaration(String),
    /// The text of an applied migration is not what was applied.
    #[error("the migration {name} was changed after it had been applied; add a new one instead")]
    Changed {
        /// The migration.
        name: &'static str,
    },
    /// The database left the window in which this release can work.
    #[error(
        "the database is in phase {phase} of the migration {name}, which this build does not know: deploy a newer build, or \
         take the migration back"
    )]
    TooOld {
        /// The migration.
        name: String,
        /// Where it stands.
        phase: Phase,
    },
    /// The migration failed, and nothing of its last step remains.
    #[error("the migration {name} failed")]
    Failed {
        /// The migration.
        name: &'static str,
        /// Why.
        source: DatabaseError,
    },
    /// The deadline came first: somebody else is still migrating, or holds what we need.
    #[error("the migration {name} was not applied in time{}", in_the_way(blockers))]
    Deadline {
        /// The migration.
        name: &'static str,
        /// What the last attempt ran into, unless it was another runner's turn.
        source: Option<DatabaseError>,
        /// Who stood in the way when last looked.
        blockers: Vec<Blocker>,
    },
    /// The record of applied migrations could not be read.
    #[error("the applied migrations cannot be read")]
    Record {
        /// Why.
        #[from]
        source: DatabaseError,
    },
    /// The coordinator could not do its part.
    #[error(transparent)]
    Coordinator(#[from] Box<CoordinatorError>),
}

/// Somebody who holds a lock that a step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The process id of its server process, for `pg_terminate_backend`.
    pub pid: i32,
    /// What it calls itself.
    pub application: String,
    /// What it is doing: `active`, `idle in transaction` and so on.
    pub state: String,
    /// How long its transaction has been open, in seconds.
    pub open_secs: i64,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.application.is_empty() { "unnamed" } else { &self.application };
        write!(f, "server process {} ({name}, {}, transaction open for {} s)", self.pid, self.state, self.open_secs)
    }
}

pub(super) fn in_the_way(blockers: &[Blocker]) -> String {
    if blockers.is_empty() {
        return String::new();
    }
    let list: Vec<_> = blockers.iter().map(ToString::to_string).collect();
    format!("; in its way: {}", list.join(", "))
}

const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// Twice the lock timeout: readers get through for longer than they were held up.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

// === impl Migration ===

impl Migration {
    /// A migration that only adds.
    #[must_use]
    pub const fn new(name: &'static str, expand: &'static str) -> Self {
        Self { name, expand, backfill: None, contract: None, undo: None, dual_write: None }
    }

    /// With a backfill of its own.
    #[must_use]
    pub const fn backfill(mut self, sql: &'static str) -> Self {
        self.backfill = Some(sql);
        self
    }

    /// With something to remove once no release needs it.
    #[must_use]
    pub const fn contract(mut self, sql: &'static str) -> Self {
        self.contract = Some(sql);
        self
    }

    /// With a way back.
    #[must_use]
    pub const fn undo(mut self, sql: &'static str) -> Self {
        self.undo = Some(sql);
        self
    }

    /// With a table that changes its shape.
    #[must_use]
    pub const fn dual_write(mut self, dual: &'static DualWrite) -> Self {
        self.dual_write = Some(dual);
        self
    }

    /// Whether it goes through the phases: it changes a table's shape, or has a part that runs later than its expand.
    #[must_use]
    pub const fn has_phases(&self) -> bool {
        self.dual_write.is_some() || self.backfill.is_some() || self.contract.is_some() || self.undo.is_some()
    }

    /// What is wrong with it, if something is.
    fn check(&self) -> Result<(), MigrationError> {
        if number(self.name).is_none() {
            return Err(MigrationError::Name { name: self.name });
        }
        let texts = [Some(self.expand), self.backfill, self.contract, self.undo];
        for text in texts.into_iter().flatten() {
            let mut names = Vec::new();
            for step in steps(text).map_err(|wrong| MigrationError::Declaration(format!("{}: {wrong}", self.name)))? {
                if names.contains(&step.name) {
                    return Err(MigrationError::Declaration(format!("{}: two steps are named {}", self.name, step.name)));
                }
                names.push(step.name);
            }
        }
        if let Some(dual) = self.dual_write {
            let mut mistakes = dual.mistakes();
            if dual.migration != self.name {
                mistakes.push(format!("{}: its dual write says that it belongs to {}", self.name, dual.migration));
            }
            if !mistakes.is_empty() {
                return Err(MigrationError::Declaration(mistakes.join("; ")));
            }
        }
        Ok(())
    }
}

/// The steps of a text.
pub(super) fn steps(text: &'static str) -> Result<Vec<Step>, String> {
    const MARK: &str = "-- step:";
    let mut steps: Vec<Step> = Vec::new();
    let mut marks: Vec<(usize, usize, &'static str)> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(words) = line.strip_prefix(MARK) {
            marks.push((at, at + line.len(), words.trim()));
        }
        at += line.len();
    }
    let Some(first) = marks.first() else {
        return Ok(vec![Step { name: "sql", kind: StepKind::Transaction, sql: text }]);
    };
    if text[..first.0].lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with("--")) {
        return Err("there is SQL before the first `-- step:`".to_owned());
    }
    for (index, (_, from, words)) in marks.iter().enumerate() {
        let to = marks.get(index + 1).map_or(text.len(), |next| next.0);
        let mut words = words.split_whitespace();
        let name = words.next().ok_or("a `-- step:` needs a name")?;
        let kind = match words.next() {
            None => StepKind::Transaction,
            Some("concurrently") => StepKind::Concurrently,
            Some("batched") => StepKind::Batched,
            Some(word) => return Err(format!("the step {name} is `{word}`: say concurrently, batched or nothing")),
        };
        steps.push(Step { name, kind, sql: text[*from..to].trim() });
    }
    Ok(steps)
}

/// Checks the migrations: `NNNN_name`, the numbers growing, steps and declarations that can work.
///
/// # Errors
///
/// The first mistake.
pub fn check_order(migrations: &[Migration]) -> Result<(), MigrationError> {
    migrations.iter().try_for_each(Migration::check)?;
    match migrations.windows(2).find(|pair| number(pair[1].name) <= number(pair[0].name)) {
        Some(pair) => Err(MigrationError::Order { name: pair[1].name, before: pair[0].name }),
        None => Ok(()),
    }
}

/// Applies what is missing, in order, and returns what this call applied. May be called by any number of processes at once.
///
/// # Errors
///
/// See [`MigrationError`]. Migrations before the one that failed stay applied.
pub async fn apply(database: &Database, migrations: &[Migration], deadline: Duration) -> Result<Vec<Applied>, MigrationError> {
    check_order(migrations)?;
    let Some(first) = migrations.first() else { return Ok(Vec::new()) };
    let until = Instant::now() + deadline;
    // Read without a lock: a process that finds everything done, as most do, disturbs nobody.
    let mut pause = Pause::new();
    loop {
        let trouble = match apply_once(database, migrations, until).await {
            // Somebody else is at it, or the database is away for a moment.
            Err(MigrationError::Record { source }) if source.is_retryable() => Some(source),
            Err(MigrationError::Coordinator(error)) if error.is_retryable() => error.into_database(),
            ended => return ended,
        };
        if !pause.before(until).await {
            return Err(MigrationError::Deadline { name: first.name, source: trouble, blockers: Vec::new() });
        }
    }
}

/// Whether everything these migrations add is there, and the database is in the window in which they can work.
///
/// # Errors
///
/// As for [`apply`], without those of applying.
pub async fn is_applied(database: &Database, migrations: &[Migration]) -> Result<bool, MigrationError> {
    check_record(migrations, &read_record(&database.get().await?).await?)
}

async fn apply_once(database: &Database, migrations: &[Migration], until: Instant) -> Result<Vec<Applied>, MigrationError> {
    let record = read_record(&database.get().await?).await?;
    if check_record(migrations, &record)? {
        return Ok(Vec::new());
    }
    let left = until.saturating_duration_since(Instant::now());
    let mut coordinator = Coordinator::take(database, migrations, "start", left).await.map_err(Box::new)?;
    coordinator.expand(until).await
}

/// Whether nothing is missing; an error when something is wrong.
pub(super) fn check_record(migrations: &[Migration], record: &HashMap<String, Recorded>) -> Result<bool, MigrationError> {
    let knows: Vec<_> = migrations.iter().map(|migration| migration.name).collect();
    let phases = record.iter().filter_map(|(name, recorded)| Some((name.as_str(), recorded.phase?)));
    if let Some(too_old) = too_new(phases, &knows) {
        return Err(too_old);
    }
    let mut complete = true;
    for migration in migrations {
        match record.get(migration.name) {
            Some(recorded) if recorded.checksum != checksum(migration.expand) => {
                return Err(MigrationError::Changed { name: migration.name });
            }
            Some(_) => {}
            None => complete = false,
        }
    }
    Ok(complete)
}

/// A migration that a build does not know and whose old shape is no longer written, or no longer there.
pub(super) fn too_new<'a>(mut phases: impl Iterator<Item = (&'a str, Phase)>, knows: &[&str]) -> Option<MigrationError> {
    let (name, phase) = phases.find(|(name, phase)| !phase.rule().old_writes && !knows.contains(name))?;
    Some(MigrationError::TooOld { name: name.to_owned(), phase })
}

/// What the database remembers of an applied migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) checksum: String,
    pub(super) phase: Option<Phase>,
}

/// Gives a row once the control tables are there. It looks for the last of them: older builds had the first.
pub(super) const CONTROL_TABLES: &str = "SELECT 1 FROM pg_catalog.pg_class WHERE oid = to_regclass('mcp_flags')";

/// What [`recorded`] reads.
pub(super) const RECORD: &str = "SELECT name, checksum, phase FROM mcp_migrations";

async fn read_record(connection: &Connection) -> Result<HashMap<String, Recorded>, DatabaseError> {
    if connection.query_opt(CONTROL_TABLES, &[]).await?.is_none() {
        return Ok(HashMap::new());
    }
    Ok(recorded(&connection.query(RECORD, &[]).await?))
}

pub(super) fn recorded(rows: &[Row]) -> HashMap<String, Recorded> {
    let phase = |row: &Row| row.get::<_, Option<i16>>(2).and_then(Phase::from_number);
    rows.iter().map(|row| (row.get(0), Recorded { checksum: row.get(1), phase: phase(row) })).collect()
}

/// SHA-256 in hexadecimal, of the text with plain line ends: a checkout on Windows is not a change.
pub(super) fn checksum(sql: &str) -> String {
    Sha256::digest(sql.replace("\r\n", "\n")).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(name: &str) -> Option<u16> {
    let (digits, words) = name.split_once('_')?;
    let word = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_';
    let well_formed =
        digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_digit()) && !words.is_empty() && words.bytes().all(word);
    well_formed.then(|| digits.parse().ok()).flatten()
}

/// Pauses that double, each shortened by chance so that runners do not meet again.
pub(super) struct Pause {
    next: Duration,
    chance: RandomState,
    count: u32,
}

// === impl Pause ===

impl Pause {
    pub(super) fn new() -> Self {
        Self { next: FIRST_PAUSE, chance: RandomState::new(), count: 0 }
    }

    /// Pauses, or says that the deadline comes first.
    pub(super) async fn before(&mut self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        self.count += 1;
        let percent = 50 + u32::try_from(self.chance.hash_one(self.count) % 50).expect("a remainder of 50 is small");
        tokio::time::sleep((self.next * percent / 100).min(left)).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&'static str]) -> Vec<Migration> {
        names.iter().map(|name| Migration::new(name, "")).collect()
    }

    #[test]
    fn numbers_must_grow() {
        assert!(check_order(&named(&["0001_sessions", "0002_calls", "0010_widgets_v2"])).is_ok());
        assert!(matches!(
            check_order(&named(&["0002_calls", "0001_sessions"])),
            Err(MigrationError::Order { name: "0001_sessions", before: "0002_calls" })
        ));
        assert!(matches!(check_order(&named(&["0001_a", "0001_b"])), Err(MigrationError::Order { .. })));
    }

    #[test]
    fn names_must_say_their_number() {
        for name in ["1_a", "0001", "0001_", "0001-a", "0001_A", "00011_a", "+001_a", "0001_a b"] {
            assert!(matches!(check_order(&named(&[name])), Err(MigrationError::Name { .. })), "{name}");
        }
    }

    #[test]
    fn line_ends_are_not_a_change() {
        assert_eq!(checksum("a\r\nb"), checksum("a\nb"));
        assert_ne!(checksum("a b"), checksum("a\nb"));
    }

    #[test]
    fn a_text_is_parted_into_steps() {
        let text =
            "-- Why.\n-- step: table\nCREATE TABLE t ();\n-- step: index concurrently\nCREATE INDEX CONCURRENTLY i ON t (a);\n";
        assert_eq!(
            steps(text).unwrap(),
            [
                Step { name: "table", kind: StepKind::Transaction, sql: "CREATE TABLE t ();" },
                Step { name: "index", kind: StepKind::Concurrently, sql: "CREATE INDEX CONCURRENTLY i ON t (a);" },
            ]
        );
        assert_eq!(steps("SELECT 1").unwrap().len(), 1);
        assert!(steps("SELECT 1;\n-- step: a\n").is_err());
        assert!(steps("-- step: a slowly\n").is_err());
        assert!(steps("-- step:\n").is_err());
    }
}
