//! Every kind of writer at once loses nothing, whatever the shape.

use std::sync::atomic::{AtomicI64, Ordering};

use bg_runtime::Color;
use bg_runtime::database::{Parameter, Type};
use bg_runtime::storage::backfill::Pace;
use bg_runtime::storage::dual_write::{Column, Key, Shape, Side};
use bg_runtime::storage::migration::{Migration, apply};
use bg_runtime::storage::validator::ValidateOptions;
use bg_runtime::storage::{Control, Coordinator, DualWrite, Phase, Replica, StorageError, Table};
use serde_json::json;

use crate::home::{Home, LONG, count, run, within};
use crate::sessions::{Load, PATIENCE, Pen, Releases, forward, phase, validate};

#[tokio::test(flavor = "multi_thread")]
async fn thirty_thousand_mixed_writes_on_fifty_rows_lose_nothing_and_diverge_nowhere() {
    within(2 * LONG, async {
        let releases = Releases::with_rows(50).await;
        // The writers are to meet in the rows, not to wait for the disk.
        run(&releases.operator, "ALTER ROLE mcp SET synchronous_commit = off").await;
        let (blue, green) = (Pen::Blue(releases.blue.clone()), Pen::Green(releases.green.clone()));
        let unaware = Pen::Unaware(releases.before.clone());
        let pens = [blue.clone(), blue.clone(), blue, green.clone(), green.clone(), green, unaware.clone(), unaware];
        let load = Load::start(50, pens.to_vec(), 30_000);
        let everybody: Vec<usize> = (0..pens.len()).collect();
        load.more("everybody writes", &everybody, |tally| &tally.acknowledged, 100).await;

        let mut coordinator = releases.coordinator().await;
        forward(&mut coordinator, Phase::Validate).await;
        assert!(validate(&mut coordinator).await.valid, "while they write");
        let ledger = load.join().await;
        assert_eq!(ledger.acknowledged(), 30_000);
        ledger.check(&releases.operator).await;
        let verdict = validate(&mut coordinator).await;
        assert!(verdict.valid && verdict.rows == 50, "{verdict:#?}");
        assert_eq!(phase(&coordinator).await, Phase::Validate);
        drop(coordinator);
        releases.close().await;
    })
    .await;
}

/// The new shape says more than the old one: a note, which a writer of the old shape must not cost.
static TALLIES: DualWrite = DualWrite {
    migration: "0002_notes",
    table: "tallies",
    key: Key { name: "id", kind: "bigint" },
    old: Shape { schema: 1, columns: &[Column { name: "data", kind: "jsonb", lens: "jsonb_build_object('n', count)" }] },
    new: Shape {
        schema: 2,
        columns: &[
            Column { name: "count", kind: "integer", lens: "(data->>'n')::integer" },
            Column { name: "note", kind: "text", lens: "note" },
        ],
    },
    mark: "tally_version",
    tags: &[],
};

