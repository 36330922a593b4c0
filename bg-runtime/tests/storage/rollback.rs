//! The way back is open from every phase before the contract, while everybody writes.

use bg_runtime::database::Type;
use bg_runtime::storage::backfill::Pace;
use bg_runtime::storage::{Phase, StorageError};

use crate::home::{LONG, count, within};
use crate::sessions::{Load, NAME, Pen, Releases, forward, phase, seen, validate};

#[tokio::test(flavor = "multi_thread")]
async fn back_and_on_again_at_every_phase_costs_nobody_a_write_or_a_stale_read() {
    within(2 * LONG, async {
        let releases = Releases::with_rows(30).await;
        let mut coordinator = releases.coordinator().await;
        let (blue, green) = (Pen::Blue(releases.blue.clone()), Pen::Green(releases.green.clone()));
        let unaware = Pen::Unaware(releases.before.clone());
        // Aware ones read before they write, and hold what they read against what was told before.
        let load = Load::start(30, vec![blue.clone(), blue, unaware, green.clone(), green], i64::MAX);
        let (old, new, all) = ([0, 1, 2], [3, 4], [0, 1, 2, 3, 4]);
        let go_on = async |what: &str| load.more(what, &all, |tally| &tally.acknowledged, 30).await;

        go_on("in dual").await;
        assert_eq!(coordinator.back(NAME, false).await.unwrap(), Phase::Expand);
        go_on("back in expand").await;
        assert_eq!(coordinator.advance(NAME).await.unwrap(), Phase::Dual);
        go_on("dual again").await;

        forward(&mut coordinator, Phase::Backfill).await;
        let small = Pace { rows: (7, 7), ..Pace::default() };
        assert_eq!(coordinator.backfill(NAME, &small, &()).await.unwrap().rows, 30);
        go_on("filled").await;
        assert_eq!(coordinator.back(NAME, false).await.unwrap(), Phase::Dual);
        go_on("back from the backfill").await;

        forward(&mut coordinator, Phase::Validate).await;
        assert!(validate(&mut coordinator).await.valid);
        go_on("validated").await;
        assert_eq!(coordinator.back(NAME, false).await.unwrap(), Phase::Backfill);
        go_on("back from validate").await;
        let refused = coordinator.advance(NAME).await.unwrap_err();
        assert!(refused.to_string().contains("the backfill is not done"), "an old backfill still counts: {refused}");

        forward(&mut coordinator, Phase::ReadNew).await;
        go_on("reads are new").await;
        assert_eq!(coordinator.back(NAME, false).await.unwrap(), Phase::Dual);
        go_on("back from read_new").await;

        forward(&mut coordinator, Phase::Fenced).await;
        load.more("the old shape is refused", &old, |tally| &tally.fenced, 5).await;
        load.more("green goes on", &new, |tally| &tally.acknowledged, 30).await;
        assert_eq!(coordinator.back(NAME, false).await.unwrap(), Phase::ReadNew);
        go_on("back from the fence").await;
        load.ledger.check_while_writing(&releases.operator).await;

        forward(&mut coordinator, Phase::Fenced).await;
        load.more("fenced for good", &old, |tally| &tally.fenced, 5).await;
        let fenced_at = load.ledger.acknowledged_old();
        let mut dump = Vec::new();
        assert_eq!(coordinator.dump(NAME, &mut dump).await.unwrap(), 30);
        let dump = String::from_utf8(dump).unwrap();
        let dumped = dump.lines().filter_map(|line| line.strip_prefix('s')?.split('\t').nth(2));
        let olds = dumped.map(|json| serde_json::from_str::<serde_json::Value>(json).unwrap()["old"].as_i64().unwrap());
        assert_eq!(olds.sum::<i64>(), fenced_at, "{dump}");
        assert!(dump.ends_with("\\.\n"));

        // Those of the old release are gone by now; this is the one that was forgotten.
        let forgotten = releases.blue.clone();
        load.leave(&old).await;
        coordinator.contract(NAME).await.unwrap();
        load.more("green goes on without the old shape", &new, |tally| &tally.acknowledged, 100).await;
        seen(&coordinator).await;
        assert_eq!(releases.control.phase(NAME), Phase::Contract);
        assert_eq!(phase(&coordinator).await, Phase::Contract);
        let lost = forgotten.get((&"s0", Type::TEXT)).await;
        assert!(matches!(lost, Err(StorageError::Fenced)), "{lost:?}");
        let nowhere = coordinator.back(NAME, true).await.unwrap_err();
        assert!(nowhere.to_string().contains("there is no way back"), "{nowhere}");

        for tally in load.tallies() {
            // The database was there all the while.
            assert_eq!(tally.retried.load(std::sync::atomic::Ordering::SeqCst), 0, "somebody was told to try again");
        }
        load.stop().await.check_contracted(&releases.operator).await;
        let left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'mcp\\_%'";
        assert_eq!(count(&releases.operator, left).await, 0, "the contract left a function behind");
        let left = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'chat_sessions'::regclass AND NOT attisdropped \
             AND attname IN ('state_data', 'conv_version')";
        assert_eq!(count(&releases.operator, left).await, 0);
        let left = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'chat_sessions'::regclass";
        assert_eq!(count(&releases.operator, left).await, 0);
        drop(coordinator);
        releases.close().await;
    })
    .await;
}
