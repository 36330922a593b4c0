//! The journal: what rollouts did and do, in the database that both colors share, and the lease that lets one of them act.
//!
//! What must stay true: there is one open rollout at most; a step is written down as begun before it is begun; whoever acts
//! holds the lease with the greatest epoch, and everything that moves traffic is told that epoch.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use bg_runtime::{
    Color, Database, Secret,
    database::{DatabaseError, Json, Parameter, Row, Type},
};
use serde::Serialize;
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    driver::{DigestKey, Image},
    metrics::Calls,
};

/// The journal in a database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    database: Database,
}

/// A rollout as it is written down.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its name.
    pub id: String,
    /// `deploy`, `switch`, `rollback` or `retire`.
    pub goal: String,
    /// Where.
    pub platform: String,
    /// Who.
    pub by: String,
    /// What was live before.
    pub from: Color,
    /// What was to be live.
    pub to: Color,
    /// The build that was live.
    pub from_build: Option<String>,
    /// The build that was to be live.
    pub to_build: Option<String>,
    /// What is deployed, [hidden](Image::hidden).
    pub image: Option<Image>,
    /// How many replicas of it.
    pub replicas: u32,
    /// `open`, `done`, `rolled_back`, `failed` or `aborted`.
    pub state: String,
    /// Why it is not done.
    pub reason: Option<String>,
    /// Who let it pass the approval.
    pub approved_by: Option<String>,
    /// What the live color's calls were like before the switch.
    #[serde(skip)]
    pub baseline: Option<Calls>,
    /// The report's file.
    pub report: Option<String>,
    /// When it began, in Unix milliseconds.
    pub began_ms: u64,
    /// When all traffic went to the new color.
    pub switched_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
}

/// A step as it is written down.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepEntry {
    /// Its name.
    pub step: String,
    /// `begun`, `passed`, `failed` or `skipped`.
    pub state: String,
    /// What it found.
    pub words: String,
    /// Figures: label and value.
    pub details: Vec<(String, String)>,
    /// When it began, in Unix milliseconds.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
}

/// Who holds the lease.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Who.
    pub holder: String,
    /// For how many more seconds unless it is renewed.
    pub seconds: i64,
    /// Counts the holders.
    pub epoch: i64,
}

/// A lease that is held. Dropping it lets it run out; [`release`](Lease::release) gives it up at once.
#[derive(Debug)]
pub struct Lease {
    journal: Journal,
    epoch: i64,
    /// When it was known to be ours.
    known: Mutex<Instant>,
    lost: watch::Receiver<bool>,
    renewing: JoinHandle<()>,
}

/// Why a lease or a rollout is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The database.
    #[error("the journal cannot be read or written")]
    Database(#[from] DatabaseError),
    /// Somebody else acts.
    #[error("{} is at it (for {} s more unless it goes on); wait with --wait, or take it away with `rollout unlock`", .0.holder, .0.seconds)]
    Held(Held),
    /// Somebody took the lease away.
    #[error("somebody else took over: this rollout goes no further, and has undone nothing; see `rollout status`")]
    Lost,
    /// Another rollout is not finished.
    #[error("the rollout {0} is not finished: go on with it by the same `rollout deploy`, or end it with `rollout abort`")]
    Open(String),
}

/// How long a lease is held without being renewed.
const TTL: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(4);
/// Every question is a write that waits for the disk.
const BELIEVED: Duration = Duration::from_millis(500);

const TABLES: &str = include_str!("journal.sql");
/// Rollouts as [`entry`] reads them.
macro_rules! entries {
    ($rest:literal) => {
        concat!(
            "SELECT id, goal, platform, started_by, from_color, to_color, from_build, to_build, image, replicas, state, reason, ",
            "approved_by, baseline, report, (extract(epoch FROM began_at) * 1000)::bigint, ",
            "(extract(epoch FROM switched_at) * 1000)::bigint, (extract(epoch FROM ended_at) * 1000)::bigint FROM mcp_rollouts ",
            $rest
        )
    };
}

