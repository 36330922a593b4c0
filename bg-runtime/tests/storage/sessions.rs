//! A table that changes its shape, the two releases that write it, and the ledger of what was acknowledged to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bg_runtime::Color;
use bg_runtime::database::{Database, DatabaseConfig, DatabaseError, Parameter, Type};
use bg_runtime::storage::backfill::Pace;
use bg_runtime::storage::dual_write::{Column, Key, Shape, Side};
use bg_runtime::storage::migration::{Migration, apply};
use bg_runtime::storage::validator::{ValidateOptions, Verdict};
use bg_runtime::storage::{Control, Coordinator, DualWrite, Phase, Replica, StorageError, Table};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::home::{Home, run, until};

/// The migration that changes the shape.
pub(crate) const NAME: &str = "0002_conversation_state";

pub(crate) static SESSIONS: DualWrite = DualWrite {
    migration: NAME,
    table: "chat_sessions",
    key: Key { name: "session_id", kind: "text" },
    old: Shape { schema: 1, columns: &[Column { name: "state_data", kind: "jsonb", lens: "conversation_state" }] },
    new: Shape { schema: 2, columns: &[Column { name: "conversation_state", kind: "jsonb", lens: "state_data" }] },
    mark: "conv_version",
    tags: &[],
};

pub(crate) const BEFORE: Migration = Migration::new(
    "0001_chat_sessions",
    "CREATE TABLE chat_sessions (session_id text COLLATE \"C\" PRIMARY KEY, state_data jsonb NOT NULL DEFAULT '{}', \
     row_version bigint NOT NULL DEFAULT 0, writer_schema smallint NOT NULL DEFAULT 1) WITH (fillfactor = 80)",
);

pub(crate) const DURING: Migration = Migration::new(NAME, "")
    .dual_write(&SESSIONS)
    .contract("ALTER TABLE chat_sessions ALTER COLUMN conversation_state SET NOT NULL");

pub(crate) const MIGRATIONS: [Migration; 2] = [BEFORE, DURING];

/// Longer than anything waits that goes well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The two releases on one database, and the operator who moves it.
pub(crate) struct Releases {
    pub(crate) home: Home,
    pub(crate) operator: Database,
    pub(crate) before: Database,
    pub(crate) during: Database,
    /// Followed, for the new release.
    pub(crate) control: Control,
    pub(crate) blue: Table,
    pub(crate) green: Table,
    following: JoinHandle<()>,
}

/// Somebody who writes.
#[derive(Clone)]
pub(crate) enum Pen {
    /// The release before: it compares and sets.
    Blue(Table),
    /// The release that brings the migration.
    Green(Table),
    /// One that has never heard of versions.
    Unaware(Database),
}

/// What was acknowledged, row by row and by the shape it was written in.
pub(crate) struct Ledger {
    rows: Vec<[Entry; 2]>,
}

#[derive(Default)]
struct Entry {
    acknowledged: AtomicI64,
    /// Writes whose answer was lost.
    doubtful: AtomicI64,
    /// The greatest count that somebody was told.
    told: AtomicI64,
}

/// Writers at full speed.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    writers: Vec<Writer>,
    stop: CancellationToken,
}

struct Writer {
    tally: Arc<Tally>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What one writer met.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) acknowledged: AtomicI64,
    pub(crate) fenced: AtomicI64,
    pub(crate) retried: AtomicI64,
    /// The longest that a write, or being told that there was none, took.
    pub(crate) longest_ms: AtomicI64,
}

const OLD: usize = 0;
const NEW: usize = 1;

// === impl Releases ===

impl Releases {
    /// With so many rows from before the migration, which is in [`Phase::Dual`].
    pub(crate) async fn with_rows(rows: usize) -> Self {
        let home = Home::new();
        let operator = migrated(&home, rows).await;
        let config = home.config();
        Self::join(home, operator, config).await
    }

    /// On a database that is migrated, with another way to it than the operator's.
    pub(crate) async fn join(home: Home, operator: Database, config: DatabaseConfig) -> Self {
        let before = Database::open(config.clone()).await.unwrap();
        let during = Database::open(DatabaseConfig { application_name: "green".to_owned(), ..config }).await.unwrap();
        // Not followed: a replica of the release before that nobody sees, as one that was cut off is not.
        let unseen = Control::new(before.clone(), Replica::new(Color::Blue, "1", &[BEFORE]));
        let control = Control::new(during.clone(), Replica::new(Color::Green, "2", &MIGRATIONS));
        let blue = Table::new(before.clone(), unseen, &SESSIONS, Side::Before);
        let green = Table::new(during.clone(), control.clone(), &SESSIONS, Side::During);
        let following = tokio::spawn(control.clone().follow());
        control.wait_for(|snapshot| snapshot.phase(NAME) > Phase::Idle).await;
        Self { home, operator, before, during, control, blue, green, following }
    }

