//! A migration that changes no table's shape, and has parts that run later than its expand.

use std::time::Duration;

use bg_runtime::storage::backfill::Pace;
use bg_runtime::storage::migration::{Migration, apply};
use bg_runtime::storage::validator::ValidateOptions;
use bg_runtime::storage::{Coordinator, Phase};

use crate::home::{Home, LONG, count, run, within};

const NOTES: Migration = Migration::new("0001_notes", "ALTER TABLE orders ADD COLUMN note text")
    .backfill(
        "-- step: notes batched\n\
         WITH page AS MATERIALIZED (SELECT id FROM orders WHERE $1::text IS NULL OR id > $1::text::bigint ORDER BY id LIMIT $2), \
         changed AS (UPDATE orders SET note = 'note ' || orders.id FROM page WHERE orders.id = page.id AND note IS NULL RETURNING 1) \
         SELECT (SELECT max(id)::text FROM page), (SELECT count(*) FROM page), (SELECT count(*) FROM changed)",
    )
    .contract("ALTER TABLE orders DROP COLUMN remark")
    .undo("ALTER TABLE orders DROP COLUMN note");

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_developers_own_run_in_their_phases() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        run(&database, "CREATE TABLE orders (id bigint PRIMARY KEY, remark text)").await;
        run(&database, "INSERT INTO orders SELECT n, 'remark' FROM generate_series(1, 2500) n").await;
        let migrations = [NOTES];
        let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'orders'";
        for undone in [true, false] {
            assert_eq!(apply(&database, &migrations, LONG).await.unwrap().len(), 1);
            assert_eq!(count(&database, columns).await, 3);
            let mut coordinator = Coordinator::take(&database, &migrations, "test", Duration::from_secs(9)).await.unwrap();
            let pace = Pace { rows: (100, 100), ..Pace::default() };
            coordinator.backfill(NOTES.name, &pace, &()).await.unwrap();
            assert_eq!(count(&database, "SELECT count(*) FROM orders WHERE note = 'note ' || id").await, 2500);
            if undone {
                while coordinator.back(NOTES.name, true).await.unwrap() > Phase::Idle {}
                assert_eq!(count(&database, columns).await, 2);
                continue;
            }
            assert!(coordinator.validate(NOTES.name, ValidateOptions::default(), &()).await.unwrap().valid);
            assert_eq!(coordinator.advance(NOTES.name).await.unwrap(), Phase::ReadNew);
            assert_eq!(coordinator.advance(NOTES.name).await.unwrap(), Phase::Fenced);
            coordinator.contract(NOTES.name).await.unwrap();
            assert_eq!(count(&database, columns).await, 2, "the remark is gone and the note is there");
        }
        database.close().await.unwrap();
    })
    .await;
}