const TAKE: &str = "UPDATE mcp_rollout_lease SET epoch = greatest(epoch, $6) + 1, holder = $1, host = $2, process = $3, \
     process_born = $4, held_until = now() + make_interval(secs => $5) \
     WHERE held_until < now() OR epoch = $7 RETURNING epoch";
const HELD: &str = "SELECT coalesce(holder, ''), ceil(extract(epoch FROM held_until - now()))::bigint, epoch, host, process, \
     process_born FROM mcp_rollout_lease WHERE held_until >= now()";
const EXTEND: &str = "UPDATE mcp_rollout_lease SET held_until = now() + make_interval(secs => $2) WHERE epoch = $1";
const RELEASE: &str = "UPDATE mcp_rollout_lease SET held_until = '-infinity' WHERE epoch = $1";

// === impl Journal ===

impl Journal {
    /// Opens it, and makes its tables where there are none.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub async fn open(database: Database) -> Result<Self, JournalError> {
        let connection = database.get().await?;
        // The newest table: where it is missing, so may others be.
        if connection.query("SELECT to_regclass('mcp_rollout_key')::text", &[]).await?[0].get::<_, Option<String>>(0).is_none() {
            // Two that come at once would meet in the catalog.
            let sql = format!("BEGIN; SELECT pg_advisory_xact_lock(4702394921427289423); {TABLES} COMMIT;");
            database.session().await?.batch_execute(&sql).await?;
        }
        Ok(Self { database })
    }

    /// Returns the key of the digests that stand for the values of variables, and makes one where there is none.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub async fn digest_key(&self) -> Result<DigestKey, JournalError> {
        let new = DigestKey::generate();
        self.run("INSERT INTO mcp_rollout_key (key) VALUES ($1) ON CONFLICT DO NOTHING", &[(&new.expose() as _, Type::TEXT)])
            .await?;
        let rows = self.rows("SELECT key FROM mcp_rollout_key", &[]).await?;
        Ok(DigestKey::new(rows.first().map_or(new, |row| Secret::new(row.get(0)))))
    }

    /// The database that it is in.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    async fn rows(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, JournalError> {
        Ok(self.database.get().await?.query(sql, parameters).await?)
    }

    async fn run(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<u64, JournalError> {
        Ok(self.database.get().await?.execute(sql, parameters).await?)
    }

    /// Takes the lease. `least` is an epoch that was seen on the platform: ours is greater. With `force` it is taken from
    /// whoever has it; otherwise only from one whose process is gone from this machine.
    ///
    /// # Errors
    /// [`JournalError::Held`], and what the database says.
    pub async fn take(&self, holder: &str, least: i64, force: bool) -> Result<Lease, JournalError> {
        let (host, process) = (host(), std::process::id());
        let (process, born) = (i64::from(process), born(i64::from(process)));
        let mut over = -1_i64;
        for _ in 0..3 {
            let ttl = TTL.as_secs_f64();
            let parameters = [
                (&holder as _, Type::TEXT),
                (&host as _, Type::TEXT),
                (&process as _, Type::INT8),
                (&born as _, Type::INT8),
                (&ttl as _, Type::FLOAT8),
                (&least as _, Type::INT8),
                (&over as _, Type::INT8),
            ];
            if let Some(row) = self.rows(TAKE, &parameters).await?.first() {
                return Ok(Lease::new(self.clone(), row.get(0)));
            }
            let rows = self.rows(HELD, &[]).await?;
            let Some(row) = rows.first() else { continue };
            let held = Held { holder: row.get(0), seconds: row.get(1), epoch: row.get(2) };
            let (at, who, since): (Option<String>, Option<i64>, Option<i64>) = (row.get(3), row.get(4), row.get(5));
            let is_gone = at.as_deref() == Some(&host) && who.is_some_and(|who| since.is_some() && self::born(who) != since);
            if !force && !is_gone {
                return Err(JournalError::Held(held));
            }
            over = held.epoch;
        }
        Err(JournalError::Lost)
    }

    /// Who holds the lease.
    ///
    /// # Errors
    /// What the database says.
    pub async fn held(&self) -> Result<Option<Held>, JournalError> {
        let rows = self.rows(HELD, &[]).await?;
        Ok(rows.first().map(|row| Held { holder: row.get(0), seconds: row.get(1), epoch: row.get(2) }))
    }

    /// Begins a rollout, unless one is open.
    ///
    /// # Errors
    /// [`JournalError::Open`], and what the database says.
    pub async fn begin(&self, entry: &Entry) -> Result<(), JournalError> {
        let image = entry.image.as_ref().map(Image::hidden);
        let image = image.as_ref().map(Json);
        let replicas = i64::from(entry.replicas);
        let (from, to) = (entry.from.as_str(), entry.to.as_str());
        let parameters = [
            (&entry.id as _, Type::TEXT),
            (&entry.goal as _, Type::TEXT),
            (&entry.platform as _, Type::TEXT),
            (&entry.by as _, Type::TEXT),
            (&from as _, Type::TEXT),
            (&to as _, Type::TEXT),
            (&entry.from_build as _, Type::TEXT),
            (&entry.to_build as _, Type::TEXT),
            (&image as _, Type::JSONB),
            (&replicas as _, Type::INT8),
        ];
        let sql = "INSERT INTO mcp_rollouts (id, goal, platform, started_by, from_color, to_color, from_build, to_build, image, \
             replicas) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";
        if self.run(sql, &parameters).await? == 1 {
            return Ok(());
        }
        let open = self.open_entry().await?.map_or_else(|| entry.id.clone(), |open| open.id);
        Err(JournalError::Open(open))
    }

    /// The rollout that is not finished.
    ///
    /// # Errors
    /// What the database says.
    pub async fn open_entry(&self) -> Result<Option<Entry>, JournalError> {
        let rows = self.rows(entries!("WHERE state = 'open'"), &[]).await?;
        rows.first().map(entry).transpose()
    }

    /// A rollout by its name.
    ///
    /// # Errors
    /// What the database says.
    pub async fn entry(&self, id: &str) -> Result<Option<Entry>, JournalError> {
        let rows = self.rows(entries!("WHERE id = $1"), &[(&id, Type::TEXT)]).await?;
        rows.first().map(entry).transpose()
    }

    /// The last rollouts, the newest first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn history(&self, most: i64) -> Result<Vec<Entry>, JournalError> {
        let sql = entries!("ORDER BY began_at DESC, id DESC LIMIT $1");
        self.rows(sql, &[(&most, Type::INT8)]).await?.iter().map(entry).collect()
    }

    /// What a rollout's steps came to.
    ///
    /// # Errors
    /// What the database says.
    pub async fn steps(&self, id: &str) -> Result<Vec<StepEntry>, JournalError> {
        let sql = "SELECT step, state, words, details, (extract(epoch FROM began_at) * 1000)::bigint, \
             (extract(epoch FROM ended_at) * 1000)::bigint FROM mcp_rollout_steps WHERE rollout = $1 ORDER BY began_at, step";
        let step = |row: &Row| StepEntry {
            step: row.get(0),
            state: row.get(1),
            words: row.get(2),
            details: serde_json::from_value(row.get::<_, Value>(3)).unwrap_or_default(),
            began_ms: unsigned(row.get(4)),
            ended_ms: row.get::<_, Option<i64>>(5).map(unsigned),
        };
        Ok(self.rows(sql, &[(&id, Type::TEXT)]).await?.iter().map(step).collect())
    }

    /// Writes a step down: before it begins, and when it has ended.
    ///
    /// # Errors
    /// What the database says.
    pub async fn step(&self, id: &str, step: &StepEntry) -> Result<(), JournalError> {
        let details = Json(&step.details);
        let began = step.began_ms as f64 / 1e3;
        let parameters = [
            (&id as _, Type::TEXT),
            (&step.step as _, Type::TEXT),
            (&step.state as _, Type::TEXT),
            (&step.words as _, Type::TEXT),
            (&details as _, Type::JSONB),
            (&began as _, Type::FLOAT8),
        ];
        let sql = "INSERT INTO mcp_rollout_steps (rollout, step, state, words, details, began_at, ended_at) \
             VALUES ($1, $2, $3, $4, $5, to_timestamp($6), CASE WHEN $3 <> 'begun' THEN now() END) \
             ON CONFLICT (rollout, step) DO UPDATE SET state = excluded.state, words = excluded.words, \
             details = excluded.details, began_at = excluded.began_at, ended_at = excluded.ended_at";
        self.run(sql, &parameters).await.map(drop)
    }

    /// Writes down which build is deployed, once it has said so.
    ///
    /// # Errors
    /// What the database says.
    pub async fn set_build(&self, id: &str, build: &str) -> Result<(), JournalError> {
        let sql = "UPDATE mcp_rollouts SET to_build = $2 WHERE id = $1";
        self.run(sql, &[(&id, Type::TEXT), (&build, Type::TEXT)]).await.map(drop)
    }

    /// Writes down what the calls were like before the switch.
    ///
    /// # Errors
    /// What the database says.
    pub async fn set_baseline(&self, id: &str, baseline: &Calls) -> Result<(), JournalError> {
        let sql = "UPDATE mcp_rollouts SET baseline = $2 WHERE id = $1";
        self.run(sql, &[(&id, Type::TEXT), (&Json(baseline), Type::JSONB)]).await.map(drop)
    }

    /// Writes down that all traffic goes to the new color.
    ///
    /// # Errors
    /// What the database says.
    pub async fn switched(&self, id: &str) -> Result<(), JournalError> {
        self.run("UPDATE mcp_rollouts SET switched_at = coalesce(switched_at, now()) WHERE id = $1", &[(&id, Type::TEXT)])
            .await
            .map(drop)
    }

    /// For how much longer a color is to be kept, when it is kept for so many seconds after traffic moved away from it.
    ///
    /// # Errors
    /// What the database says.
    pub async fn warm_for(&self, color: Color, seconds: u64) -> Result<Duration, JournalError> {
        let (color, seconds) = (color.as_str(), seconds as f64);
        let sql = "SELECT coalesce(max(extract(epoch FROM switched_at + make_interval(secs => $2) - now())), 0)::float8 \
             FROM mcp_rollouts WHERE to_color <> $1 AND goal <> 'retire'";
        let rows = self.rows(sql, &[(&color, Type::TEXT), (&seconds, Type::FLOAT8)]).await?;
        let left: f64 = rows.first().map_or(0.0, |row| row.get(0));
        Ok(Duration::try_from_secs_f64(left.max(0.0)).unwrap_or_default())
    }

    /// Lets the open rollout pass its approval. Which one that was.
    ///
    /// # Errors
    /// What the database says.
    pub async fn approve(&self, by: &str) -> Result<Option<String>, JournalError> {
        let sql = "UPDATE mcp_rollouts SET approved_by = $1 WHERE state = 'open' RETURNING id";
        Ok(self.rows(sql, &[(&by, Type::TEXT)]).await?.first().map(|row| row.get(0)))
    }

    /// Ends a rollout that is open; one that has ended stays as it is.
    ///
    /// # Errors
    /// What the database says.
    pub async fn end(&self, id: &str, state: &str, reason: Option<&str>, report: Option<&str>) -> Result<(), JournalError> {
        let sql = "UPDATE mcp_rollouts SET state = $2, reason = $3, report = coalesce($4, report), ended_at = now() \
             WHERE id = $1 AND state = 'open'";
        let parameters =
            [(&id as _, Type::TEXT), (&state as _, Type::TEXT), (&reason as _, Type::TEXT), (&report as _, Type::TEXT)];
        self.run(sql, &parameters).await.map(drop)
    }

    /// Takes the lease away from whoever holds it. Who that was.
    ///
    /// # Errors
    /// What the database says.
    pub async fn unlock(&self) -> Result<Option<Held>, JournalError> {
        let held = self.held().await?;
        let sql = "UPDATE mcp_rollout_lease SET epoch = epoch + 1, held_until = '-infinity' WHERE held_until >= now()";
        self.run(sql, &[]).await?;
        Ok(held)
    }
}