    /// Takes the new release away.
    pub(crate) async fn leave(&self) {
        self.following.abort();
        self.control.leave().await.unwrap();
    }

    pub(crate) async fn coordinator(&self) -> Coordinator {
        Coordinator::take(&self.operator, &MIGRATIONS, "test", PATIENCE).await.unwrap()
    }

    pub(crate) async fn close(self) {
        self.following.abort();
        for database in [self.before, self.during, self.operator] {
            database.close().await.unwrap();
        }
    }
}

/// The operator's way to a database with so many rows from before the migration, which is in [`Phase::Dual`].
pub(crate) async fn migrated(home: &Home, rows: usize) -> Database {
    let operator = home.open().await;
    filled(&operator, rows).await;
    apply(&operator, &MIGRATIONS, PATIENCE).await.unwrap();
    operator
}

/// The table as the release before made it.
pub(crate) async fn filled(operator: &Database, rows: usize) {
    apply(operator, &[BEFORE], PATIENCE).await.unwrap();
    let insert = format!(
        "INSERT INTO chat_sessions (session_id, state_data) SELECT 's' || n, '{{\"old\": 0, \"new\": 0}}' \
         FROM generate_series(0, {rows} - 1) AS n"
    );
    run(operator, &insert).await;
}

/// Moves on to a phase as an operator does, one step at a time.
pub(crate) async fn forward(coordinator: &mut Coordinator, goal: Phase) {
    loop {
        let phase = phase(coordinator).await;
        if phase >= goal {
            return;
        }
        assert!(coordinator.wait_for_replicas(PATIENCE).await.unwrap().is_empty(), "a replica does not see {phase}");
        match phase {
            Phase::Backfill => {
                coordinator.backfill(NAME, &Pace::default(), &()).await.unwrap();
            }
            Phase::Validate => {
                let verdict = validate(coordinator).await;
                assert!(verdict.valid, "{verdict:#?}");
            }
            _ => {}
        }
        coordinator.advance(NAME).await.unwrap();
    }
}

pub(crate) async fn phase(coordinator: &Coordinator) -> Phase {
    let status = coordinator.status().await.unwrap();
    status.migrations.into_iter().find(|migration| migration.name == NAME).and_then(|migration| migration.phase).unwrap()
}

pub(crate) async fn validate(coordinator: &mut Coordinator) -> Verdict {
    coordinator.validate(NAME, ValidateOptions::default(), &()).await.unwrap()
}

/// Waits until every live replica acts on the phase.
pub(crate) async fn seen(coordinator: &Coordinator) {
    assert!(coordinator.wait_for_replicas(PATIENCE).await.unwrap().is_empty());
}

// === impl Pen ===

impl Pen {
    fn shape(&self) -> usize {
        if matches!(self, Self::Green(_)) { NEW } else { OLD }
    }

