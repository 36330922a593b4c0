//! What a process meets at its start: others that start too, locks, half-done work, and a database it does not know.

use std::time::Duration;

use bg_runtime::Color;
use bg_runtime::database::{Database, DatabaseConfig, Type};
use bg_runtime::storage::coordinator::CoordinatorError;
use bg_runtime::storage::dual_write::{Column, Key, Shape, Side};
use bg_runtime::storage::migration::{Migration, MigrationError, apply};
use bg_runtime::storage::{Control, DualWrite, Phase, Replica, Table};
use serde_json::json;

use crate::home::{Home, LONG, count, run, until, within};
use crate::sessions::{BEFORE, DURING, MIGRATIONS, NAME, PATIENCE, Releases, SESSIONS, filled, forward, phase};

const INDEX: Migration = Migration::new(
    "0002_index",
    "-- step: column\nALTER TABLE chat_sessions ADD COLUMN IF NOT EXISTS seen int\n\
     -- step: index concurrently\nCREATE UNIQUE INDEX CONCURRENTLY chat_sessions_seen ON chat_sessions (seen)\n",
);

const VALID: &str = "SELECT count(*) FROM pg_index WHERE indrelid = 'chat_sessions'::regclass AND indisvalid AND indisready \
     AND indexrelid::regclass::text LIKE 'chat_sessions_seen%'";
const ALL: &str = "SELECT count(*) FROM pg_index WHERE indrelid = 'chat_sessions'::regclass \
     AND indexrelid::regclass::text LIKE 'chat_sessions_seen%'";