// === impl Lease ===

impl Lease {
    fn new(journal: Journal, epoch: i64) -> Self {
        let (lose, lost) = watch::channel(false);
        let renewing = tokio::spawn({
            let journal = journal.clone();
            async move {
                loop {
                    tokio::time::sleep(RENEW).await;
                    let ttl = TTL.as_secs_f64();
                    match journal.run(EXTEND, &[(&epoch, Type::INT8), (&ttl, Type::FLOAT8)]).await {
                        Ok(1) => {}
                        Ok(_) => break,
                        // While the database is away nobody can take it either. Whoever took it just before has told the
                        // platform, which lets nobody with a smaller epoch move anything.
                        Err(failure) => tracing::warn!(error = %failure, "the lease cannot be renewed: {failure}"),
                    }
                }
                lose.send_replace(true);
            }
        });
        Self { journal, epoch, known: Mutex::new(Instant::now()), lost, renewing }
    }

    /// What everything that moves traffic is told.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Whether it is still held: asked before each step, and believed for a moment. Whoever takes it tells the platform, which
    /// lets nobody before move anything.
    ///
    /// # Errors
    /// [`JournalError::Lost`] when somebody else holds it, [`JournalError::Database`] when nobody knows.
    pub async fn check(&self) -> Result<(), JournalError> {
        if *self.lost.borrow() {
            return Err(JournalError::Lost);
        }
        if self.known.lock().expect("nobody panics with the time").elapsed() < BELIEVED {
            return Ok(());
        }
        self.verify().await
    }

