//! The validator finds and names what does not agree, and what it has proven stays true.

use bg_runtime::storage::Phase;
use bg_runtime::storage::validator::Verdict;
use tokio::time::Instant;

use crate::home::{LONG, run, within};
use crate::sessions::{NAME, PATIENCE, Releases, forward, validate};

#[tokio::test(flavor = "multi_thread")]
async fn two_bad_rows_of_two_hundred_thousand_are_named() {
    within(2 * LONG, async {
        let releases = Releases::with_rows(0).await;
        let mut coordinator = releases.coordinator().await;
        // Filled by hand: 200,000 rows through the trigger are another test's minute.
        run(
            &releases.operator,
            "SET synchronous_commit = off; ALTER TABLE chat_sessions DISABLE TRIGGER zzz_mcp_dual_write;
             INSERT INTO chat_sessions SELECT 's' || lpad(n::text, 6, '0'), doc, 1, 1, doc, 1
               FROM generate_series(1, 200000) AS n, jsonb_build_object('n', n) AS doc;
             ALTER TABLE chat_sessions ENABLE TRIGGER zzz_mcp_dual_write; RESET synchronous_commit",
        )
        .await;
        forward(&mut coordinator, Phase::Validate).await;
        // What writes can do to a row while the trigger is off: change one shape and not the other.
        run(
            &releases.operator,
            "ALTER TABLE chat_sessions DISABLE TRIGGER zzz_mcp_dual_write;
             UPDATE chat_sessions SET state_data = '{\"n\": -1}' WHERE session_id = 's000777';
             UPDATE chat_sessions SET conversation_state = '{\"n\": -2}', row_version = 2, writer_schema = 2
               WHERE session_id = 's199999';
             ALTER TABLE chat_sessions ENABLE TRIGGER zzz_mcp_dual_write",
        )
        .await;
        let verdict = validate(&mut coordinator).await;
        assert_eq!((verdict.valid, verdict.rows), (false, 200_000));
        let data = check(&verdict, "data");
        assert_eq!((data.wrong, &data.samples[..]), (2, &["s000777".to_owned(), "s199999".to_owned()][..]), "{verdict:#?}");
        assert!(check(&verdict, "structure").passed && !data.advice.is_empty());
        let refused = coordinator.advance(NAME).await.unwrap_err();
        assert!(refused.to_string().contains("the last verdict is bad"), "{refused}");

        // As the advice says.
        run(&releases.operator, "UPDATE chat_sessions SET conv_version = NULL WHERE session_id IN ('s000777', 's199999')").await;
        let verdict = validate(&mut coordinator).await;
        assert!(verdict.valid && verdict.checks.len() == 5, "{verdict:#?}");
        let sql = "SELECT state_data->>'n' || ' ' || (conversation_state->>'n') FROM chat_sessions \
             WHERE session_id IN ('s000777', 's199999') ORDER BY session_id";
        let rows = releases.operator.get().await.unwrap().query(sql, &[]).await.unwrap();
        let healed: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(healed, ["-1 -1", "-2 -2"], "a row is healed from the side that was written last");
        assert_eq!(coordinator.advance(NAME).await.unwrap(), Phase::ReadNew);
        drop(coordinator);
        releases.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_is_off_gone_overruled_or_changed_is_found_and_made_anew() {
    within(LONG, async {
        let releases = Releases::with_rows(100).await;
        let mut coordinator = releases.coordinator().await;
        forward(&mut coordinator, Phase::Validate).await;
        let harm = [
            ("ALTER TABLE chat_sessions DISABLE TRIGGER zzz_mcp_dual_write", "zzz_mcp_dual_write is switched off"),
            ("ALTER TABLE chat_sessions ENABLE REPLICA TRIGGER zzz_mcp_dual_write", "zzz_mcp_dual_write is switched off"),
            ("DROP TRIGGER zzz_mcp_dual_write ON chat_sessions", "zzz_mcp_dual_write or zzy_mcp_dual_guard is missing"),
            ("DROP TRIGGER zzy_mcp_dual_guard ON chat_sessions", "zzz_mcp_dual_write or zzy_mcp_dual_guard is missing"),
            ("ALTER TABLE chat_sessions DISABLE TRIGGER zzy_mcp_dual_guard", "zzy_mcp_dual_guard is switched off"),
            (
                "CREATE OR REPLACE FUNCTION mcp_dual_write_chat_sessions() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN RETURN NEW; END'",
                "mcp_dual_write_chat_sessions is missing or was changed",
            ),
            (
                "CREATE OR REPLACE FUNCTION mcp_lens_chat_sessions_state_data(conversation_state jsonb) RETURNS jsonb \
                 LANGUAGE sql IMMUTABLE AS 'SELECT ''{}''::jsonb'",
                "mcp_lens_chat_sessions_state_data is missing or was changed",
            ),
            (
                "DROP TRIGGER zzz_mcp_dual_write ON chat_sessions; DROP FUNCTION mcp_dual_write_chat_sessions()",
                "mcp_dual_write_chat_sessions is missing or was changed",
            ),
            (
                "DROP TRIGGER zzz_mcp_dual_write ON chat_sessions; CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN RETURN NEW; END'; CREATE TRIGGER zzz_mcp_dual_write BEFORE INSERT OR UPDATE ON chat_sessions FOR EACH \
                 ROW EXECUTE FUNCTION other()",
                "zzz_mcp_dual_write runs other",
            ),
            (
                "DROP TRIGGER zzz_mcp_dual_write ON chat_sessions; CREATE TRIGGER zzz_mcp_dual_write BEFORE UPDATE ON \
                 chat_sessions FOR EACH ROW EXECUTE FUNCTION mcp_dual_write_chat_sessions()",
                "zzz_mcp_dual_write does not run for every write",
            ),
            (
                "DROP TRIGGER zzz_mcp_dual_write ON chat_sessions; CREATE TRIGGER zzz_mcp_dual_write BEFORE INSERT OR UPDATE ON \
                 chat_sessions FOR EACH ROW WHEN (NEW.row_version > 5) EXECUTE FUNCTION mcp_dual_write_chat_sessions()",
                "zzz_mcp_dual_write does not run for every write",
            ),
            ("ALTER TABLE chat_sessions DROP CONSTRAINT chat_sessions_pkey", "session_id has no valid unique index"),
        ];
        for (sql, found) in harm {
            run(&releases.operator, sql).await;
            let verdict = validate(&mut coordinator).await;
            let structure = check(&verdict, "structure");
            assert!(structure.samples.iter().any(|sample| sample.contains(found)), "{sql}: {structure:#?}");
            assert!(!verdict.valid);
            if sql.contains("pkey") {
                run(&releases.operator, "ALTER TABLE chat_sessions ADD PRIMARY KEY (session_id)").await;
            }
            coordinator.expand_again(NAME, Instant::now() + PATIENCE).await.unwrap();
        }
        run(
            &releases.operator,
            "CREATE TRIGGER zzzz_last BEFORE UPDATE ON chat_sessions FOR EACH ROW EXECUTE FUNCTION \
             suppress_redundant_updates_trigger()",
        )
        .await;
        let verdict = validate(&mut coordinator).await;
        assert!(check(&verdict, "structure").samples[0].contains("zzzz_last runs after"), "{verdict:#?}");
        run(&releases.operator, "DROP TRIGGER zzzz_last ON chat_sessions; DROP FUNCTION other").await;

        let verdict = validate(&mut coordinator).await;
        assert!(verdict.valid, "{verdict:#?}");
        drop(coordinator);
        releases.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_proven_cannot_be_broken_with_the_trigger_off() {
    within(LONG, async {
        let releases = Releases::with_rows(10).await;
        let mut coordinator = releases.coordinator().await;
        forward(&mut coordinator, Phase::Validate).await;
        assert!(validate(&mut coordinator).await.valid);
        run(&releases.operator, "ALTER TABLE chat_sessions DISABLE TRIGGER zzz_mcp_dual_write").await;
        let connection = releases.operator.get().await.unwrap();
        for write in [
            "UPDATE chat_sessions SET state_data = '{}' WHERE session_id = 's0'",
            "UPDATE chat_sessions SET conversation_state = '{}', row_version = 1, writer_schema = 2 WHERE session_id = 's0'",
            "INSERT INTO chat_sessions (session_id) VALUES ('new')",
        ] {
            let error = connection.execute(write, &[]).await.unwrap_err();
            assert_eq!(error.sql_state().unwrap().code(), "23514", "{write}");
            assert_eq!(error.constraint(), Some("mcp_both_shapes_agree"));
        }
        drop((connection, coordinator));
        releases.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lens_that_does_not_give_back_what_it_was_given_is_found() {
    use bg_runtime::storage::backfill::Pace;
    use bg_runtime::storage::dual_write::{Column, Key, Shape};
    use bg_runtime::storage::migration::{Migration, apply};
    use bg_runtime::storage::validator::ValidateOptions;
    use bg_runtime::storage::{Coordinator, DualWrite};

    // A name of three words does not come back whole.
    static PEOPLE: DualWrite = DualWrite {
        migration: "0002_names",
        table: "people",
        key: Key { name: "id", kind: "bigint" },
        old: Shape {
            schema: 1,
            columns: &[Column { name: "name", kind: "text", lens: "concat_ws(' ', first_name, last_name)" }],
        },
        new: Shape {
            schema: 2,
            columns: &[
                Column { name: "first_name", kind: "text", lens: "split_part(name, ' ', 1)" },
                Column { name: "last_name", kind: "text", lens: "split_part(name, ' ', 2)" },
            ],
        },
        mark: "names_version",
        tags: &[],
    };
    let migrations = [
        Migration::new("0001_people", "CREATE TABLE people (id bigint PRIMARY KEY, name text NOT NULL)"),
        Migration::new("0002_names", "").dual_write(&PEOPLE),
    ];
    let home = crate::home::Home::new();
    within(LONG, async {
        let database = home.open().await;
        apply(&database, &migrations[..1], PATIENCE).await.unwrap();
        run(&database, "INSERT INTO people SELECT n, 'Ada Lovelace' FROM generate_series(1, 1000) AS n").await;
        apply(&database, &migrations, PATIENCE).await.unwrap();
        run(&database, "UPDATE people SET name = 'Mary Ann Evans' WHERE id = 500").await;
        let mut coordinator = Coordinator::take(&database, &migrations, "test", PATIENCE).await.unwrap();
        coordinator.backfill("0002_names", &Pace::default(), &()).await.unwrap();
        let verdict = coordinator.validate("0002_names", ValidateOptions::default(), &()).await.unwrap();
        let data = check(&verdict, "data");
        assert_eq!((data.wrong, &data.samples[..]), (1, &["500".to_owned()][..]), "{verdict:#?}");
        assert!(!verdict.checks.iter().any(|check| check.name == "proof"), "there is nothing to prove");
        drop(coordinator);
        database.close().await.unwrap();
    })
    .await;
}

fn check<'a>(verdict: &'a Verdict, name: &str) -> &'a bg_runtime::storage::validator::Check {
    verdict.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{verdict:#?}"))
}
