//! Whose rows a statement reaches, in every table that has owners, as the migrations leave it. The user of the database is no
//! superuser, as in production.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use bg_runtime::{
    database::{Database, DatabaseConfig},
    storage::migration,
};
use mcp_server::appointments::MIGRATIONS;
use serde_json::json;
use tests::{
    http::Connection,
    postgres::DataDir,
    server::{Server, binary},
};

const LONG: Duration = Duration::from_secs(60);

/// Each table with owners, and a row of Ada's, of Bob's and of nobody's.
const TABLES: [(&str, &str); 8] = [
    (
        "appointments",
        "INSERT INTO appointments (id, lane, user_id, title, starts_at, ends_at) \
         SELECT id, id, owner, 'Tea', now(), now() FROM (SELECT gen_random_uuid() AS id, owner \
         FROM unnest('{ada,bob,anybody}'::text[]) AS owner) AS new",
    ),
    ("chat_sessions", "INSERT INTO chat_sessions (session_id, principal) VALUES ('a', 'ada'), ('b', 'bob'), ('n', '')"),
    (
        "mcp_sessions",
        "INSERT INTO mcp_sessions (session_id, principal, initialize, color, build) \
         SELECT gen_random_uuid(), principal, '{}', 'blue', '1' FROM unnest('{ada,bob,\"\"}'::text[]) AS principal",
    ),
    (
        "mcp_answers",
        "INSERT INTO mcp_answers (principal, tool, key, expires_at) VALUES ('=ada', 't', 'k', now()), ('=bob', 't', 'k', now()), \
         ('?ada', 't', 'k', now())",
    ),
    // These belong to whoever has the session, or the conversation, of those above.
    (
        "mcp_streams",
        "INSERT INTO mcp_streams (stream_id, session_id, request, instance) \
         SELECT gen_random_uuid(), session_id, '{}', 'i' FROM mcp_sessions",
    ),
    (
        "mcp_stream_events",
        "INSERT INTO mcp_stream_events (stream, message, is_answer) \
         SELECT stream_id::text, '{}', true FROM mcp_streams s JOIN mcp_sessions USING (session_id) WHERE principal <> '' \
         UNION ALL SELECT session_id || ':common', '{}', false FROM mcp_sessions WHERE principal = ''",
    ),
    ("mcp_tool_calls", "INSERT INTO mcp_tool_calls (session_id, tool_name) VALUES ('a', 't'), ('b', 't'), ('n', 't')"),
    ("mcp_pins", "INSERT INTO mcp_pins (conversation, build) VALUES ('a', '1'), ('b', '1'), ('n', '1')"),
];

/// The database as the migrations leave it.
async fn migrated(data: &DataDir) -> Database {
    let config = DatabaseConfig { url: Some(data.owned().await.into()), pool_size: 1, ..DatabaseConfig::default() };
    let database = Database::open(config).await.expect("an address is one");
    migration::apply(&database, MIGRATIONS, LONG).await.expect("whoever owns a database may migrate it");
    database
}

/// How many rows a statement touches that does not ask whose they are.
async fn touches(database: &Database, principal: Option<&str>, sql: String) -> u64 {
    let mut connection = database.get_as(principal).await.expect("PostgreSQL answers");
    let transaction = connection.transaction().await.expect("a transaction begins");
    let touched = transaction.execute(Box::leak(sql.into_boxed_str()), &[]).await.expect("a statement is one");
    transaction.rollback().await.expect("a transaction can be undone");
    touched
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_forgets_to_ask_whose_reaches_the_callers_alone() {
    let data = DataDir::new();
    let database = migrated(&data).await;
    tokio::time::timeout(LONG, async {
        for (table, fill) in TABLES {
            database.get().await.expect("PostgreSQL answers").batch_execute(fill).await.expect("rows can be added");
            for (principal, reaches) in [(None, 3), (Some("ada"), 1), (Some("bob"), 1), (Some("eve"), 0)] {
                for statement in ["SELECT FROM", "DELETE FROM"] {
                    let touched = touches(&database, principal, format!("{statement} {table}")).await;
                    assert_eq!(touched, reaches, "{principal:?}: {statement} {table}");
                }
            }
            // Nobody writes a row that is somebody else's: not a new one, and not by giving one away.
            let eve = database.get_as(Some("eve")).await.expect("PostgreSQL answers");
            match eve.execute(fill, &[]).await {
                Err(forged) => assert_eq!(forged.sql_state().map(|state| state.code()), Some("42501"), "{table}: {forged:?}"),
                // Made of the rows that she finds of the table before, which are none.
                Ok(rows) => assert!(rows == 0 && table.starts_with("mcp_stream"), "{table}: {rows} rows"),
            }
        }
        // In her name nobody finds what seals everybody's questions.
        const KEY: &str = "INSERT INTO mcp_request_state_keys (kid, secret) VALUES ('k', 'secret')";
        database.get().await.expect("PostgreSQL answers").batch_execute(KEY).await.expect("a key can be added");
        for (principal, reaches) in [(None, 1), (Some("eve"), 0)] {
            assert_eq!(touches(&database, principal, "SELECT FROM mcp_request_state_keys".to_owned()).await, reaches);
        }
    })
    .await
    .expect("in time");
    database.close().await.expect("a database can be closed");
}

/// A caller's statement adds rows to the audit log and reads its own. It takes none away, not even its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_audit_row_is_read_by_its_caller_and_changed_by_no_caller() {
    const ADD: &str = "INSERT INTO mcp_audit (principal, tool, outcome, color, build) VALUES ('ada', 't', 'ok', 'blue', '1')";
    let data = DataDir::new();
    let database = migrated(&data).await;
    database.get_as(Some("ada")).await.expect("PostgreSQL answers").batch_execute(ADD).await.expect("a row can be added");
    for (principal, reads, changes) in [(Some("ada"), 1, 0), (Some("bob"), 0, 0), (None, 1, 1)] {
        for (statement, reaches) in
            [("SELECT FROM mcp_audit", reads), ("DELETE FROM mcp_audit", changes), ("UPDATE mcp_audit SET tool = 'u'", changes)]
        {
            assert_eq!(touches(&database, principal, statement.to_owned()).await, reaches, "{principal:?}: {statement}");
        }
    }
    let bob = database.get_as(Some("bob")).await.expect("PostgreSQL answers");
    let forged = bob.execute(ADD, &[]).await.expect_err("the policy refuses it");
    assert_eq!(forged.sql_state().map(|state| state.code()), Some("42501"), "{forged:?}");
    drop(bob);
    database.close().await.expect("a database can be closed");
}