    /// The same, and nothing is believed.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub async fn verify(&self) -> Result<(), JournalError> {
        let ttl = TTL.as_secs_f64();
        match self.journal.run(EXTEND, &[(&self.epoch, Type::INT8), (&ttl, Type::FLOAT8)]).await? {
            1 => {
                *self.known.lock().expect("nobody panics with the time") = Instant::now();
                Ok(())
            }
            _ => Err(JournalError::Lost),
        }
    }

    /// Comes when it is lost.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        if lost.wait_for(|lost| *lost).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Gives it up.
    pub async fn release(self) {
        let _ = self.journal.run(RELEASE, &[(&self.epoch, Type::INT8)]).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

fn entry(row: &Row) -> Result<Entry, JournalError> {
    let color = |column: usize| {
        let word: String = row.get(column);
        word.parse().map_err(|_| JournalError::Database(DatabaseError::mismatch("a color is neither blue nor green")))
    };
    let json = |column: usize| row.get::<_, Option<Value>>(column);
    Ok(Entry {
        id: row.get(0),
        goal: row.get(1),
        platform: row.get(2),
        by: row.get(3),
        from: color(4)?,
        to: color(5)?,
        from_build: row.get(6),
        to_build: row.get(7),
        image: json(8).and_then(|image| serde_json::from_value(image).ok()),
        replicas: u32::try_from(row.get::<_, i64>(9)).unwrap_or_default(),
        state: row.get(10),
        reason: row.get(11),
        approved_by: row.get(12),
        baseline: json(13).and_then(|baseline| serde_json::from_value(baseline).ok()),
        report: row.get(14),
        began_ms: unsigned(row.get(15)),
        switched_ms: row.get::<_, Option<i64>>(16).map(unsigned),
        ended_ms: row.get::<_, Option<i64>>(17).map(unsigned),
    })
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

/// What shares our process ids: a name alone is many machines', or many containers'.
pub(crate) fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let ids = std::fs::read_link("/proc/self/ns/pid").map(|ids| ids.display().to_string()).unwrap_or_default();
    format!("{name} {} {ids}", boot.trim())
}

/// When the kernel started a process that lives on this machine.
pub(crate) fn born(process: i64) -> Option<i64> {
    let process = i32::try_from(process).ok()?;
    crate::local::born(process).and_then(|born| i64::try_from(born).ok())
}