    /// Counts one more on a row, as often as it takes.
    pub(crate) async fn write(&self, ledger: &Ledger, row: usize) -> Result<(), StorageError> {
        let (shape, id) = (self.shape(), format!("s{row}"));
        let key: Parameter<'_> = (&id, Type::TEXT);
        let entry = &ledger.rows[row][shape];
        loop {
            let written = match self {
                Self::Blue(table) | Self::Green(table) => {
                    let told = ledger.told(row);
                    let read = table.get(key.clone()).await?.expect("nobody deletes");
                    let mut state: Value = read.row.get(0);
                    let counts = counts(&state);
                    assert!(
                        counts[OLD] >= told[OLD] && counts[NEW] >= told[NEW],
                        "{id} was read as {counts:?} after {told:?} was told"
                    );
                    let count = counts[shape] + 1;
                    state[["old", "new"][shape]] = count.into();
                    let written = table.update(key.clone(), read.row_version, &[(&state, Type::JSONB)]).await;
                    written.map(|_| count)
                }
                Self::Unaware(database) => {
                    let sql = "UPDATE chat_sessions SET state_data = jsonb_set(state_data, '{old}', \
                         to_jsonb((state_data->>'old')::int + 1)) WHERE session_id = $1 RETURNING (state_data->>'old')::int8";
                    let write = async {
                        let mut connection = database.get().await?;
                        // In a transaction, so that it is in flight for longer than a moment.
                        let transaction = connection.transaction().await?;
                        let row = transaction.query_opt(sql, std::slice::from_ref(&key)).await?.expect("nobody deletes");
                        transaction.commit().await?;
                        Ok(row.get(0))
                    };
                    write.await.map_err(|error: DatabaseError| StorageError::from(error))
                }
            };
            match written {
                Ok(count) => {
                    entry.told.fetch_max(count, Ordering::SeqCst);
                    entry.acknowledged.fetch_add(1, Ordering::SeqCst);
                    return Ok(());
                }
                Err(StorageError::Conflict) => {}
                Err(error) => {
                    if is_doubtful(&error) {
                        entry.doubtful.fetch_add(1, Ordering::SeqCst);
                    }
                    return Err(error);
                }
            }
        }
    }
}

/// Whether the write may have happened all the same.
fn is_doubtful(error: &StorageError) -> bool {
    use DatabaseError::{Abandoned, Timeout, Unavailable};
    matches!(error, StorageError::Database(Unavailable { .. } | Timeout | Abandoned))
}

fn counts(state: &Value) -> [i64; 2] {
    ["old", "new"].map(|name| state[name].as_i64().unwrap())
}

fn number(id: &str) -> usize {
    id.strip_prefix('s').unwrap().parse().unwrap()
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn new(rows: usize) -> Arc<Self> {
        Arc::new(Self { rows: (0..rows).map(|_| Default::default()).collect() })
    }

    fn told(&self, row: usize) -> [i64; 2] {
        [OLD, NEW].map(|shape| self.rows[row][shape].told.load(Ordering::SeqCst))
    }

    /// What was acknowledged in all.
    pub(crate) fn acknowledged(&self) -> i64 {
        self.rows.iter().flatten().map(|entry| entry.acknowledged.load(Ordering::SeqCst)).sum()
    }

    /// What was acknowledged to writers of the old shape.
    pub(crate) fn acknowledged_old(&self) -> i64 {
        self.rows.iter().map(|row| row[OLD].acknowledged.load(Ordering::SeqCst)).sum()
    }

    /// Holds the ledger against the database: nothing that was acknowledged is missing, nothing is there that nobody wrote.
    pub(crate) async fn check(&self, database: &Database) {
        self.check_with(database, "SELECT session_id, state_data, row_version FROM chat_sessions").await;
        let diverged = "SELECT session_id FROM chat_sessions WHERE conv_version IS NOT NULL \
             AND (state_data IS DISTINCT FROM conversation_state OR conv_version <> row_version)";
        assert_eq!(database.get().await.unwrap().query(diverged, &[]).await.unwrap().len(), 0, "the shapes diverged");
    }

    /// What is told is there, while more is written.
    pub(crate) async fn check_while_writing(&self, database: &Database) {
        let told: Vec<_> = (0..self.rows.len()).map(|row| self.told(row)).collect();
        let sql = "SELECT session_id, conversation_state FROM chat_sessions";
        for row in database.get().await.unwrap().query(sql, &[]).await.unwrap() {
            let (id, state): (String, Value) = (row.get(0), row.get(1));
            let (told, counts) = (told[number(&id)], counts(&state));
            assert!(counts[OLD] >= told[OLD] && counts[NEW] >= told[NEW], "{id} counts {counts:?}, and {told:?} was told");
        }
    }

    /// [`check`](Self::check), once the old shape is gone.
    pub(crate) async fn check_contracted(&self, database: &Database) {
        self.check_with(database, "SELECT session_id, conversation_state, row_version FROM chat_sessions").await;
    }

    async fn check_with(&self, database: &Database, sql: &'static str) {
        let rows = database.get().await.unwrap().query(sql, &[]).await.unwrap();
        assert_eq!(rows.len(), self.rows.len());
        for row in rows {
            let (id, state, version): (String, Value, i64) = (row.get(0), row.get(1), row.get(2));
            let counts = counts(&state);
            for (shape, count) in counts.iter().enumerate() {
                let entry = &self.rows[number(&id)][shape];
                let acknowledged = entry.acknowledged.load(Ordering::SeqCst);
                let possible = acknowledged + entry.doubtful.load(Ordering::SeqCst);
                assert!((acknowledged..=possible).contains(count), "{id} counts {count}, not {acknowledged} to {possible}");
            }
            assert_eq!(version, counts[OLD] + counts[NEW], "{id} has a version that is not its number of writes");
        }
    }
}