#[tokio::test(flavor = "multi_thread")]
async fn a_shape_that_says_more_keeps_it_through_writes_of_the_one_that_says_less() {
    const BEFORE: Migration = Migration::new("0001_tallies", "CREATE TABLE tallies (id bigint PRIMARY KEY, data jsonb NOT NULL)");
    const DURING: Migration = Migration::new("0002_notes", "").dual_write(&TALLIES);
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        // The framework's own columns are missing: the migration adds them.
        apply(&database, &[BEFORE], PATIENCE).await.unwrap();
        run(&database, "INSERT INTO tallies SELECT id, '{\"n\": 0}' FROM generate_series(1, 20) AS id").await;
        apply(&database, &[BEFORE, DURING], PATIENCE).await.unwrap();
        let control = Control::new(database.clone(), Replica::new(Color::Green, "2", &[BEFORE, DURING]));
        let following = tokio::spawn(control.clone().follow());
        control.wait_for(|snapshot| snapshot.phase("0002_notes") == Phase::Dual).await;
        let table = |side| Table::new(database.clone(), control.clone(), &TALLIES, side);
        let (blue, green) = (table(Side::Before), table(Side::During));

        // Green inserts what blue reads, and the reverse.
        let (twenty_one, twenty_two) = ((&21_i64 as _, Type::INT8), (&22_i64 as _, Type::INT8));
        let count_and_note: [Parameter<'_>; 2] = [(&7_i32, Type::INT4), (&"lucky", Type::TEXT)];
        assert_eq!(green.insert(twenty_one, &count_and_note).await.unwrap(), 1);
        let read = blue.get((&21_i64, Type::INT8)).await.unwrap().unwrap();
        assert_eq!((read.row.get::<_, serde_json::Value>(0), read.row_version), (json!({"n": 7}), 1));
        assert_eq!(blue.insert(twenty_two, &[(&json!({"n": 8}), Type::JSONB)]).await.unwrap(), 1);
        let read = green.get((&22_i64, Type::INT8)).await.unwrap().unwrap();
        assert_eq!((read.row.get::<_, i32>(0), read.row.get::<_, Option<String>>(1)), (8, None));
        let taken = green.insert((&22_i64, Type::INT8), &count_and_note).await;
        assert!(matches!(taken, Err(StorageError::Exists)), "{taken:?}");

        // Both count on the same rows; the notes are green's.
        let written = AtomicI64::new(0);
        let write = async |shape: &Table, is_green: bool, id: i64| {
            loop {
                let read = shape.get((&id, Type::INT8)).await.unwrap().unwrap();
                let wrote = if is_green {
                    let count = read.row.get::<_, i32>(0) + 1;
                    let note = format!("note {id}");
                    shape.update((&id, Type::INT8), read.row_version, &[(&count, Type::INT4), (&note, Type::TEXT)]).await
                } else {
                    let data: serde_json::Value = read.row.get(0);
                    let data = json!({"n": data["n"].as_i64().unwrap() + 1});
                    shape.update((&id, Type::INT8), read.row_version, &[(&data, Type::JSONB)]).await
                };
                match wrote {
                    Ok(_) => break written.fetch_add(1, Ordering::SeqCst),
                    Err(StorageError::Conflict) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let walk = async |shape: &Table, is_green: bool| {
            for turn in 0..20 {
                for id in 1..=20 {
                    write(shape, is_green, (id + turn) % 20 + 1).await;
                }
            }
        };
        let mut coordinator = Coordinator::take(&database, &[BEFORE, DURING], "test", PATIENCE).await.unwrap();
        let fill = async {
            assert!(coordinator.wait_for_replicas(PATIENCE).await.unwrap().is_empty());
            coordinator.backfill("0002_notes", &Pace { rows: (3, 3), ..Pace::default() }, &()).await.unwrap()
        };
        let ((), (), filled) = tokio::join!(walk(&blue, false), walk(&green, true), fill);
        assert_eq!((filled.rows, written.load(Ordering::SeqCst)), (22, 800));
        // The last word on each row is blue's.
        for id in 1..=20 {
            write(&blue, false, id).await;
        }
        assert_eq!(count(&database, "SELECT sum(count)::bigint - 15 FROM tallies").await, 820, "a count was lost");
        assert_eq!(count(&database, "SELECT sum(row_version)::bigint - 2 FROM tallies").await, 820);
        assert_eq!(count(&database, "SELECT count(*) FROM tallies WHERE note = 'note ' || id").await, 20, "a note was lost");

        let verdict = coordinator.validate("0002_notes", ValidateOptions::default(), &()).await.unwrap();
        assert!(verdict.valid, "{verdict:#?}");
        assert_eq!(verdict.checks.len(), 5);
        for goal in [Phase::ReadNew, Phase::Fenced] {
            assert_eq!(coordinator.advance("0002_notes").await.unwrap(), goal);
        }
        coordinator.contract("0002_notes").await.unwrap();
        drop(coordinator);
        let read = green.get((&1_i64, Type::INT8)).await.unwrap().unwrap();
        let after = Table::new(database.clone(), control.clone(), &TALLIES, Side::After);
        let wrote = after.update((&1_i64, Type::INT8), read.row_version, &count_and_note).await.unwrap();
        assert_eq!(wrote, read.row_version + 1);
        assert_eq!(green.get((&1_i64, Type::INT8)).await.unwrap().unwrap().row.get::<_, String>(1), "lucky");
        following.abort();
        database.close().await.unwrap();
    })
    .await;
}
