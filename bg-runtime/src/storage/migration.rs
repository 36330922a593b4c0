//! Migrations of the schema, applied once however many processes start at the same time.
//!
//! What must stay true: an applied migration never changes, nothing waits on a lock without a bound, and a migration that
//! only a newer release knows is none of our business: the old color has to start after the new one migrated.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::database::{Connection, Database, DatabaseError, Transaction, Type};

/// A step of the schema. What it does must suit the release before it as well as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// `NNNN_name`: the number gives the order.
    pub name: &'static str,
    /// The SQL that adds what the new release needs. It runs in one transaction, so it may not hold one of its own.
    pub expand: &'static str,
}

/// A migration that this call applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its name.
    pub name: &'static str,
    /// How long its transaction took, without the attempts that failed.
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
    /// The text of an applied migration is not what was applied.
    #[error("the migration {name} was changed after it had been applied; add a new one instead")]
    Changed {
        /// The migration.
        name: &'static str,
    },
    /// The migration failed, and nothing of it remains.
    #[error("the migration {name} failed")]
    Failed {
        /// The migration.
        name: &'static str,
        /// Why.
        source: DatabaseError,
    },
    /// The deadline came first: somebody else is still migrating, or holds what we need.
    #[error("the migration {name} was not applied in time")]
    Deadline {
        /// The migration.
        name: &'static str,
        /// What the last attempt ran into, unless it was another runner's turn.
        source: Option<DatabaseError>,
    },
    /// The record of applied migrations could not be read.
    #[error("the applied migrations cannot be read")]
    Record {
        /// Why.
        #[from]
        source: DatabaseError,
    },
}

/// How one attempt ended.
enum Attempt {
    Applied(Duration),
    /// Somebody else had applied it.
    Found(String),
    /// It is another runner's turn.
    Taken,
}

const TABLE: &str = r#"CREATE TABLE IF NOT EXISTS mcp_migrations (
    name text COLLATE "C" PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"#;

/// The advisory lock of all runners: the first eight bytes of SHA-256("mcp_migrations"), so that no application picks it too.
const LOCK: i64 = 0x9246_9a17_ba3b_5225_u64.cast_signed();

/// The queue behind an ALTER that waits holds up every reader of its table, so no attempt waits longer than a reader may.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";

const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// Twice the lock timeout: readers get through for longer than they were held up.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Checks the names: `NNNN_name`, the numbers growing.
///
/// # Errors
///
/// [`MigrationError::Name`] or [`MigrationError::Order`], for the first that is wrong.
pub fn check_order(migrations: &[Migration]) -> Result<(), MigrationError> {
    for migration in migrations {
        if number(migration.name).is_none() {
            return Err(MigrationError::Name { name: migration.name });
        }
    }
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
    let known = recorded(database, first.name, until).await?;
    let mut applied = Vec::new();
    for migration in migrations {
        match known.get(migration.name) {
            Some(checksum) => compare(migration, checksum)?,
            None => applied.extend(apply_one(database, migration, until).await?),
        }
    }
    Ok(applied)
}

async fn recorded(database: &Database, first: &'static str, until: Instant) -> Result<HashMap<String, String>, MigrationError> {
    let mut pause = Pause::new();
    loop {
        let read = async {
            let connection = database.get().await?;
            read_record(&connection).await
        };
        match read.await {
            Ok(record) => return Ok(record),
            Err(source) if !source.is_retryable() => return Err(source.into()),
            Err(source) => {
                if !pause.before(until).await {
                    return Err(MigrationError::Deadline { name: first, source: Some(source) });
                }
            }
        }
    }
}

async fn read_record(connection: &Connection) -> Result<HashMap<String, String>, DatabaseError> {
    let there = "SELECT 1 FROM pg_catalog.pg_class WHERE oid = to_regclass('mcp_migrations')";
    if connection.query_opt(there, &[]).await?.is_none() {
        return Ok(HashMap::new());
    }
    let rows = connection.query("SELECT name, checksum FROM mcp_migrations", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn apply_one(database: &Database, migration: &Migration, until: Instant) -> Result<Option<Applied>, MigrationError> {
    let name = migration.name;
    let mut pause = Pause::new();
    loop {
        let trouble = match attempt(database, migration, until).await {
            Ok(Attempt::Applied(took)) => {
                tracing::info!(migration.name = name, duration_ms = took.as_millis(), "the migration {name} was applied");
                return Ok(Some(Applied { name, took }));
            }
            Ok(Attempt::Found(checksum)) => return compare(migration, &checksum).map(|()| None),
            Ok(Attempt::Taken) => None,
            // A commit whose answer was lost may have happened: the next attempt finds it.
            Err(error) if error.is_retryable() => Some(error),
            Err(source) => return Err(MigrationError::Failed { name, source }),
        };
        if !pause.before(until).await {
            return Err(MigrationError::Deadline { name, source: trouble });
        }
    }
}

async fn attempt(database: &Database, migration: &Migration, until: Instant) -> Result<Attempt, DatabaseError> {
    let mut connection = database.get().await?;
    let begun = Instant::now();
    let transaction = connection.transaction().await?;
    // Tried and not waited for: a runner waiting in a transaction would hold up another's CREATE INDEX CONCURRENTLY, and
    // that one holds the lock.
    let turn = transaction.query_opt("SELECT pg_try_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    if !turn.is_some_and(|row| row.get(0)) {
        transaction.rollback().await?;
        return Ok(Attempt::Taken);
    }
    transaction.batch_execute(LOCK_TIMEOUT).await?;
    // Under the lock, for two sessions that create one table at the same time fail even with IF NOT EXISTS.
    transaction.batch_execute(TABLE).await?;
    if let Some(checksum) = find(&transaction, migration.name).await? {
        transaction.rollback().await?;
        return Ok(Attempt::Found(checksum));
    }
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    transaction.batch_execute(&format!("SET LOCAL statement_timeout = {}", left.as_millis().max(1))).await?;
    transaction.batch_execute_within(migration.expand, left + Duration::from_secs(1)).await?;
    let sum = checksum(migration.expand);
    let row = "INSERT INTO mcp_migrations (name, checksum) VALUES ($1, $2)";
    transaction.execute(row, &[(&migration.name, Type::TEXT), (&sum, Type::TEXT)]).await?;
    transaction.commit().await?;
    Ok(Attempt::Applied(begun.elapsed()))
}

async fn find(transaction: &Transaction<'_>, name: &str) -> Result<Option<String>, DatabaseError> {
    let row = transaction.query_opt("SELECT checksum FROM mcp_migrations WHERE name = $1", &[(&name, Type::TEXT)]).await?;
    Ok(row.map(|row| row.get(0)))
}

fn compare(migration: &Migration, recorded: &str) -> Result<(), MigrationError> {
    if checksum(migration.expand) == recorded { Ok(()) } else { Err(MigrationError::Changed { name: migration.name }) }
}

/// SHA-256 in hexadecimal, of the text with plain line ends: a checkout on Windows is not a change.
fn checksum(sql: &str) -> String {
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
struct Pause {
    next: Duration,
    chance: RandomState,
    count: u32,
}

// === impl Pause ===

impl Pause {
    fn new() -> Self {
        Self { next: FIRST_PAUSE, chance: RandomState::new(), count: 0 }
    }

    /// Pauses, or says that the deadline comes first.
    async fn before(&mut self, until: Instant) -> bool {
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
        names.iter().map(|name| Migration { name, expand: "" }).collect()
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
}
