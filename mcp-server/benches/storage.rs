//! What the dual write costs, how fast phases change under load, and how fast a large table is filled and compared.
//!
//! `cargo bench -p benches --bench storage -- write|phase|rows`, with `DATABASE_URL` naming an empty database reached over TCP;
//! everything is made in the schema `bench_storage`, which is dropped first. Cases take turns within a round, so that
//! whatever else the machine does meets all of them; what is printed is the median over the rounds, and ratios are taken
//! within a round.

#![expect(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, reason = "a measurement is a program")]

use std::time::{Duration, Instant};

use bg_runtime::{
    Color, Database,
    database::{DatabaseConfig, Json, Type},
    storage::{
        Control, Coordinator, Phase, Replica,
        backfill::{Pace, Progress},
        migration,
        validator::ValidateOptions,
    },
};
use mcp_server::conversations::{Call, Conversations, MIGRATIONS, Save, Widget};
use serde_json::{Value, json, value::RawValue};

const SESSIONS: u64 = 2000;
const MIGRATION: &str = "0003_conversation_state";

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match what.as_str() {
            "write" => write().await,
            "phase" => phase().await,
            "rows" => rows().await,
            // `cargo bench` without a word runs every bench; these need a database.
            _ => println!("say write, phase or rows, with DATABASE_URL"),
        }
    });
}

async fn open() -> Database {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL names a database");
    let admin = DatabaseConfig { url: Some(url.clone().into()), ..DatabaseConfig::default() };
    let admin = Database::open(admin).await.unwrap();
    let connection = admin.get().await.unwrap();
    connection.batch_execute("DROP SCHEMA IF EXISTS bench_storage CASCADE; CREATE SCHEMA bench_storage").await.unwrap();
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}options=-csearch_path%3Dbench_storage");
    let config = DatabaseConfig { url: Some(url.into()), pool_size: 40, ..DatabaseConfig::default() };
    let database = Database::open(config).await.unwrap();
    migration::apply(&database, &MIGRATIONS, Duration::from_secs(60)).await.unwrap();
    database
}