/// Somebody who adds a table with owners is told to add its policy.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_with_owners_has_a_policy() {
    const WITHOUT: &str = "SELECT coalesce(string_agg(DISTINCT c.relname, ', '), '') FROM pg_class c \
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname IN ('principal', 'user_id', 'owner') \
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace \
        AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))";
    let data = DataDir::new();
    let database = migrated(&data).await;
    let connection = database.get().await.expect("PostgreSQL answers");
    let row = connection.query_opt(WITHOUT, &[]).await.expect("the query is one").expect("it gives one row");
    drop(connection);
    assert_eq!(row.get::<_, &str>(0), "", "these tables have owners and no policy");
    database.close().await.expect("a database can be closed");
}

/// What a command of the server prints.
async fn run(words: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = tokio::process::Command::new(binary("mcp-server"));
    command.args(words).env_clear().envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LONG, command.output()).await.expect("a command ends").expect("a command runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// One user owns the tables and migrates, another one serves.
#[tokio::test(flavor = "multi_thread")]
async fn the_user_that_serves_can_change_no_policy_no_schema_and_no_phase() {
    let data = DataDir::new();
    let owner = data.owned().await;
    let serving = owner.replace("app@", "serving@");
    data.execute("CREATE ROLE serving LOGIN").await;
    let early = Server::appointments(&serving, &[]).await;
    let begun = Instant::now();
    while !early.stderr().contains("run `mcp-server migrate expand` with the owner's DATABASE_MIGRATE_URL") {
        assert!(begun.elapsed() < LONG, "it says what it waits for: {}", early.stderr());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let both = [("DATABASE_URL", &*serving), ("DATABASE_MIGRATE_URL", &*owner)];
    // Twice, as with every deploy.
    for _ in 0..2 {
        let expanded = run(&["migrate", "expand"], &both).await;
        assert!(expanded.contains("serving may read and write rows, and no more"), "{expanded}");
    }
    // It is ready without having been started anew, and books.
    let server = early.ready().await;
    let booking = json!({ "userId": "ada", "title": "Tea", "startsAt": "2031-05-05T10:00", "durationMinutes": 30 });
    let result = Connection::open(server.address()).await.call("book_appointment", &booking, "").await;
    assert_eq!(result["structuredContent"]["data"]["appointment"]["title"], "Tea", "{result}");
    assert!(run(&["flag", "set", "tool.book_appointment", "0"], &both).await.contains("live replicas act on it"));

    let config = DatabaseConfig { url: Some(serving.into()), pool_size: 1, ..DatabaseConfig::default() };
    let database = Database::open(config).await.expect("an address is one");
    let connection = database.get().await.expect("PostgreSQL answers");
    for forbidden in [
        "ALTER TABLE appointments DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE appointments NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY own ON mcp_streams",
        "DROP TABLE mcp_pins",
        "TRUNCATE appointments",
        "CREATE TABLE mine ()",
        "ALTER TABLE chat_sessions DISABLE TRIGGER ALL",
        "UPDATE mcp_control SET epoch = epoch + 1",
        "DELETE FROM mcp_flags",
        "UPDATE mcp_migrations SET phase = 0",
        "ALTER TABLE appointments OWNER TO serving",
    ] {
        let refused = connection.batch_execute(forbidden).await.expect_err(forbidden);
        assert_eq!(refused.sql_state().map(|state| state.code()), Some("42501"), "{forbidden}: {refused:?}");
    }
    drop(connection);
    database.close().await.expect("a database can be closed");
    server.signal("TERM");
    assert_eq!(server.exit(LONG).await.code, Some(0), "nothing that it does as it leaves is refused");
}
