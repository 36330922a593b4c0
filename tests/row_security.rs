//! Whose rows a statement reaches, in every table that has owners, as the migrations leave it. The user of the database is no
//! superuser, as in production.

use std::time::Duration;

use bg_runtime::{
    database::{Database, DatabaseConfig},
    storage::migration,
};
use mcp_server::appointments::MIGRATIONS;
use tests::postgres::DataDir;

const LONG: Duration = Duration::from_secs(60);

/// Each table with owners, and a row of Ada's, of Bob's and of nobody's.
const TABLES: [(&str, &str); 4] = [
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
            let forged = eve.execute(fill, &[]).await.expect_err("the policy refuses it");
            assert_eq!(forged.sql_state().map(|state| state.code()), Some("42501"), "{table}: {forged:?}");
        }
    })
    .await
    .expect("in time");
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