// === impl Load ===

impl Load {
    /// Writes until [`stop`](Self::stop) or, all writers together, so many times.
    pub(crate) fn start(rows: usize, pens: Vec<Pen>, times: i64) -> Self {
        let (ledger, stop, left) = (Ledger::new(rows), CancellationToken::new(), Arc::new(AtomicI64::new(times)));
        let writer = |(number, pen): (usize, Pen)| {
            let tally = Arc::new(Tally::default());
            let stop = stop.child_token();
            let work = work(pen, number, Arc::clone(&ledger), Arc::clone(&tally), stop.clone(), Arc::clone(&left));
            Writer { tally, stop, task: tokio::spawn(work) }
        };
        let writers = pens.into_iter().enumerate().map(writer).collect();
        Self { ledger, writers, stop }
    }

    /// What each writer met so far.
    pub(crate) fn tallies(&self) -> Vec<Arc<Tally>> {
        self.writers.iter().map(|writer| Arc::clone(&writer.tally)).collect()
    }

    /// Waits until each of these writers has met more of something.
    pub(crate) async fn more(&self, what: &str, writers: &[usize], of: impl Fn(&Tally) -> &AtomicI64, more: i64) {
        let count = |writer: &usize| of(&self.writers[*writer].tally).load(Ordering::SeqCst);
        let goals: Vec<_> = writers.iter().map(|writer| count(writer) + more).collect();
        until(what, || async {
            assert!(writers.iter().all(|writer| !self.writers[*writer].task.is_finished()), "a writer gave up: {what}");
            writers.iter().zip(&goals).all(|(writer, goal)| count(writer) >= *goal)
        })
        .await;
    }

    /// Stops these writers and waits for it.
    pub(crate) async fn leave(&self, writers: &[usize]) {
        let leaving = || writers.iter().map(|writer| &self.writers[*writer]);
        leaving().for_each(|writer| writer.stop.cancel());
        until("they leave", || async { leaving().all(|writer| writer.task.is_finished()) }).await;
    }

    /// Waits for writers that were given a number of times.
    pub(crate) async fn join(self) -> Arc<Ledger> {
        for writer in self.writers {
            writer.task.await.unwrap();
        }
        self.ledger
    }

    pub(crate) async fn stop(self) -> Arc<Ledger> {
        self.stop.cancel();
        self.join().await
    }
}

async fn work(pen: Pen, number: usize, ledger: Arc<Ledger>, tally: Arc<Tally>, stop: CancellationToken, left: Arc<AtomicI64>) {
    let mut next = number * 7919 + 1;
    while !stop.is_cancelled() && left.fetch_sub(1, Ordering::SeqCst) > 0 {
        // A walk that meets the other writers in ever other places.
        next = next.wrapping_mul(1_103_515_245).wrapping_add(12_345) % (1 << 31);
        let met = loop {
            let begun = Instant::now();
            let written = pen.write(&ledger, (next >> 8) % ledger.rows.len()).await;
            tally.longest_ms.fetch_max(begun.elapsed().as_millis().try_into().unwrap(), Ordering::SeqCst);
            match written {
                Ok(()) => break &tally.acknowledged,
                Err(StorageError::Fenced) if pen.shape() == OLD => {
                    tally.fenced.fetch_add(1, Ordering::SeqCst);
                    // As a client does that was told to try again.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if stop.is_cancelled() {
                        return;
                    }
                }
                Err(error) if error.is_retryable() => break &tally.retried,
                Err(error) => panic!("writer {number}: {}", crate::home::chain(&error)),
            }
        };
        met.fetch_add(1, Ordering::SeqCst);
    }
}

/// A pool that gives up early, through another way.
pub(crate) fn impatient(url: String) -> DatabaseConfig {
    let second = Duration::from_secs(1);
    DatabaseConfig {
        url: Some(url.into()),
        wait: second / 2,
        create: second,
        statement_timeout: second,
        ..DatabaseConfig::default()
    }
}
