//! Whose rows a statement reaches, in every table that has owners, as the migrations leave it. The user of the database is no
//! superuser, as in production.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

use std::{path::PathBuf, time::Duration};

use bg_runtime::{
    database::{Database, DatabaseConfig},
    storage::migration,
};
use mcp_server::appointments::MIGRATIONS;

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

/// Has what the tests need of the private PostgreSQL, and ends with it.
struct World {
    superuser: Database,
    database: Database,
    directory: PathBuf,
}

impl World {
    async fn open(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("mcp-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let config = DatabaseConfig { data_dir: directory.clone(), path: std::env::var_os("PATH"), ..DatabaseConfig::default() };
        let superuser = Database::open(config.clone()).await.unwrap();
        for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
            superuser.get().await.unwrap().batch_execute(sql).await.unwrap();
        }
        let socket = directory.join("socket").to_str().unwrap().replace('/', "%2F");
        let config = DatabaseConfig { url: Some(format!("postgres://app@{socket}/app").into()), pool_size: 1, ..config };
        let database = Database::open(config).await.unwrap();
        migration::apply(&database, MIGRATIONS, LONG).await.unwrap();
        Self { superuser, database, directory }
    }

    /// How many rows a statement touches that does not ask whose they are.
    async fn touches(&self, principal: Option<&str>, sql: String) -> u64 {
        let mut connection = self.database.get_as(principal).await.unwrap();
        let transaction = connection.transaction().await.unwrap();
        let touched = transaction.execute(Box::leak(sql.into_boxed_str()), &[]).await.unwrap();
        transaction.rollback().await.unwrap();
        touched
    }

    async fn close(self) {
        self.database.close().await.unwrap();
        self.superuser.close().await.unwrap();
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_forgets_to_ask_whose_reaches_the_callers_alone() {
    let world = World::open("rows").await;
    tokio::time::timeout(LONG, async {
        for (table, fill) in TABLES {
            world.database.get().await.unwrap().batch_execute(fill).await.unwrap();
            for (principal, reaches) in [(None, 3), (Some("ada"), 1), (Some("bob"), 1), (Some("eve"), 0)] {
                for statement in ["SELECT FROM", "DELETE FROM"] {
                    let touched = world.touches(principal, format!("{statement} {table}")).await;
                    assert_eq!(touched, reaches, "{principal:?}: {statement} {table}");
                }
            }
            // Nobody writes a row that is somebody else's: not a new one, and not by giving one away.
            let forged = world.database.get_as(Some("eve")).await.unwrap().execute(fill, &[]).await.unwrap_err();
            assert_eq!(forged.sql_state().map(|state| state.code()), Some("42501"), "{table}: {forged:?}");
        }
    })
    .await
    .expect("in time");
    world.close().await;
}

/// Somebody who adds a table with owners is told to add its policy.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_with_owners_has_a_policy() {
    const WITHOUT: &str = "SELECT coalesce(string_agg(DISTINCT c.relname, ', '), '') FROM pg_class c \
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname IN ('principal', 'user_id', 'owner') \
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace \
        AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))";
    let world = World::open("policies").await;
    let row = world.database.get().await.unwrap().query_opt(WITHOUT, &[]).await.unwrap().unwrap();
    assert_eq!(row.get::<_, &str>(0), "", "these tables have owners and no policy");
    world.close().await;
}
