//! The fence lets in exactly the writes from before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bg_runtime::database::Type;
use bg_runtime::storage::{Phase, StorageError};

use crate::home::{LONG, count, until, within};
use crate::sessions::{Load, NAME, Pen, Releases, forward, phase, validate};

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_lets_in_every_write_before_it_and_none_after() {
    within(2 * LONG, async {
        let releases = Releases::with_rows(30).await;
        let mut coordinator = releases.coordinator().await;
        forward(&mut coordinator, Phase::ReadNew).await;

        let (blue, green) = (Pen::Blue(releases.blue.clone()), Pen::Green(releases.green.clone()));
        let unaware = Pen::Unaware(releases.before.clone());
        let pens = vec![blue.clone(), blue, unaware.clone(), unaware.clone(), green.clone(), green];
        let (old, new) = ([0, 1, 2, 3], [4, 5]);
        let load = Load::start(30, pens, i64::MAX);
        for round in 0..3 {
            load.more("everybody writes", &[0, 1, 2, 3, 4, 5], |tally| &tally.acknowledged, 50).await;
            assert_eq!(coordinator.advance(NAME).await.unwrap(), Phase::Fenced);
            // Every write that was to be acknowledged was committed before the fence, though its answer may be on its way.
            let inside = "SELECT sum((state_data->>'old')::int)::bigint FROM chat_sessions";
            let fenced_at = count(&releases.operator, inside).await;
            load.more("the old shape is refused", &old, |tally| &tally.fenced, 5).await;
            assert_eq!(load.ledger.acknowledged_old(), fenced_at, "round {round}: a write passed the fence, or fell off it");
            load.more("green goes on", &new, |tally| &tally.acknowledged, 50).await;
            assert_eq!(count(&releases.operator, inside).await, fenced_at, "round {round}: a write passed the fence");
            load.ledger.check_while_writing(&releases.operator).await;
            if round < 2 {
                assert_eq!(coordinator.back(NAME, false).await.unwrap(), Phase::ReadNew);
            }
        }
        let refused = unaware.write(&load.ledger, 0).await;
        assert!(matches!(refused, Err(StorageError::Fenced)), "{refused:?}");
        let ledger = load.stop().await;
        ledger.check(&releases.operator).await;
        let verdict = validate(&mut coordinator).await;
        assert!(verdict.valid, "{verdict:#?}");
        drop(coordinator);
        releases.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_waits_for_a_write_in_flight_and_keeps_it() {
    within(LONG, async {
        let releases = Releases::with_rows(2).await;
        let mut coordinator = releases.coordinator().await;
        forward(&mut coordinator, Phase::ReadNew).await;

        let mut connection = releases.before.get().await.unwrap();
        let transaction = connection.transaction().await.unwrap();
        let late = "UPDATE chat_sessions SET state_data = '{\"old\": 1, \"new\": 0}' WHERE session_id = 's0'";
        transaction.execute(late, &[]).await.unwrap();
        let fenced = Arc::new(AtomicBool::new(false));
        let fencing = tokio::spawn({
            let fenced = Arc::clone(&fenced);
            async move {
                coordinator.advance(NAME).await.unwrap();
                fenced.store(true, Ordering::SeqCst);
                coordinator
            }
        });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'";
        until("the fence waits", || async { count(&releases.operator, waits).await == 1 }).await;
        // The fence waits in short turns, so that it holds nobody up for longer.
        let other = "UPDATE chat_sessions SET state_data = '{\"old\": 1, \"new\": 0}' WHERE session_id = 's1'";
        let connection_of_another = releases.before.get().await.unwrap();
        assert_eq!(connection_of_another.execute(other, &[]).await.unwrap(), 1);
        assert!(!fenced.load(Ordering::SeqCst), "the fence overtook a write");
        transaction.commit().await.unwrap();
        let coordinator = fencing.await.unwrap();

        assert_eq!(phase(&coordinator).await, Phase::Fenced);
        let refused =
            connection_of_another.execute("UPDATE chat_sessions SET state_data = '{}' WHERE session_id = 's1'", &[]).await;
        assert!(matches!(refused.map_err(StorageError::from), Err(StorageError::Fenced)));
        let read = releases.green.get((&"s0", Type::TEXT)).await.unwrap().unwrap();
        assert_eq!(read.row.get::<_, serde_json::Value>(0)["old"], 1, "a write in flight was lost");
        drop((connection, connection_of_another, coordinator));
        releases.close().await;
    })
    .await;
}
