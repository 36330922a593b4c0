//! Writes that would break the promise are refused, each with its own code, and leave nothing behind.

use std::sync::Arc;

use bg_runtime::database::{Database, DatabaseError, Type};
use bg_runtime::storage::StorageError;
use serde_json::json;

use crate::home::{LONG, chain, within};
use crate::sessions::Releases;

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_break_the_rules_are_refused_by_name_and_change_nothing() {
    within(LONG, async {
        let releases = Releases::with_rows(2).await;
        let before = rows(&releases.operator).await;
        let update = |set: &str| format!("UPDATE chat_sessions SET {set} WHERE session_id = 's0'");
        let insert =
            |columns: &str, values: &str| format!("INSERT INTO chat_sessions (session_id, {columns}) VALUES ('x', {values})");
        let write = "state_data = '{\"n\": 1}'";
        let refusals = [
            ("MC002", update(&format!("{write}, row_version = row_version + 2"))),
            ("MC002", update(&format!("{write}, row_version = row_version - 1"))),
            ("MC002", insert("row_version, writer_schema", "7, 1")),
            ("MC003", update("conversation_state = '{\"n\": 1}'")),
            ("MC003", update(&format!("{write}, conversation_state = '{{}}'"))),
            ("MC003", insert("conversation_state", "'{}'")),
            ("MC003", update(&format!("{write}, row_version = row_version + 1, writer_schema = 2"))),
            ("MC003", update(&format!("{write}, conversation_state = '{{}}', row_version = row_version + 1, writer_schema = 2"))),
            ("MC005", update(&format!("{write}, row_version = row_version + 1, writer_schema = 3"))),
            ("MC005", insert("row_version, writer_schema", "1, 9")),
            // Older than anybody.
            ("MC001", update(&format!("{write}, row_version = row_version + 1, writer_schema = 0"))),
        ];
        for (code, sql) in refusals {
            let error = refusal(&releases.operator, &sql).await;
            assert_eq!(error.sql_state().unwrap().code(), code, "{sql}: {error:?}");
            check(code, error);
        }
        for level in ["REPEATABLE READ", "SERIALIZABLE"] {
            let writes = [update(write), insert("state_data", "'{}'"), update("conv_version = NULL")];
            for sql in writes {
                let error = refusal(&releases.operator, &format!("BEGIN ISOLATION LEVEL {level}; {sql}")).await;
                assert_eq!(error.sql_state().unwrap().code(), "MC004", "{sql}: {error:?}");
                check("MC004", error);
            }
        }
        assert_eq!(rows(&releases.operator).await, before, "a refused write changed something");
        releases.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_character_that_postgresql_cannot_store_is_refused_by_name() {
    within(LONG, async {
        let releases = Releases::with_rows(1).await;
        let before = rows(&releases.operator).await;
        let nul = json!({"note": "a\u{0}b"});
        for table in [&releases.blue, &releases.green] {
            let read = table.get((&"s0", Type::TEXT)).await.unwrap().unwrap();
            let refusals = [
                table.update((&"s0", Type::TEXT), read.row_version, &[(&nul, Type::JSONB)]).await.map(drop),
                table.insert((&"x", Type::TEXT), &[(&nul, Type::JSONB)]).await.map(drop),
                table.insert((&"x\u{0}", Type::TEXT), &[(&json!({}), Type::JSONB)]).await.map(drop),
                table.get((&"x\u{0}", Type::TEXT)).await.map(drop),
            ];
            for refusal in refusals {
                let error = refusal.unwrap_err();
                assert!(matches!(error, StorageError::Nul) && !error.is_retryable(), "{error:?}");
                assert!(error.to_string().contains("NUL"), "{error}");
            }
        }
        assert_eq!(rows(&releases.operator).await, before);
        releases.close().await;
    })
    .await;
}

/// An upsert is the write that everybody writes by hand, and it fires the trigger twice.
#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_of_either_release_is_one_write() {
    within(LONG, async {
        let releases = Releases::with_rows(1).await;
        let connection = releases.operator.get().await.unwrap();
        let upserts = [
            ("INSERT INTO chat_sessions (session_id, state_data) VALUES ('s0', '{\"n\": 1}') ON CONFLICT (session_id) \
              DO UPDATE SET state_data = excluded.state_data", 1, 1),
            ("INSERT INTO chat_sessions (session_id, conversation_state, row_version, writer_schema) VALUES ('s0', '{\"n\": 2}', 1, 2) \
              ON CONFLICT (session_id) DO UPDATE SET conversation_state = excluded.conversation_state, \
              row_version = chat_sessions.row_version + 1, writer_schema = 2", 2, 2),
            ("INSERT INTO chat_sessions (session_id, state_data) VALUES ('s0', '{\"n\": 3}') ON CONFLICT (session_id) \
              DO UPDATE SET state_data = excluded.state_data", 3, 1),
            ("INSERT INTO chat_sessions (session_id, state_data) VALUES ('s1', '{\"n\": 1}') ON CONFLICT (session_id) \
              DO UPDATE SET state_data = excluded.state_data", 1, 1),
        ];
        for (sql, version, schema) in upserts {
            assert_eq!(connection.execute(sql, &[]).await.unwrap(), 1);
            let id = if sql.contains("'s1'") { "s1" } else { "s0" };
            let read = "SELECT row_version, writer_schema, conv_version, state_data = conversation_state, state_data->>'n' \
                 FROM chat_sessions WHERE session_id = $1";
            let row = connection.query_opt(read, &[(&id, Type::TEXT)]).await.unwrap().unwrap();
            assert_eq!((row.get::<_, i64>(0), row.get::<_, i16>(1), row.get::<_, i64>(2)), (version, schema, version), "{sql}");
            assert!(row.get::<_, bool>(3) && row.get::<_, String>(4) == version.to_string(), "{sql}");
        }
        drop(connection);
        releases.close().await;
    })
    .await;
}

async fn refusal(database: &Database, sql: &str) -> DatabaseError {
    // A session of its own: it may be left inside a transaction.
    let session = database.session().await.unwrap();
    session.batch_execute(sql).await.expect_err(sql)
}

/// A program can tell them apart, and a person can read them.
fn check(code: &str, error: DatabaseError) {
    let error = StorageError::from(error);
    let known = match code {
        "MC001" => matches!(error, StorageError::Fenced),
        "MC002" => matches!(error, StorageError::Version),
        "MC003" => matches!(error, StorageError::Untagged),
        "MC004" => matches!(error, StorageError::Isolation),
        "MC005" => matches!(error, StorageError::Schema),
        _ => false,
    };
    assert!(known && error.to_string().contains(code), "{}", chain(&error));
}

async fn rows(database: &Database) -> Arc<[String]> {
    let sql = "SELECT chat_sessions::text FROM chat_sessions ORDER BY session_id";
    database.get().await.unwrap().query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}