async fn follow(database: &Database) -> Control {
    let control = Control::new(database.clone(), Replica::new(Color::Green, "bench", &MIGRATIONS));
    tokio::spawn(control.clone().follow());
    control.wait_for(|snapshot| snapshot.phase(MIGRATION) >= Phase::Dual).await;
    control
}

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A state of about 2 KB of JSON.
    fn state(&mut self) -> Value {
        const WORDS: [&str; 12] = [
            "appointment",
            "please",
            "move",
            "Tuesday",
            "morning",
            "physio",
            "calendar",
            "building",
            "confirm",
            "reschedule",
            "nine",
            "thanks",
        ];
        let message = |chance: &mut Self| {
            let text: Vec<_> = (0..18).map(|_| WORDS[usize::try_from(chance.next() % 12).unwrap()]).collect();
            json!({ "id": format!("{:016x}{:016x}", chance.next(), chance.next()), "role": "user", "text": text.join(" ") })
        };
        json!({ "version": self.next() % 1000, "locale": "en-GB", "messages": (0..10).map(|_| message(self)).collect::<Vec<_>>() })
    }

    fn widgets(&mut self) -> Vec<Widget> {
        let mut widget = |kind: &str| {
            let state =
                json!({ "view": "list", "selected": self.next() % 10, "filters": ["confirmed"], "revision": self.next() });
            Widget { kind: kind.to_owned(), state: RawValue::from_string(state.to_string()).unwrap() }
        };
        ["appointments", "calendar", "map"].map(&mut widget).into()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const ONE_SHAPE: &str = "WITH written AS (\
 INSERT INTO one_sessions (session_id, principal, state) VALUES ($1, 'ada', $2) \
 ON CONFLICT (session_id) DO UPDATE SET state = excluded.state, updated_at = now() RETURNING session_id) \
INSERT INTO one_widgets (session_id, widget_type, widget_state) \
 SELECT written.session_id, w.kind, w.state FROM written, unnest($3::text[], $4::jsonb[]) AS w (kind, state) \
 ON CONFLICT (session_id, widget_type) DO UPDATE SET widget_state = excluded.widget_state, updated_at = now()";

const TABLES: &str = "\
CREATE TABLE one_sessions (session_id text COLLATE \"C\" PRIMARY KEY, principal text NOT NULL, state jsonb NOT NULL, \
 updated_at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 50, toast_tuple_target = 4080);\
CREATE TABLE one_widgets (session_id text COLLATE \"C\" NOT NULL REFERENCES one_sessions ON DELETE CASCADE, \
 widget_type text COLLATE \"C\" NOT NULL, widget_state jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(), \
 PRIMARY KEY (session_id, widget_type)) WITH (fillfactor = 50);\
CREATE TABLE two_sessions (session_id text COLLATE \"C\" PRIMARY KEY, principal text NOT NULL, state_data jsonb NOT NULL, \
 conversation_state jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 50, toast_tuple_target = 4080);\
CREATE TABLE two_widgets (session_id text COLLATE \"C\" NOT NULL REFERENCES two_sessions ON DELETE CASCADE, \
 widget_type text COLLATE \"C\" NOT NULL, widget_state jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(), \
 PRIMARY KEY (session_id, widget_type)) WITH (fillfactor = 50);\
CREATE TABLE two_calls (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, session_id text, tool_name text, tool_version text)";

/// The same layout for all: half-filled pages, lz4.
const LZ4: &str = "ALTER TABLE one_sessions ALTER COLUMN state SET COMPRESSION lz4; \
 ALTER TABLE two_sessions ALTER COLUMN state_data SET COMPRESSION lz4, ALTER COLUMN conversation_state SET COMPRESSION lz4";

/// One client, one write after the other, each way in turn.
async fn write() {
    let database = open().await;
    database.get().await.unwrap().batch_execute(&format!("{TABLES}; {LZ4}")).await.unwrap();
    let conversations = Conversations::new(database.clone(), follow(&database).await);
    let mut chance = Chance(0x9E37_79B9_7F4A_7C15);
    let states: Vec<Value> = (0..32).map(|_| chance.state()).collect();
    println!("a state is {} bytes of JSON", states[0].to_string().len());
    let mut versions = vec![0_i64; usize::try_from(SESSIONS).unwrap()];
    let rounds = 15;
    let mut latencies: [Vec<f64>; 4] = Default::default();
    let mut ratios: [Vec<f64>; 4] = Default::default();
    let mut proven = false;
    for round in 0..rounds * 2 {
        if round == rounds {
            report("dual", &latencies, &ratios);
            (latencies, ratios) = Default::default();
            let mut coordinator = Coordinator::take(&database, &MIGRATIONS, "bench", Duration::from_secs(9)).await.unwrap();
            coordinator.backfill(MIGRATION, &Pace::default(), &()).await.unwrap();
            assert!(coordinator.validate(MIGRATION, ValidateOptions::default(), &()).await.unwrap().valid);
            proven = true;
        }
        let mut of_round = [0.0; 4];
        for (way, of_way) in of_round.iter_mut().enumerate().take(3) {
            let mut taken = Vec::new();
            for _ in 0..400 {
                let at = usize::try_from(chance.next() % SESSIONS).unwrap();
                let (session, state) = (format!("session {at}"), &states[at % 32]);
                let widgets = chance.widgets();
                let begun = Instant::now();
                match way {
                    0 => one_shape(&database, &session, state, &widgets).await,
                    1 => {
                        let call = Some(Call { tool: "search_appointments", version: "1.0.0" });
                        let base = versions[at];
                        let save = Save { session: &session, principal: "ada", base, state, widgets: &widgets, call };
                        versions[at] = conversations.save(&save).await.unwrap();
                    }
                    _ => naive(&database, &session, state, &widgets).await,
                }
                taken.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            *of_way = median(taken);
        }
        // The first rounds fill the tables.
        if round % rounds >= 3 {
            for way in 0..3 {
                latencies[way].push(of_round[way]);
                ratios[way].push(of_round[way] / of_round[0]);
            }
            ratios[3].push(of_round[2] / of_round[1]);
        }
    }
    assert!(proven);
    report("validate, with the proof in place", &latencies, &ratios);
    database.close().await.unwrap();
}

fn report(phase: &str, latencies: &[Vec<f64>; 4], ratios: &[Vec<f64>; 4]) {
    println!("\nphase {phase} | p50 µs | x of one shape");
    for (way, name) in ["one shape, one statement", "dual write, tags and all", "naive transaction"].into_iter().enumerate() {
        println!("{name} | {:.0} | {:.2}", median(latencies[way].clone()), median(ratios[way].clone()));
    }
    println!("naive / dual write: {:.2}", median(ratios[3].clone()));
}

async fn one_shape(database: &Database, session: &str, state: &Value, widgets: &[Widget]) {
    let kinds: Vec<&str> = widgets.iter().map(|widget| widget.kind.as_str()).collect();
    let states: Vec<_> = widgets.iter().map(|widget| Json(&*widget.state)).collect();
    let parameters = [
        (&session as _, Type::TEXT),
        (&Json(state) as _, Type::JSONB),
        (&kinds as _, Type::TEXT_ARRAY),
        (&states as _, Type::JSONB_ARRAY),
    ];
    database.get().await.unwrap().execute(ONE_SHAPE, &parameters).await.unwrap();
}

async fn naive(database: &Database, session: &str, state: &Value, widgets: &[Widget]) {
    let mut connection = database.get().await.unwrap();
    let transaction = connection.transaction().await.unwrap();
    let state = Json(state);
    let upsert = "INSERT INTO two_sessions (session_id, principal, state_data, conversation_state) VALUES ($1, 'ada', $2, $3) \
         ON CONFLICT (session_id) DO UPDATE SET state_data = excluded.state_data, \
         conversation_state = excluded.conversation_state, updated_at = now()";
    transaction.execute(upsert, &[(&session, Type::TEXT), (&state, Type::JSONB), (&state, Type::JSONB)]).await.unwrap();
    for widget in widgets {
        let upsert = "INSERT INTO two_widgets (session_id, widget_type, widget_state) VALUES ($1, $2, $3) \
             ON CONFLICT (session_id, widget_type) DO UPDATE SET widget_state = excluded.widget_state, updated_at = now()";
        let state = Json(&*widget.state);
        let parameters = [(&session as _, Type::TEXT), (&widget.kind as _, Type::TEXT), (&state as _, Type::JSONB)];
        transaction.execute(upsert, &parameters).await.unwrap();
    }
    let call = "INSERT INTO two_calls (session_id, tool_name, tool_version) VALUES ($1, 'search_appointments', '1.0.0')";
    transaction.execute(call, &[(&session, Type::TEXT)]).await.unwrap();
    transaction.commit().await.unwrap();
}

/// Ten replicas follow, writers keep up 2,000 writes a second, and phases go on and back.
async fn phase() {
    let database = open().await;
    let mut replicas = Vec::new();
    for _ in 0..10 {
        replicas.push(follow(&database).await);
    }
    let conversations = Conversations::new(database.clone(), replicas[0].clone());
    let mut coordinator = Coordinator::take(&database, &MIGRATIONS, "bench", Duration::from_secs(9)).await.unwrap();
    coordinator.backfill(MIGRATION, &Pace::default(), &()).await.unwrap();
    let valid = async |coordinator: &mut Coordinator| {
        assert!(coordinator.validate(MIGRATION, ValidateOptions { without_proof: true }, &()).await.unwrap().valid);
    };
    valid(&mut coordinator).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let (conversations, stop) = (conversations.clone(), stop.clone());
            tokio::spawn(async move {
                let mut chance = Chance(0xABCD_EF01 + writer);
                let state = json!({ "small": chance.next() });
                let mut versions = [0_i64; 50];
                let mut every = tokio::time::interval(Duration::from_millis(4));
                let (mut slowest, mut count, mut all) = (Duration::ZERO, 0_u64, Vec::new());
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    every.tick().await;
                    let at = usize::try_from(chance.next() % 50).unwrap();
                    let session = format!("writer {writer} session {at}");
                    let save =
                        Save { session: &session, principal: "ada", base: versions[at], state: &state, widgets: &[], call: None };
                    let begun = Instant::now();
                    versions[at] = conversations.save(&save).await.unwrap();
                    slowest = slowest.max(begun.elapsed());
                    all.push(begun.elapsed().as_secs_f64() * 1e3);
                    count += 1;
                }
                (slowest, count, all)
            })
        })
        .collect();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut reached = Vec::new();
    let mut fences = Vec::new();
    for _ in 0..10 {
        for back in [false, false, true, true] {
            let moved = Instant::now();
            let phase =
                if back { coordinator.back(MIGRATION, false).await } else { coordinator.advance(MIGRATION).await }.unwrap();
            let returned = moved.elapsed();
            for replica in &replicas {
                replica.wait_for(|snapshot| snapshot.phase(MIGRATION) == phase).await;
            }
            reached.push((moved.elapsed() - returned).as_secs_f64() * 1e3);
            if phase == Phase::Fenced {
                fences.push(returned.as_secs_f64() * 1e3);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        coordinator.backfill(MIGRATION, &Pace::default(), &()).await.unwrap();
        valid(&mut coordinator).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let took = begun.elapsed();
    let (mut slowest, mut count, mut all) = (Duration::ZERO, 0, Vec::new());
    for writer in writers {
        let (slow, wrote, latencies) = writer.await.unwrap();
        slowest = slowest.max(slow);
        count += wrote;
        all.extend(latencies);
    }
    all.sort_by(f64::total_cmp);
    let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    println!("{:.0} writes/s from 8 writers, 10 replicas, {} phase changes", count as f64 / took.as_secs_f64(), reached.len());
    println!(
        "the last replica acts on a phase: median {:.1} ms, worst {:.1} ms after the move",
        median(reached.clone()),
        worst(&reached)
    );
    println!("the fence: median {:.1} ms, worst {:.1} ms", median(fences.clone()), worst(&fences));
    println!(
        "a write: p50 {:.2} ms, p99.9 {:.1} ms, slowest {:.1} ms",
        all[all.len() / 2],
        all[all.len() * 999 / 1000],
        slowest.as_secs_f64() * 1e3
    );
}

/// A table filled before the migration: backfill, then validation, and what memory they take.
async fn rows() {
    let count: i64 = std::env::var("ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(5_000_000);
    let database = open().await;
    let connection = database.session().await.unwrap();
    let mut session = connection;
    session.set_patience(Duration::from_secs(3600)).await.unwrap();
    let fill = format!(
        "ALTER TABLE chat_sessions DISABLE TRIGGER USER; \
         INSERT INTO chat_sessions (session_id, principal, state_data) \
         SELECT 'session ' || lpad(n::text, 9, '0'), 'ada', jsonb_build_object('n', n, 'text', repeat('word ', 40)) \
         FROM generate_series(1, {count}) n; ALTER TABLE chat_sessions ENABLE TRIGGER USER; ANALYZE chat_sessions"
    );
    session.batch_execute(&fill).await.unwrap();
    let mut coordinator = Coordinator::take(&database, &MIGRATIONS, "bench", Duration::from_secs(9)).await.unwrap();
    let begun = Instant::now();
    let filled = coordinator.backfill(MIGRATION, &Pace::default(), &Dots).await.unwrap();
    let rate = |rows: u64, begun: Instant| rows as f64 / begun.elapsed().as_secs_f64();
    println!("backfill: {} rows, {:.0} rows/s, RSS at most {} MB", filled.changed, rate(filled.rows, begun), peak_mb());
    for without_proof in [true, false] {
        let begun = Instant::now();
        let verdict = coordinator.validate(MIGRATION, ValidateOptions { without_proof }, &Dots).await.unwrap();
        assert!(verdict.valid, "{verdict:?}");
        let proof = if without_proof { "without" } else { "with" };
        println!(
            "validation {proof} proof: {} rows, {:.0} rows/s, RSS at most {} MB",
            verdict.rows,
            rate(verdict.rows, begun),
            peak_mb()
        );
    }
}

struct Dots;

impl Progress for Dots {
    fn doing(&self, what: &str, of: u64) {
        println!("{what}, about {of} rows");
    }

    fn done(&self, _: u64) {}

    fn waits(&self, why: &str) {
        println!("waits: {why}");
    }
}

/// The most this process ever had resident.
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
