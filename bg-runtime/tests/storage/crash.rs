//! Whoever moves a migration may die at any moment, and so may PostgreSQL: the next one goes on to the same end.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use bg_runtime::database::{Database, DatabaseConfig};
use bg_runtime::storage::backfill::{Pace, Progress};
use bg_runtime::storage::migration::apply;
use bg_runtime::storage::validator::ValidateOptions;
use bg_runtime::storage::{Coordinator, Phase};
use rustix::process::{Signal, kill_process};

use crate::home::{Home, LONG, chain, until, within};
use crate::sessions::{Load, MIGRATIONS, NAME, PATIENCE, Pen, Releases, filled, forward, validate};

/// Tells the process that is to be killed where the server is, and where to wait for it.
const HOME: &str = "TEST_COORDINATOR_HOME";
const WAITS_AT: &str = "TEST_COORDINATOR_WAITS_AT";

const ROWS: usize = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_between_any_two_steps_is_continued_to_the_same_end() {
    within(2 * LONG, async {
        let undisturbed = undisturbed().await;
        let home = Home::new();
        let database = home.open().await;
        filled(&database, ROWS).await;
        let places = [
            "expanded",
            "phase dual",
            "phase backfill",
            "backfill 0",
            "backfill 500",
            "backfill 10500",
            "backfill 20000",
            "filled",
            "phase validate",
            "compare 10000",
            "prove 0",
            "validated",
            "phase read_new",
            "phase fenced",
            "dumped",
            "phase contract",
        ];
        for place in places {
            let coordinator = Killed::start(&home, place);
            let waiting = home.directory.join("waiting");
            until(place, || async { waiting.exists() || coordinator.is_gone() }).await;
            assert!(!coordinator.is_gone(), "it never came to {place}");
            coordinator.kill();
            std::fs::remove_file(waiting).unwrap();
        }
        drive(&database, &Places::nowhere()).await.unwrap();
        assert_eq!(state(&database).await, undisturbed);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_at_any_moment_is_continued_to_the_same_end() {
    within(2 * LONG, async {
        let undisturbed = undisturbed().await;
        let home = Home::new();
        let database = home.open().await;
        filled(&database, ROWS).await;
        for kill in 0..12_u64 {
            let coordinator = Killed::start(&home, "");
            tokio::time::sleep(Duration::from_millis(30 + RandomState::new().hash_one(kill) % 300)).await;
            coordinator.kill();
        }
        drive(&database, &Places::nowhere()).await.unwrap();
        assert_eq!(state(&database).await, undisturbed);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expand_that_was_cut_off_at_its_end_is_continued_by_the_backfill() {
    let home = Home::new();
    within(LONG, async {
        let database = home.open().await;
        filled(&database, 10).await;
        apply(&database, &MIGRATIONS, PATIENCE).await.unwrap();
        let mut coordinator = Coordinator::take(&database, &MIGRATIONS, "test", PATIENCE).await.unwrap();
        assert_eq!(coordinator.back(NAME, false).await.unwrap(), Phase::Expand);
        assert_eq!(coordinator.backfill(NAME, &Pace::default(), &()).await.unwrap().rows, 10);
        drop(coordinator);
        database.close().await.unwrap();
    })
    .await;
}

/// Not a test but the process that other tests kill.
#[tokio::test]
#[ignore = "runs inside the tests that kill it"]
async fn a_coordinator_to_kill() {
    let Some(data_dir) = std::env::var_os(HOME).map(PathBuf::from) else { return };
    let waits_at = std::env::var_os(WAITS_AT).unwrap_or_default().into_string().unwrap();
    let places = Places { waits_at, waiting: data_dir.join("waiting"), doing: Mutex::default() };
    let config = DatabaseConfig { data_dir, path: std::env::var_os("PATH"), ..DatabaseConfig::default() };
    let database = Database::open(config).await.unwrap();
    drive(&database, &places).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_killed_at_any_moment_costs_the_migration_nothing() {
    within(2 * LONG, async {
        let undisturbed = undisturbed().await;
        let home = Home::new();
        let database = home.open().await;
        filled(&database, ROWS).await;
        let mut kills = 0_u64;
        let mut driving = Box::pin(drive_through(&database));
        loop {
            let moment = Duration::from_millis(20 + RandomState::new().hash_one(kills) % 300);
            tokio::select! {
                () = &mut driving => break,
                () = tokio::time::sleep(moment), if kills < 8 => {
                    // While it recovers there is nobody to kill.
                    if let Some(pid) = home.find_pid() {
                        let _ = kill_process(pid, Signal::KILL);
                        kills += 1;
                    }
                }
            }
        }
        assert!(kills > 2, "it was over before it was killed");
        drop(driving);
        assert_eq!(state(&database).await, undisturbed);
        database.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_killed_under_load_keeps_what_it_acknowledged() {
    within(2 * LONG, async {
        let releases = Releases::with_rows(30).await;
        let pens = vec![
            Pen::Blue(releases.blue.clone()),
            Pen::Unaware(releases.before.clone()),
            Pen::Green(releases.green.clone()),
            Pen::Green(releases.green.clone()),
        ];
        let load = Load::start(30, pens, i64::MAX);
        for goal in [Phase::Backfill, Phase::Validate, Phase::ReadNew] {
            load.more("everybody writes", &[0, 1, 2, 3], |tally| &tally.acknowledged, 30).await;
            let old = releases.home.pid();
            kill_process(old, Signal::KILL).unwrap();
            until("another server answers", || async {
                releases.home.find_pid().is_some_and(|pid| pid != old) && releases.operator.check(PATIENCE).await.is_ok()
            })
            .await;
            let mut coordinator = releases.coordinator().await;
            forward(&mut coordinator, goal).await;
            drop(coordinator);
        }
        load.more("everybody writes", &[0, 1, 2, 3], |tally| &tally.acknowledged, 30).await;
        load.stop().await.check(&releases.operator).await;
        let mut coordinator = releases.coordinator().await;
        assert!(validate(&mut coordinator).await.valid);
        drop(coordinator);
        releases.close().await;
    })
    .await;
}

/// A coordinator in a process of its own.
struct Killed(RefCell<Child>);

/// Where a coordinator is, and where it is to wait for its end.
struct Places {
    waits_at: String,
    waiting: PathBuf,
    doing: Mutex<String>,
}

// === impl Killed ===

impl Killed {
    fn start(home: &Home, waits_at: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::a_coordinator_to_kill", "--ignored"])
            .env(HOME, &home.directory)
            .env(WAITS_AT, waits_at)
            .stdout(Stdio::null())
            .spawn();
        Self(RefCell::new(child.unwrap()))
    }

    fn is_gone(&self) -> bool {
        self.0.borrow_mut().try_wait().unwrap().is_some()
    }

    fn kill(&self) {
        let mut child = self.0.borrow_mut();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let child = self.0.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

// === impl Places ===

impl Places {
    fn nowhere() -> Self {
        Self { waits_at: String::new(), waiting: PathBuf::new(), doing: Mutex::default() }
    }

    fn at(&self, place: &str) {
        if place == self.waits_at {
            std::fs::write(&self.waiting, "").unwrap();
            loop {
                std::thread::park_timeout(LONG);
            }
        }
    }
}

impl Progress for Places {
    fn doing(&self, what: &str, _: u64) {
        what.clone_into(&mut self.doing.lock().unwrap());
        if what == "prove" {
            self.at("prove 0");
        }
    }

    fn done(&self, rows: u64) {
        let place = format!("{} {rows}", self.doing.lock().unwrap());
        self.at(&place);
    }

    fn waits(&self, _: &str) {}
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// From wherever it stands to the end.
async fn drive(database: &Database, places: &Places) -> Result<(), Failure> {
    apply(database, &MIGRATIONS, PATIENCE).await?;
    places.at("expanded");
    let mut coordinator = Coordinator::take(database, &MIGRATIONS, "test", PATIENCE).await?;
    // Small pages, so that there is a moment to be killed in.
    let pace = Pace { rows: (500, 500), rest_percent: 30, ..Pace::default() };
    loop {
        let status = coordinator.status().await?;
        let phase = status.migrations[1].phase.ok_or("the migration is gone")?;
        places.at(&format!("phase {phase}"));
        match phase {
            Phase::Backfill => {
                let filled = coordinator.backfill(NAME, &pace, places).await?;
                assert_eq!((filled.rows, filled.changed), (ROWS as u64, ROWS as u64));
                places.at("filled");
            }
            Phase::Validate => {
                let verdict = coordinator.validate(NAME, ValidateOptions::default(), places).await?;
                assert!(verdict.valid && verdict.rows == ROWS as u64, "{verdict:#?}");
                places.at("validated");
            }
            Phase::Fenced => {
                let mut dump = Vec::new();
                assert_eq!(coordinator.dump(NAME, &mut dump).await?, ROWS as u64);
                places.at("dumped");
                coordinator.contract(NAME).await?;
                continue;
            }
            Phase::Contract => return Ok(()),
            _ => {}
        }
        coordinator.advance(NAME).await?;
    }
}

/// Tries until it is done, as a job does that is started again whenever it fails.
async fn drive_through(database: &Database) {
    let places = Places::nowhere();
    while let Err(error) = drive(database, &places).await {
        let words = chain(&*error);
        assert!(!words.contains("panicked"), "{words}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How it ends when nobody is killed.
async fn undisturbed() -> Vec<String> {
    let home = Home::new();
    let database = home.open().await;
    filled(&database, ROWS).await;
    drive(&database, &Places::nowhere()).await.unwrap();
    let state = state(&database).await;
    database.close().await.unwrap();
    state
}

/// Everything that must not depend on who died when.
async fn state(database: &Database) -> Vec<String> {
    let sql = "SELECT md5(string_agg(t::text, ';' ORDER BY session_id)) FROM chat_sessions t \
         UNION ALL SELECT string_agg(attname || ' ' || attnotnull, ',' ORDER BY attname) FROM pg_attribute \
           WHERE attrelid = 'chat_sessions'::regclass AND attnum > 0 AND NOT attisdropped \
         UNION ALL SELECT string_agg(conname, ',' ORDER BY conname) FROM pg_constraint WHERE conrelid = 'chat_sessions'::regclass \
         UNION ALL SELECT 'triggers ' || count(*) FROM pg_trigger WHERE tgrelid = 'chat_sessions'::regclass \
         UNION ALL SELECT 'functions ' || count(*) FROM pg_proc WHERE proname LIKE 'mcp\\_%' \
         UNION ALL SELECT string_agg(concat_ws(' ', name, checksum, phase, min_writer, verdict, moved_epoch), ';' ORDER BY name) \
           FROM mcp_migrations \
         UNION ALL SELECT string_agg(concat_ws(' ', migration, step, position, done_rows, changed_rows, finished_at IS NOT NULL), \
           ';' ORDER BY migration, step) FROM mcp_migration_steps \
         UNION ALL SELECT string_agg(event, ';' ORDER BY epoch) FROM mcp_migration_log WHERE epoch IS NOT NULL \
         UNION ALL SELECT 'epoch ' || epoch FROM mcp_control";
    let rows = database.get().await.unwrap().query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect()
}
