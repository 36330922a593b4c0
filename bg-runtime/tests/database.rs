//! What the database promises, against a PostgreSQL of the test's own.
//!
//! Each test makes its server in a directory of its own and leaves no process behind, whether it passes or not.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

#[path = "support/home.rs"]
mod home;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bg_runtime::database::{Database, DatabaseConfig, DatabaseError, Pooler, Type};
use bg_runtime::storage::migration::{Migration, MigrationError, apply};
use rustix::process::{Signal, kill_process, test_kill_process};

use self::home::{Bouncer, Home, LONG, chain, count, run, until, within};

/// Tells the process that is to be killed where the server is.
const NEVER_LEAVES: &str = "TEST_NEVER_LEAVES";

#[tokio::test(flavor = "multi_thread")]
async fn a_second_user_joins_and_the_last_one_stops_the_server() {
    let home = Home::new();
    within(LONG, async {
        let blue = home.open().await;
        let pid = home.pid();
        let green = home.open().await;
        assert_eq!(home.pid(), pid, "green started a server of its own");
        run(&blue, "CREATE TABLE seen (color text)").await;
        run(&green, "INSERT INTO seen VALUES ('green')").await;

        blue.close().await.unwrap();
        assert_eq!(count(&green, "SELECT count(*) FROM seen").await, 1, "blue took green's server away");
        assert!(matches!(blue.get().await, Err(DatabaseError::Closed)));

        green.close().await.unwrap();
        assert!(test_kill_process(pid).is_err(), "the last user left the server running");
        blue.close().await.unwrap();

        let again = home.open().await;
        assert_eq!(count(&again, "SELECT count(*) FROM seen").await, 1);
        again.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_users_at_once_start_one_server() {
    let home = Home::new();
    within(LONG, async {
        let opening: Vec<_> = (0..10).map(|_| tokio::spawn(Database::open(home.config()))).collect();
        let mut users = Vec::new();
        for open in opening {
            users.push(open.await.unwrap().unwrap());
        }
        let pid = home.pid();
        let closing: Vec<_> = users.into_iter().map(|user| tokio::spawn(async move { user.close().await })).collect();
        for close in closing {
            close.await.unwrap().unwrap();
        }
        assert!(test_kill_process(pid).is_err());
        let log = std::fs::read_to_string(home.directory.join("postgresql.log")).unwrap();
        assert_eq!(log.matches("database system is ready to accept connections").count(), 1, "{log}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_killed_leaves_a_server_that_the_next_one_takes_over() {
    let home = Home::new();
    within(LONG, async {
        let mut user = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_user_that_never_leaves", "--ignored"])
            .env(NEVER_LEAVES, &home.directory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let joined = home.directory.join("joined");
        until("the other process uses the server", || async { joined.exists() }).await;
        let pid = home.pid();
        user.kill().unwrap();
        user.wait().unwrap();

        let heir = home.open().await;
        assert_eq!(home.pid(), pid, "a second server was started");
        assert_eq!(count(&heir, "SELECT count(*) FROM left_behind").await, 0);
        heir.close().await.unwrap();
        assert!(home.find_pid().is_none(), "the dead user still counts");
    })
    .await;
}

/// Not a test but the process that another test kills.
#[tokio::test]
#[ignore = "runs inside a_user_that_is_killed_leaves_a_server_that_the_next_one_takes_over"]
async fn a_user_that_never_leaves() {
    let Some(data_dir) = std::env::var_os(NEVER_LEAVES).map(PathBuf::from) else { return };
    let config = DatabaseConfig { data_dir: data_dir.clone(), path: std::env::var_os("PATH"), ..DatabaseConfig::default() };
    let database = Database::open(config).await.unwrap();
    run(&database, "CREATE TABLE left_behind ()").await;
    std::fs::write(data_dir.join("joined"), "").unwrap();
    // Ends by itself should its killer have died first.
    tokio::time::sleep(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_with_its_data() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        run(&database, "CREATE TABLE kept (n int)").await;
        run(&database, "INSERT INTO kept VALUES (1)").await;

        let first = home.pid();
        kill_process(first, Signal::KILL).unwrap();
        // The pool notices on its own. An old connection may answer for a moment longer: its process outlives the postmaster
        // until it looks.
        until("the pool starts the server again", || async {
            let rows = async { database.get().await?.query("SELECT n FROM kept", &[]).await }.await;
            rows.is_ok_and(|rows| rows.len() == 1) && home.find_pid().is_some_and(|pid| pid != first)
        })
        .await;

        kill_process(home.pid(), Signal::KILL).unwrap();
        let second = home.open().await;
        assert_eq!(count(&second, "SELECT count(*) FROM kept").await, 1);
        database.close().await.unwrap();
        second.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_with_nobody_free_is_busy_in_time() {
    let home = Home::new();
    within(LONG, async {
        let wait = Duration::from_millis(200);
        let database = Database::open(DatabaseConfig { pool_size: 1, wait, ..home.config() }).await.unwrap();
        let held = database.get().await.unwrap();
        let begun = Instant::now();
        let refused = database.get().await;
        assert!(matches!(refused, Err(DatabaseError::Busy { waited }) if waited == wait), "{refused:?}");
        assert!(begun.elapsed() < wait + Duration::from_secs(2));
        assert!(matches!(database.check(Duration::from_millis(50)).await, Err(DatabaseError::Timeout)));
        let status = database.status();
        assert_eq!((status.pool_size, status.open, status.idle), (1, 1, 0));

        drop(held);
        database.check(Duration::from_secs(5)).await.unwrap();
        assert_eq!(database.status().idle, 1);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_up_statement_frees_its_place_and_ends_on_the_server() {
    let home = Home::new();
    within(LONG, async {
        let config = DatabaseConfig { pool_size: 1, application_name: "sleeper".to_owned(), ..home.config() };
        let database = Database::open(config).await.unwrap();
        let observer = home.open().await;
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name = 'sleeper'";

        let sleeper = database.clone();
        let task = tokio::spawn(async move {
            let mut connection = sleeper.get().await?;
            let transaction = connection.transaction().await?;
            transaction.query("SELECT pg_sleep(50)", &[]).await
        });
        until("the statement runs", || async { count(&observer, sleeping).await == 1 }).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());

        let begun = Instant::now();
        database.check(Duration::from_secs(2)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "the next user waited behind a stranger's statement");
        until("the server stops working for nobody", || async { count(&observer, sleeping).await == 0 }).await;
        assert_eq!(database.status().open, 1);
        database.close().await.unwrap();
        observer.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_not_used_after_a_statement_on_it_was_given_up() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        let connection = database.get().await.unwrap();
        let sleep = connection.execute("SELECT pg_sleep(50)", &[]);
        assert!(tokio::time::timeout(Duration::from_millis(100), sleep).await.is_err());
        assert!(matches!(connection.execute("SELECT 1", &[]).await, Err(DatabaseError::Abandoned)));
        drop(connection);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_ended_by_the_server() {
    let home = Home::new();
    within(LONG, async {
        let statement_timeout = Duration::from_millis(100);
        let database = Database::open(DatabaseConfig { statement_timeout, ..home.config() }).await.unwrap();
        let connection = database.get().await.unwrap();
        let refused = connection.execute("SELECT pg_sleep(50)", &[]).await;
        assert!(matches!(refused, Err(DatabaseError::Timeout)), "{refused:?}");
        // The server answered, so the connection is as good as before.
        connection.execute("SELECT 1", &[]).await.unwrap();
        drop(connection);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_holds_only_when_committed_and_never_in_part() {
    let home = Home::new();
    within(LONG, async {
        let database = Database::open(DatabaseConfig { pool_size: 1, ..home.config() }).await.unwrap();
        run(&database, "CREATE TABLE rows (n int PRIMARY KEY)").await;
        let mut connection = database.get().await.unwrap();

        let transaction = connection.transaction().await.unwrap();
        transaction.execute("INSERT INTO rows VALUES ($1)", &[(&1, Type::INT4)]).await.unwrap();
        drop(transaction);
        assert_eq!(connection.query("SELECT n FROM rows", &[]).await.unwrap().len(), 0);

        let transaction = connection.transaction().await.unwrap();
        transaction.execute("INSERT INTO rows VALUES ($1)", &[(&1, Type::INT4)]).await.unwrap();
        transaction.commit().await.unwrap();

        let transaction = connection.transaction().await.unwrap();
        transaction.execute("INSERT INTO rows VALUES ($1)", &[(&2, Type::INT4)]).await.unwrap();
        let twice = transaction.execute("INSERT INTO rows VALUES ($1)", &[(&1, Type::INT4)]).await.unwrap_err();
        assert_eq!(twice.constraint(), Some("rows_pkey"));
        assert_eq!(twice.sql_state().unwrap().code(), "23505");
        assert!(matches!(transaction.commit().await, Err(DatabaseError::RolledBack)));
        assert_eq!(connection.query("SELECT n FROM rows", &[]).await.unwrap().len(), 1);

        // Back to the last mark: what came before it stays, and the transaction is whole again.
        let transaction = connection.transaction().await.unwrap();
        for n in [3, 4] {
            transaction.execute("INSERT INTO rows VALUES ($1)", &[(&n, Type::INT4)]).await.unwrap();
            transaction.mark().await.unwrap();
        }
        transaction.execute("INSERT INTO rows VALUES ($1)", &[(&5, Type::INT4)]).await.unwrap();
        assert!(transaction.execute("INSERT INTO rows VALUES ($1)", &[(&1, Type::INT4)]).await.is_err());
        transaction.back().await.unwrap();
        transaction.commit().await.unwrap();
        let kept = connection.query("SELECT n FROM rows ORDER BY n", &[]).await.unwrap();
        assert_eq!(kept.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [1, 3, 4]);
        // A mark of another transaction is none.
        let transaction = connection.transaction().await.unwrap();
        assert!(transaction.back().await.is_err());
        drop(transaction);
        assert!(connection.query_opt("SELECT generate_series(1, 2)", &[]).await.is_err());
        drop(connection);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_survives_a_migration_under_it() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        run(&database, "CREATE TABLE shape (a int); INSERT INTO shape VALUES (1)").await;
        let mut connection = database.get().await.unwrap();
        let all = "SELECT * FROM shape";
        assert_eq!(connection.query(all, &[]).await.unwrap()[0].len(), 1);
        run(&database, "ALTER TABLE shape ADD b int").await;
        assert_eq!(connection.query(all, &[]).await.unwrap()[0].len(), 2);

        run(&database, "ALTER TABLE shape ADD c int").await;
        let transaction = connection.transaction().await.unwrap();
        let stale = transaction.query(all, &[]).await.unwrap_err();
        assert!(matches!(stale, DatabaseError::Stale) && stale.is_retryable());
        drop(transaction);
        let transaction = connection.transaction().await.unwrap();
        assert_eq!(transaction.query(all, &[]).await.unwrap()[0].len(), 3);
        drop(transaction);

        // What a reset of the session leaves behind: the cache names statements that the server forgot.
        connection.batch_execute("DEALLOCATE ALL").await.unwrap();
        assert_eq!(connection.query(all, &[]).await.unwrap()[0].len(), 3);
        drop(connection);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_error_repeats_a_value() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        run(&database, "CREATE TABLE names (name text UNIQUE, n int CHECK (n > 0))").await;
        let connection = database.get().await.unwrap();
        let secret = [(&"hunter2" as _, Type::TEXT)];
        connection.execute("INSERT INTO names VALUES ($1, 1)", &secret).await.unwrap();
        for sql in ["INSERT INTO names VALUES ($1, 1)", "INSERT INTO names VALUES ($1 || '!', -1)", "SELECT ($1::text)::int"] {
            let error = connection.execute(sql, &secret).await.unwrap_err();
            assert!(!chain(&error).contains("hunter2"), "{}", chain(&error));
        }
        drop(connection);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_unavailable_and_keeps_the_password_to_itself() {
    let url = Some("postgres://user:hunter2@127.0.0.1:1/shop".into());
    let config = DatabaseConfig { url, ..DatabaseConfig::default() };
    within(LONG, async {
        // It may be away while we start.
        let database = Database::open(config).await.unwrap();
        let error = database.get().await.unwrap_err();
        assert!(matches!(error, DatabaseError::Unavailable { .. }) && error.is_retryable());
        assert!(chain(&error).contains("refused"), "{}", chain(&error));
        assert!(!chain(&error).contains("hunter2") && !format!("{database:?}").contains("hunter2"));
        assert_eq!(database.place(), "127.0.0.1:1/shop");
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_turns_us_away_is_told_from_one_that_is_away() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        let url = Some(home.url(&home.directory.join("socket"), "nowhere").into());
        let lost = Database::open(DatabaseConfig { url, ..DatabaseConfig::default() }).await.unwrap();
        let error = lost.get().await.unwrap_err();
        assert!(matches!(error, DatabaseError::Refused { .. }) && !error.is_retryable(), "{error:?}");
        assert_eq!(error.sql_state().unwrap().code(), "3D000");
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_without_postgresql_says_the_ways_out() {
    let home = Home::new();
    let config = DatabaseConfig { binaries: Some(home.directory.clone()), ..home.config() };
    let error = Database::open(config).await.unwrap_err();
    assert!(chain(&error).contains("DATABASE_URL") && chain(&error).contains("apt install"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_version_is_refused() {
    let home = Home::new();
    std::fs::create_dir_all(home.directory.join("cluster")).unwrap();
    std::fs::write(home.directory.join("cluster/PG_VERSION"), "9\n").unwrap();
    let error = Database::open(home.config()).await.unwrap_err();
    assert!(chain(&error).contains("was made by PostgreSQL 9, and only"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_runners_at_once_migrate_exactly_once() {
    let home = Home::new();
    within(LONG, async {
        let database = Database::open(DatabaseConfig { pool_size: 12, ..home.config() }).await.unwrap();
        // Not idempotent on purpose: a second run of either would fail.
        let migrations = [
            Migration::new("0001_table", "CREATE TABLE once (n int); INSERT INTO once VALUES (1)"),
            Migration::new("0002_column", "ALTER TABLE once ADD m int; INSERT INTO once VALUES (2, 2)"),
        ];
        let runners: Vec<_> = (0..10)
            .map(|_| {
                let database = database.clone();
                tokio::spawn(async move { apply(&database, &migrations, Duration::from_secs(30)).await })
            })
            .collect();
        let mut applied = Vec::new();
        for runner in runners {
            applied.extend(runner.await.unwrap().unwrap().into_iter().map(|migration| migration.name));
        }
        applied.sort_unstable();
        assert_eq!(applied, ["0001_table", "0002_column"]);
        assert_eq!(count(&database, "SELECT count(*) FROM once").await, 2);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_migration_is_refused_and_an_unknown_one_is_not() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        let deadline = Duration::from_secs(20);
        let first = Migration::new("0001_a", "CREATE TABLE a ()");
        let newer = Migration::new("0002_b", "CREATE TABLE b ()");
        assert_eq!(apply(&database, &[first, newer], deadline).await.unwrap().len(), 2);
        // The old color starts after the new one migrated.
        assert_eq!(apply(&database, &[first], deadline).await.unwrap(), []);
        let changed = Migration { expand: "CREATE TABLE a (n int)", ..first };
        let refused = apply(&database, &[changed], deadline).await;
        assert!(matches!(refused, Err(MigrationError::Changed { name: "0001_a" })), "{refused:?}");

        let broken = Migration::new("0003_c", "CREATE TABLE c (); SELECT nonsense");
        let failed = apply(&database, &[first, newer, broken], deadline).await;
        assert!(matches!(failed, Err(MigrationError::Failed { name: "0003_c", .. })), "{failed:?}");
        assert_eq!(count(&database, "SELECT count(*) FROM pg_class WHERE relname = 'c'").await, 0);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_meets_a_lock_gives_up_at_its_deadline_and_blocks_no_reader() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        run(&database, "CREATE TABLE busy (n int)").await;
        let mut reader = database.get().await.unwrap();
        let transaction = reader.transaction().await.unwrap();
        transaction.query("SELECT n FROM busy", &[]).await.unwrap();

        let migration = [Migration::new("0001_busy", "ALTER TABLE busy ADD m int")];
        let late = apply(&database, &migration, Duration::from_millis(800)).await;
        assert!(matches!(late, Err(MigrationError::Deadline { name: "0001_busy", source: Some(_), .. })), "{late:?}");

        let runner = tokio::spawn({
            let database = database.clone();
            async move { apply(&database, &migration, Duration::from_secs(30)).await }
        });
        for _ in 0..5 {
            let begun = Instant::now();
            count(&database, "SELECT count(*) FROM busy").await;
            assert!(begun.elapsed() < Duration::from_secs(2), "a reader waited behind the migration");
        }
        transaction.commit().await.unwrap();
        assert_eq!(runner.await.unwrap().unwrap().len(), 1);
        drop(reader);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_through_a_transaction_pooler_get_their_own_answers() {
    let home = Home::new();
    within(LONG, async {
        let direct = home.open().await;
        let bouncer = Bouncer::start(&home).await;
        let pooled = |statement_timeout| DatabaseConfig {
            url: Some(home.url(&bouncer.directory, "postgres").into()),
            direct_url: Some(home.url(&home.directory.join("socket"), "postgres").into()),
            pool_size: 20,
            wait: Duration::from_secs(20),
            pooler: Pooler::Transaction,
            statement_timeout,
            ..DatabaseConfig::default()
        };
        let database = Database::open(pooled(Duration::from_secs(10))).await.unwrap();
        let migration = [Migration::new("0001_t", "CREATE TABLE t (n int PRIMARY KEY, word text)")];
        assert_eq!(apply(&database, &migration, Duration::from_secs(20)).await.unwrap().len(), 1);

        let callers: Vec<_> = (0..200_i32)
            .map(|n| {
                let database = database.clone();
                tokio::spawn(async move {
                    let mut connection = database.get().await?;
                    let word = format!("word {n}");
                    let transaction = connection.transaction().await?;
                    let insert = "INSERT INTO t VALUES ($1, $2)";
                    let touched = transaction.execute(insert, &[(&n, Type::INT4), (&word, Type::TEXT)]).await?;
                    transaction.commit().await?;
                    let row = connection.query_opt("SELECT word, $1 + 1 FROM t WHERE n = $1", &[(&n, Type::INT4)]).await?;
                    let row = row.expect("what was committed is there");
                    assert_eq!((touched, row.get::<_, String>(0), row.get::<_, i32>(1)), (1, word, n + 1));
                    Ok::<_, DatabaseError>(())
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap().unwrap();
        }
        assert_eq!(count(&direct, "SELECT count(*) FROM t").await, 200);
        let servers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        assert!(count(&direct, servers).await <= 2, "the pooler was to open two connections");

        // No server-side clock reaches through the pooler: ours gives up, and the cancel request finds its way.
        let impatient = Database::open(pooled(Duration::from_millis(200))).await.unwrap();
        let connection = impatient.get().await.unwrap();
        assert!(matches!(connection.execute("SELECT pg_sleep(50)", &[]).await, Err(DatabaseError::Timeout)));
        drop(connection);
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(50)' AND pid <> pg_backend_pid()";
        until("the given-up statement ends", || async { count(&direct, sleeping).await == 0 }).await;

        impatient.close().await.unwrap();
        database.close().await.unwrap();
        drop(bouncer);
        direct.close().await.unwrap();
    })
    .await;
}

/// A table with a policy, and three rows of two owners.
const NOTES: &str = "CREATE TABLE notes (id int PRIMARY KEY, owner text NOT NULL, body text NOT NULL);
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
    ALTER TABLE notes FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON notes USING (coalesce((SELECT current_setting('mcp.principal', true)), '') IN ('', owner));
    INSERT INTO notes VALUES (1, 'ada', 'hers'), (2, 'bob', 'his'), (3, 'ada', 'hers too')";

/// The statement of somebody who forgot to ask whose.
const ALL: &str = "SELECT count(*) FROM notes";

/// A database of a user that is no superuser, as one has in production, and the way to it.
async fn restricted(home: &Home, superuser: &Database) -> String {
    run(superuser, "CREATE ROLE app LOGIN").await;
    run(superuser, "CREATE DATABASE app OWNER app").await;
    home.url(&home.directory.join("socket"), "app").replace("mcp@", "app@")
}

async fn count_as(database: &Database, principal: Option<&str>) -> i64 {
    database.get_as(principal).await.unwrap().query_opt(ALL, &[]).await.unwrap().unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_name_of_a_principal_a_statement_reaches_what_is_theirs() {
    let home = Home::new();
    within(LONG, async {
        let superuser = home.open().await;
        let url = restricted(&home, &superuser).await;
        // One connection, so that whatever one of them leaves behind the next one finds.
        let database = Database::open(DatabaseConfig { url: Some(url.into()), pool_size: 1, ..home.config() }).await.unwrap();
        assert!(database.obeys_policies().await.unwrap());
        assert!(!superuser.obeys_policies().await.unwrap(), "a superuser passes by, and is told apart");
        run(&database, NOTES).await;

        for (principal, sees) in [(None, 3), (Some("ada"), 2), (None, 3), (Some("bob"), 1), (Some("%' OR ''='"), 0), (None, 3)] {
            assert_eq!(count_as(&database, principal).await, sees, "{principal:?}");
        }
        let bob = database.get_as(Some("bob")).await.unwrap();
        assert_eq!(bob.execute("UPDATE notes SET body = 'read'", &[]).await.unwrap(), 1, "his own and no other");
        assert_eq!(bob.execute("DELETE FROM notes WHERE id = 1", &[]).await.unwrap(), 0);
        let foreign = bob.execute("INSERT INTO notes VALUES (4, 'ada', 'forged')", &[]).await.unwrap_err();
        assert_eq!(foreign.sql_state().map(|state| state.code()), Some("42501"), "{foreign:?}");
        let given_away = bob.execute("UPDATE notes SET owner = 'ada'", &[]).await.unwrap_err();
        assert_eq!(given_away.sql_state().map(|state| state.code()), Some("42501"), "{given_away:?}");
        // What failed was rolled back, and the connection goes on.
        assert_eq!(bob.query(ALL, &[]).await.unwrap()[0].get::<_, i64>(0), 1);
        drop(bob);
        assert_eq!(count(&database, "SELECT count(*) FROM notes WHERE body = 'read'").await, 1, "what was done is committed");

        let mut ada = database.get_as(Some("ada")).await.unwrap();
        let transaction = ada.transaction().await.unwrap();
        assert_eq!(transaction.execute("UPDATE notes SET body = 'mine'", &[]).await.unwrap(), 2);
        transaction.act_as("bob").await.unwrap();
        assert_eq!(transaction.query(ALL, &[]).await.unwrap()[0].get::<_, i64>(0), 1);
        transaction.rollback().await.unwrap();
        assert_eq!(ada.query(ALL, &[]).await.unwrap()[0].get::<_, i64>(0), 2);
        drop(ada);

        // A name that PostgreSQL does not take begins nothing, and leaves nothing behind on the connection.
        let mut nobody = database.get_as(Some("a\0b")).await.unwrap();
        assert!(nobody.transaction().await.is_err());
        drop(nobody);
        assert_eq!(count_as(&database, None).await, 3);
        assert!(database.get_as(Some("a\0b")).await.unwrap().query(ALL, &[]).await.is_err());
        assert_eq!(count_as(&database, None).await, 3);

        // A migration that comes under a prepared statement.
        const WHOLE: &str = "SELECT * FROM notes ORDER BY id";
        let ada = database.get_as(Some("ada")).await.unwrap();
        assert_eq!(ada.query(WHOLE, &[]).await.unwrap()[0].len(), 3);
        ada.batch_execute("ALTER TABLE notes ADD COLUMN more text").await.unwrap();
        let again = ada.query(WHOLE, &[]).await.unwrap();
        assert_eq!((again.len(), again[0].len()), (2, 4), "it is made again, in her name");
        drop(ada);
        assert_eq!(count_as(&database, None).await, 3);
        database.close().await.unwrap();
        superuser.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_between_does_not_mix_principals_up() {
    let home = Home::new();
    within(LONG, async {
        let superuser = home.open().await;
        restricted(&home, &superuser).await;
        let bouncer = Bouncer::start(&home).await;
        let pooled = DatabaseConfig {
            url: Some(home.url(&bouncer.directory, "app").into()),
            pool_size: 20,
            wait: Duration::from_secs(20),
            pooler: Pooler::Transaction,
            ..home.config()
        };
        let database = Database::open(pooled).await.unwrap();
        run(&database, NOTES).await;
        // Three kinds of callers on the two connections that PgBouncer has.
        let callers: Vec<_> = (0..300)
            .map(|n| {
                let database = database.clone();
                tokio::spawn(async move {
                    let (principal, sees) = [(None, 3), (Some("ada"), 2), (Some("bob"), 1)][n % 3];
                    let mut connection = database.get_as(principal).await.unwrap();
                    if n % 2 == 0 {
                        let transaction = connection.transaction().await.unwrap();
                        let seen: i64 = transaction.query_opt(ALL, &[]).await.unwrap().unwrap().get(0);
                        transaction.commit().await.unwrap();
                        return (seen, sees);
                    }
                    let seen: i64 = connection.query_opt(ALL, &[]).await.unwrap().unwrap().get(0);
                    (seen, sees)
                })
            })
            .collect();
        for caller in callers {
            let (seen, sees) = caller.await.unwrap();
            assert_eq!(seen, sees);
        }
        database.close().await.unwrap();
        drop(bouncer);
        superuser.close().await.unwrap();
    })
    .await;
}