#[tokio::test(flavor = "multi_thread")]
async fn ten_replicas_that_start_while_an_index_is_built_make_one_and_do_not_deadlock() {
    let home = Home::new();
    within(LONG, async {
        let operator = home.open().await;
        filled(&operator, 5000).await;
        // An index built while others write waits for every transaction that is older.
        let mut connection = operator.get().await.unwrap();
        let transaction = connection.transaction().await.unwrap();
        transaction.execute("UPDATE chat_sessions SET state_data = '{}' WHERE session_id = 's1'", &[]).await.unwrap();
        let mut starting = Vec::new();
        for _ in 0..10 {
            let database = Database::open(DatabaseConfig { pool_size: 2, ..home.config() }).await.unwrap();
            starting.push(tokio::spawn(async move {
                let migrations = [BEFORE, INDEX, Migration::new("0003_after", "CREATE TABLE after (n int)")];
                // The column needs a lock that the transaction holds; it ends before the index is built.
                let applied = apply(&database, &migrations, Duration::from_secs(40)).await;
                database.close().await.unwrap();
                applied
            }));
        }
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ADD COLUMN%'";
        until("one of them waits for the table", || async { count(&operator, waits).await == 1 }).await;
        let mut reader = operator.get().await.unwrap();
        transaction.commit().await.unwrap();
        // This one has seen nothing of the column, and the index waits for it.
        let transaction = reader.transaction().await.unwrap();
        transaction.query("SELECT txid_current()", &[]).await.unwrap();
        let building = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'";
        until("the index waits", || async { count(&operator, building).await == 1 || count(&operator, VALID).await == 1 }).await;
        transaction.commit().await.unwrap();

        let mut applied = Vec::new();
        for start in starting {
            applied.extend(start.await.unwrap().unwrap().into_iter().map(|applied| applied.name));
        }
        applied.sort_unstable();
        assert_eq!(applied, ["0002_index", "0003_after"]);
        assert_eq!((count(&operator, VALID).await, count(&operator, ALL).await), (1, 1));
        drop((connection, reader));
        operator.close().await.unwrap();
        // It would be tried again, and be slow and luck.
        let log = std::fs::read_to_string(home.directory.join("postgresql.log")).unwrap();
        assert!(!log.contains("deadlock detected"), "{log}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_left_half_built_is_built_anew() {
    let home = Home::new();
    within(LONG, async {
        let operator = home.open().await;
        filled(&operator, 100).await;
        run(&operator, "ALTER TABLE chat_sessions ADD COLUMN seen int; UPDATE chat_sessions SET seen = 7").await;
        let failed = apply(&operator, &[BEFORE, INDEX], PATIENCE).await;
        assert!(matches!(failed, Err(MigrationError::Failed { name: "0002_index", .. })), "{failed:?}");
        assert_eq!((count(&operator, VALID).await, count(&operator, ALL).await), (0, 1), "it left no invalid index to repair");

        run(&operator, "UPDATE chat_sessions SET seen = substr(session_id, 2)::int").await;
        let applied = apply(&operator, &[BEFORE, INDEX], PATIENCE).await.unwrap();
        assert_eq!(applied.len(), 1);
        assert_eq!((count(&operator, VALID).await, count(&operator, ALL).await), (1, 1));
        operator.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_lock_is_named() {
    let home = Home::new();
    within(LONG, async {
        let operator = home.open().await;
        filled(&operator, 1).await;
        let config = DatabaseConfig { application_name: "the monthly report".to_owned(), ..home.config() };
        let report = Database::open(config).await.unwrap();
        let mut connection = report.get().await.unwrap();
        let transaction = connection.transaction().await.unwrap();
        transaction.query("SELECT * FROM chat_sessions", &[]).await.unwrap();
        let pid: i32 = transaction.query("SELECT pg_backend_pid()", &[]).await.unwrap()[0].get(0);

        let late = apply(&operator, &MIGRATIONS, Duration::from_secs(2)).await.unwrap_err();
        let words = late.to_string();
        let MigrationError::Deadline { name: NAME, blockers, .. } = late else { panic!("{late:?}") };
        assert_eq!(blockers.iter().map(|blocker| blocker.pid).collect::<Vec<_>>(), [pid]);
        assert_eq!((&*blockers[0].application, &*blockers[0].state), ("the monthly report", "idle in transaction"));
        assert!(words.contains(&format!("server process {pid} (the monthly report, idle in transaction")), "{words}");
        transaction.commit().await.unwrap();
        apply(&operator, &MIGRATIONS, PATIENCE).await.unwrap();
        drop(connection);
        report.close().await.unwrap();
        operator.close().await.unwrap();
    })
    .await;
}

/// The change after the next, of the same table.
static DIALOGS: DualWrite = DualWrite {
    migration: "0003_dialog",
    old: Shape { schema: 2, columns: &[Column { name: "conversation_state", kind: "jsonb", lens: "dialog" }] },
    new: Shape { schema: 3, columns: &[Column { name: "dialog", kind: "jsonb", lens: "conversation_state" }] },
    mark: "dialog_version",
    table: "chat_sessions",
    key: Key { name: "session_id", kind: "text" },
    tags: &[],
};
const AFTER: Migration = Migration::new("0003_dialog", "").dual_write(&DIALOGS);

#[tokio::test(flavor = "multi_thread")]
async fn a_table_has_no_third_shape_until_the_first_is_gone() {
    within(LONG, async {
        let releases = Releases::with_rows(3).await;
        let newest = [BEFORE, DURING, AFTER];
        let refused = apply(&releases.operator, &newest, PATIENCE).await.unwrap_err();
        assert!(matches!(refused, MigrationError::Declaration(_)), "{refused:?}");
        assert!(refused.to_string().contains("contract 0002_conversation_state first"), "{refused}");

        let mut coordinator = releases.coordinator().await;
        forward(&mut coordinator, Phase::Fenced).await;
        drop(coordinator);
        let refused = apply(&releases.operator, &newest, PATIENCE).await.unwrap_err();
        assert!(refused.to_string().contains("is in phase fenced"), "{refused}");
        let mut coordinator = releases.coordinator().await;
        coordinator.contract(NAME).await.unwrap();
        drop(coordinator);
        assert_eq!(apply(&releases.operator, &newest, PATIENCE).await.unwrap()[0].name, "0003_dialog");

        // What was the new release is the old one now: it knows the new columns only.
        let blue = Table::new(releases.during.clone(), releases.control.clone(), &SESSIONS, Side::After);
        let read = blue.get((&"s0", Type::TEXT)).await.unwrap().unwrap();
        let state = json!({"old": 0, "new": 1});
        blue.update((&"s0", Type::TEXT), read.row_version, &[(&state, Type::JSONB)]).await.unwrap();
        let control = Control::new(releases.operator.clone(), Replica::new(Color::Green, "3", &newest));
        control.refresh().await.unwrap();
        let green = Table::new(releases.operator.clone(), control, &DIALOGS, Side::During);
        let read = green.get((&"s0", Type::TEXT)).await.unwrap().unwrap();
        assert_eq!(read.row.get::<_, serde_json::Value>(0), state);
        green.update((&"s0", Type::TEXT), read.row_version, &[(&json!({"old": 0, "new": 2}), Type::JSONB)]).await.unwrap();
        let read = blue.get((&"s0", Type::TEXT)).await.unwrap().unwrap();
        assert_eq!(read.row.get::<_, serde_json::Value>(0), json!({"old": 0, "new": 2}));
        releases.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_has_the_last_shape_at_once() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        let newest = [BEFORE, DURING, AFTER];
        assert_eq!(apply(&database, &newest, PATIENCE).await.unwrap().len(), 3);
        assert_eq!(apply(&database, &newest, PATIENCE).await.unwrap(), []);
        let control = Control::new(database.clone(), Replica::new(Color::Green, "3", &newest));
        control.refresh().await.unwrap();
        assert_eq!((control.phase(NAME), control.phase("0003_dialog")), (Phase::Contract, Phase::Dual));
        let green = Table::new(database.clone(), control.clone(), &DIALOGS, Side::During);
        let blue = Table::new(database.clone(), control, &SESSIONS, Side::After);
        green.insert((&"a", Type::TEXT), &[(&json!({"n": 1}), Type::JSONB)]).await.unwrap();
        let read = blue.get((&"a", Type::TEXT)).await.unwrap().unwrap();
        assert_eq!(read.row.get::<_, serde_json::Value>(0), json!({"n": 1}));
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_does_not_know_a_migration_starts_until_the_fence_and_holds_the_fence_up() {
    within(LONG, async {
        let releases = Releases::with_rows(3).await;
        let old = Control::new(releases.before.clone(), Replica::new(Color::Blue, "1", &[BEFORE]));
        let following = tokio::spawn(old.clone().follow());
        old.wait_for(|snapshot| snapshot.phase(NAME) == Phase::Dual).await;
        let mut coordinator = releases.coordinator().await;
        forward(&mut coordinator, Phase::ReadNew).await;
        assert_eq!(apply(&releases.before, &[BEFORE], PATIENCE).await.unwrap(), []);
        assert!(old.too_old().is_none());

        let refused = coordinator.advance(NAME).await.unwrap_err();
        assert!(matches!(&refused, CoordinatorError::Refused { phase: Phase::ReadNew, .. }), "{refused:?}");
        let words = refused.to_string();
        assert!(words.contains(old.instance()) && words.contains("still writes the old shape"), "{words}");
        following.abort();
        old.leave().await.unwrap();
        assert_eq!(coordinator.advance(NAME).await.unwrap(), Phase::Fenced);

        let refused = apply(&releases.before, &[BEFORE], PATIENCE).await.unwrap_err();
        assert!(matches!(&refused, MigrationError::TooOld { name, phase: Phase::Fenced } if name == NAME), "{refused:?}");
        old.refresh().await.unwrap();
        assert!(old.too_old().unwrap().to_string().contains("deploy a newer build"));
        old.leave().await.unwrap();

        coordinator.back(NAME, false).await.unwrap();
        assert_eq!(apply(&releases.before, &[BEFORE], PATIENCE).await.unwrap(), []);
        drop(coordinator);
        releases.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expand_is_undone_once_nobody_uses_it_and_leaves_nothing_behind() {
    within(LONG, async {
        let releases = Releases::with_rows(3).await;
        let mut coordinator = releases.coordinator().await;
        // As far as it goes, so that there is much to leave behind.
        forward(&mut coordinator, Phase::ReadNew).await;
        for goal in [Phase::Dual, Phase::Expand] {
            assert_eq!(coordinator.back(NAME, false).await.unwrap(), goal);
        }
        let state = json!({"old": 0, "new": 5});
        seen(&releases).await;
        let read = releases.green.get((&"s1", Type::TEXT)).await.unwrap().unwrap();
        releases.green.update((&"s1", Type::TEXT), read.row_version, &[(&state, Type::JSONB)]).await.unwrap();

        let refused = coordinator.back(NAME, false).await.unwrap_err().to_string();
        assert!(refused.contains(releases.control.instance()) && refused.contains("--undo"), "{refused}");
        let refused = coordinator.back(NAME, true).await.unwrap_err().to_string();
        assert!(refused.contains(releases.control.instance()) && !refused.contains("--undo"), "{refused}");
        assert_eq!(phase(&coordinator).await, Phase::Expand);
        releases.leave().await;
        assert_eq!(coordinator.back(NAME, true).await.unwrap(), Phase::Idle);

        let columns = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute \
             WHERE attrelid = 'chat_sessions'::regclass AND attnum > 0 AND NOT attisdropped";
        let row = releases.operator.get().await.unwrap().query_opt(columns, &[]).await.unwrap().unwrap();
        assert_eq!(row.get::<_, String>(0), "session_id state_data row_version writer_schema");
        for left in [
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'chat_sessions'::regclass",
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'chat_sessions'::regclass AND contype = 'c'",
            "SELECT count(*) FROM pg_proc WHERE proname LIKE 'mcp\\_%'",
            "SELECT count(*) FROM mcp_migration_steps WHERE migration = '0002_conversation_state'",
            "SELECT count(*) FROM mcp_migrations WHERE name = '0002_conversation_state'",
        ] {
            assert_eq!(count(&releases.operator, left).await, 0, "{left}");
        }
        let read = releases.blue.get((&"s1", Type::TEXT)).await.unwrap().unwrap();
        assert_eq!((read.row.get::<_, serde_json::Value>(0), read.row_version), (state.clone(), 1));
        drop(coordinator);

        assert_eq!(apply(&releases.operator, &MIGRATIONS, PATIENCE).await.unwrap()[0].name, NAME);
        releases.control.refresh().await.unwrap();
        let read = releases.green.get((&"s1", Type::TEXT)).await.unwrap().unwrap();
        assert_eq!(read.row.get::<_, serde_json::Value>(0), state);
        releases.green.update((&"s1", Type::TEXT), read.row_version, &[(&json!({"new": 6}), Type::JSONB)]).await.unwrap();
        // It looked once and follows no more: nobody is to wait for it.
        releases.leave().await;
        let mut coordinator = releases.coordinator().await;
        forward(&mut coordinator, Phase::Fenced).await;
        drop(coordinator);
        releases.close().await;
    })
    .await;
}

async fn seen(releases: &Releases) {
    releases.control.wait_for(|snapshot| snapshot.phase(NAME) == Phase::Expand).await;
}
