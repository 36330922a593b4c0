//! Every replica learns of a phase: by notification, by its own writes, or by looking.

use std::time::{Duration, Instant};

use bg_runtime::Color;
use bg_runtime::database::{Database, DatabaseConfig, Pooler, Type};
use bg_runtime::storage::{Control, Coordinator, Phase, Replica};
use serde_json::json;

use crate::home::{Bouncer, Home, LONG, count, run, until, within};
use crate::sessions::{MIGRATIONS, NAME, Releases, migrated, seen};

#[tokio::test(flavor = "multi_thread")]
async fn ten_replicas_hear_of_a_phase_at_once() {
    let home = Home::new();
    within(LONG, async {
        let operator = migrated(&home, 0).await;
        let mut replicas = Vec::new();
        for _ in 0..10 {
            let database = Database::open(DatabaseConfig { pool_size: 1, ..home.config() }).await.unwrap();
            let control = Control::new(database.clone(), Replica::new(Color::Green, "2", &MIGRATIONS));
            replicas.push((tokio::spawn(control.clone().follow()), control, database));
        }
        let mut coordinator = Coordinator::take(&operator, &MIGRATIONS, "test", LONG).await.unwrap();
        until("all of them are there", || async { coordinator.status().await.unwrap().replicas.len() == 10 }).await;
        seen(&coordinator).await;
        for goal in [Phase::Expand, Phase::Dual, Phase::Backfill] {
            if goal == Phase::Expand {
                coordinator.back(NAME, false).await.unwrap();
            } else {
                coordinator.advance(NAME).await.unwrap();
            }
            let begun = Instant::now();
            for (_, control, _) in &replicas {
                control.wait_for(|snapshot| snapshot.phase(NAME) == goal).await;
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "{goal} took {:?}", begun.elapsed());
            // Having heard is not enough: the coordinator waits until they say so.
            seen(&coordinator).await;
        }
        drop(coordinator);
        for (following, _, database) in replicas {
            following.abort();
            database.close().await.unwrap();
        }
        operator.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hears_no_notification_learns_from_its_own_writes_and_by_looking() {
    let home = Home::new();
    within(LONG, async {
        let operator = migrated(&home, 1).await;
        let bouncer = Bouncer::start(&home).await;
        let pooled = DatabaseConfig {
            url: Some(home.url(&bouncer.directory, "postgres").into()),
            pooler: Pooler::Transaction,
            ..DatabaseConfig::default()
        };
        let releases = Releases::join(home, operator, pooled).await;
        let mut coordinator = releases.coordinator().await;
        for round in 0..4 {
            let goal = match releases.control.phase(NAME) {
                Phase::Dual => coordinator.back(NAME, false).await.unwrap(),
                _ => coordinator.advance(NAME).await.unwrap(),
            };
            let read = releases.green.get((&"s0", Type::TEXT)).await.unwrap().unwrap();
            let state = json!({"old": 0, "new": round});
            releases.green.update((&"s0", Type::TEXT), read.row_version, &[(&state, Type::JSONB)]).await.unwrap();
            let begun = Instant::now();
            releases.control.wait_for(|snapshot| snapshot.phase(NAME) == goal).await;
            // Less than the poll, so four times in a row it was not that.
            assert!(begun.elapsed() < Duration::from_secs(1), "the answer of a write told nothing: {:?}", begun.elapsed());
        }
        // Nobody writes.
        coordinator.back(NAME, false).await.unwrap();
        let begun = Instant::now();
        releases.control.wait_for(|snapshot| snapshot.phase(NAME) == Phase::Expand).await;
        assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
        seen(&coordinator).await;
        drop(coordinator);
        drop(bouncer);
        releases.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phase_that_moved_while_the_listener_was_down_is_heard_of_when_it_is_back() {
    within(LONG, async {
        let releases = Releases::with_rows(1).await;
        let mut coordinator = releases.coordinator().await;
        seen(&coordinator).await;
        let green = "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name = 'green') AS ended";
        assert!(count(&releases.operator, green).await > 0);
        coordinator.back(NAME, false).await.unwrap();
        let heard = releases.control.wait_for(|snapshot| snapshot.phase(NAME) == Phase::Expand);
        tokio::time::timeout(Duration::from_secs(4), heard).await.expect("sooner than the next poll");

        // A replica that nobody told keeps its old view, and that costs nothing: a write learns from its answer …
        run(&releases.operator, "UPDATE mcp_migrations SET phase = 6, min_writer = 2; UPDATE mcp_control SET epoch = epoch + 1")
            .await;
        let read = releases.green.get((&"s0", Type::TEXT)).await.unwrap().unwrap();
        assert_eq!(releases.control.phase(NAME), Phase::Expand);
        let state = json!({"old": 0, "new": 1});
        let written = releases.green.update((&"s0", Type::TEXT), read.row_version, &[(&state, Type::JSONB)]).await;
        assert_eq!(written.unwrap(), read.row_version + 1);
        releases.control.wait_for(|snapshot| snapshot.phase(NAME) == Phase::Fenced).await;
        // … and a statement that meets what it did not expect looks, and runs once more.
        let contracted = "DROP TRIGGER zzz_mcp_dual_write ON chat_sessions; DROP TRIGGER zzy_mcp_dual_guard ON chat_sessions; \
             ALTER TABLE chat_sessions DROP COLUMN state_data, DROP COLUMN conv_version; \
             UPDATE mcp_migrations SET phase = 7; UPDATE mcp_control SET epoch = epoch + 1";
        run(&releases.operator, contracted).await;
        assert_eq!(releases.control.phase(NAME), Phase::Fenced);
        let read = releases.green.get((&"s0", Type::TEXT)).await.unwrap().unwrap();
        assert_eq!(read.row.get::<_, serde_json::Value>(0), state);
        assert_eq!(releases.control.phase(NAME), Phase::Contract);
        drop(coordinator);
        releases.close().await;
    })
    .await;
}
