//! What all replicas of both colors agree on: the control tables, and each replica's view of them.
//!
//! One epoch counts every change, of a phase or of a flag. A replica learns of it in three ways: a notification on a
//! connection of its own, the epoch in the answer to each write, and a slow poll. What must stay true: a replica says that
//! it has seen an epoch only after it acts on it, and losing the connection makes it later, never wrong.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::flag::Flags;
use super::migration::{Migration, MigrationError, too_new};
use super::phase::Phase;
use crate::color::Color;
use crate::database::{Database, DatabaseError, Notification, Parameter, Query, Row, SqlState, Type};

/// The tables. Every statement can run again; they run under the coordinator's lock.
pub(super) const TABLES: &str = r#"
CREATE TABLE IF NOT EXISTS mcp_migrations (
    name text COLLATE "C" PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
-- The phase is NULL for a migration that changes no table's shape. min_writer is what the triggers read: the least schema
-- whose writes they let in.
ALTER TABLE mcp_migrations
    ADD COLUMN IF NOT EXISTS phase smallint,
    ADD COLUMN IF NOT EXISTS min_writer smallint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS verdict jsonb,
    ADD COLUMN IF NOT EXISTS verdict_epoch bigint,
    ADD COLUMN IF NOT EXISTS moved_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS moved_epoch bigint NOT NULL DEFAULT 1;
CREATE TABLE IF NOT EXISTS mcp_migration_steps (
    migration text COLLATE "C" NOT NULL,
    step text COLLATE "C" NOT NULL,
    position text,
    done_rows bigint NOT NULL DEFAULT 0,
    changed_rows bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (migration, step)
);
CREATE TABLE IF NOT EXISTS mcp_migration_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    happened_at timestamptz NOT NULL DEFAULT now(),
    migration text COLLATE "C" NOT NULL,
    event text NOT NULL,
    epoch bigint,
    actor text NOT NULL
);
CREATE TABLE IF NOT EXISTS mcp_control (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    epoch bigint NOT NULL DEFAULT 1,
    lease_epoch bigint NOT NULL DEFAULT 0,
    lease_holder text,
    lease_taken_at timestamptz
);
INSERT INTO mcp_control DEFAULT VALUES ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS mcp_replicas (
    instance text COLLATE "C" PRIMARY KEY,
    color text NOT NULL,
    version text NOT NULL,
    knows text[] NOT NULL,
    epoch_seen bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    -- Whether it holds an advisory lock while it lives, so that its death is seen at once and not by its silence.
    holds_lock boolean NOT NULL DEFAULT false
);
CREATE TABLE IF NOT EXISTS mcp_flags (
    name text COLLATE "C" PRIMARY KEY,
    percent smallint NOT NULL CHECK (percent BETWEEN 0 AND 100),
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL
)"#;

/// The channel of the notifications; the payload is the epoch.
const CHANNEL: &str = "mcp_control";

/// A change that replicas are to act on, as SQL: the next epoch, and the word that it is there.
pub(super) const NEXT_EPOCH: &str = "UPDATE mcp_control SET epoch = epoch + 1";
pub(super) const ANNOUNCE: &str = "SELECT pg_notify('mcp_control', epoch::text) FROM mcp_control;";

/// How often a replica looks without having been told, and says that it lives.
const POLL: Duration = Duration::from_secs(5);

/// A replica that has not said for this long that it lives does not. Three polls, so that one slow one kills nobody.
pub(super) const LIVE: &str = "interval '15 seconds'";

/// The first half of the advisory locks that replicas hold while they live; the second is made of the instance's name. The
/// number is the first four bytes of SHA-256("mcp_replicas").
const LIFE_LOCK: i32 = 0x2772_82c8;

/// Who a replica is, as the others see it in `mcp_replicas`.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its color.
    pub color: Color,
    /// Its version.
    pub version: String,
    /// The migrations it knows. One that does not know a migration speaks the old shape of its table.
    pub knows: Vec<&'static str>,
}

/// A replica's view of the control tables.
#[derive(Clone, Debug)]
pub struct Control {
    inner: Arc<Inner>,
}

/// The control tables at one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The epoch. 0 before the tables were read, or there are none.
    pub epoch: i64,
    /// The phases of migrations that have one.
    phases: HashMap<String, Phase>,
    /// The flags.
    pub flags: Flags,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    replica: Replica,
    instance: String,
    /// A copy of the snapshot's epoch, for the hot path.
    epoch: AtomicI64,
    snapshot: watch::Sender<Arc<Snapshot>>,
    poke: Notify,
    ears: Mutex<Vec<(&'static str, mpsc::UnboundedSender<Heard>)>>,
}

/// What an ear hears; see [`Control::hear`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Somebody told this.
    Told(String),
    /// Nobody listened for a while, so something may have been missed.
    Missed,
}

// === impl Replica ===

impl Replica {
    /// A replica that knows these migrations.
    #[must_use]
    pub fn new(color: Color, version: impl Into<String>, migrations: &[Migration]) -> Self {
        Self { color, version: version.into(), knows: migrations.iter().map(|migration| migration.name).collect() }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Where a migration stands. One that is not there has not begun.
    #[must_use]
    pub fn phase(&self, migration: &str) -> Phase {
        self.phases.get(migration).copied().unwrap_or(Phase::Idle)
    }

    /// All migrations that have a phase, with it.
    pub fn phases(&self) -> impl Iterator<Item = (&str, Phase)> {
        self.phases.iter().map(|(name, phase)| (name.as_str(), *phase))
    }
}

// === impl Control ===

impl Control {
    /// A view that has seen nothing yet. [`follow`](Self::follow) keeps it fresh.
    #[must_use]
    pub fn new(database: Database, replica: Replica) -> Self {
        // Different for each replica and each of its lives; it is a name and not a secret.
        let instance = format!("{:016x}-{}", RandomState::new().build_hasher().finish(), std::process::id());
        let snapshot = watch::Sender::new(Arc::new(Snapshot::default()));
        let inner = Inner {
            database,
            replica,
            instance,
            epoch: AtomicI64::new(0),
            snapshot,
            poke: Notify::new(),
            ears: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The latest view.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.snapshot.borrow().clone()
    }

    /// Waits until the view satisfies a condition, and gives it.
    pub async fn wait_for(&self, mut condition: impl FnMut(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut seen = self.inner.snapshot.subscribe();
        let snapshot = seen.wait_for(|snapshot| condition(snapshot)).await;
        snapshot.expect("the sender is in self").clone()
    }

    /// Where a migration stands.
    #[must_use]
    pub fn phase(&self, migration: &str) -> Phase {
        self.inner.snapshot.borrow().phase(migration)
    }

    /// Whether a flag lets this principal in. A flag that nobody set lets everybody in.
    #[must_use]
    pub fn allows(&self, flag: &str, principal: &str) -> bool {
        self.inner.snapshot.borrow().flags.allows(flag, principal)
    }

    /// The share of principals a flag lets in, in percent. `None` when nobody set it.
    #[must_use]
    pub fn flag(&self, flag: &str) -> Option<u8> {
        self.inner.snapshot.borrow().flags.percent(flag)
    }

    /// The name under which this replica stands in `mcp_replicas`.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// What in the database this release is too old for: a [`MigrationError::TooOld`]. `None` is well.
    #[must_use]
    pub fn too_old(&self) -> Option<MigrationError> {
        too_new(self.snapshot().phases(), &self.inner.replica.knows)
    }

    /// What is told on a channel of PostgreSQL's, on the connection that [`follow`](Self::follow) has anyway. Ask before it
    /// follows: a later one is heard from the next connection on. Through a transaction pooler nothing is heard.
    #[must_use]
    pub fn hear(&self, channel: &'static str) -> mpsc::UnboundedReceiver<Heard> {
        let (ear, heard) = mpsc::unbounded_channel();
        self.inner.ears.lock().unwrap_or_else(PoisonError::into_inner).push((channel, ear));
        heard
    }

    /// Whether a replica lives: at once where it holds a lock, else by what it said within the last 15 seconds. A replica
    /// that lost its connection for a moment may be taken for dead.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn lives(&self, instance: &str) -> Result<bool, DatabaseError> {
        if instance == self.inner.instance {
            return Ok(true);
        }
        let lives = "SELECT CASE WHEN holds_lock THEN EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND classid = $2::int::oid AND objid::bigint = (hashtext(instance)::bigint & 4294967295) AND objsubid = 2) \
             ELSE seen_at > now() - interval '15 seconds' END FROM mcp_replicas WHERE instance = $1";
        let parameters = [(&instance as _, Type::TEXT), (&LIFE_LOCK as _, Type::INT4)];
        let row = self.inner.database.get().await?.query_opt(lives, &parameters).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Takes note of an epoch that an answer carried. A greater one than the view's is looked up soon.
    pub fn saw(&self, epoch: i64) {
        if epoch > self.inner.epoch.load(Ordering::Relaxed) {
            self.inner.poke.notify_one();
        }
    }

    /// Looks now, on a connection of the pool.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn refresh(&self) -> Result<(), DatabaseError> {
        let connection = self.inner.database.get().await?;
        self.look(&connection, false).await
    }

    /// Keeps the view fresh and says that this replica lives, until it is dropped. Losing the database is survived.
    pub async fn follow(self) {
        let mut said = String::new();
        loop {
            match self.follow_on_one_connection().await {
                Ok(()) => tracing::debug!("the connection that hears of phase changes was lost"),
                Err(error) if error.to_string() != said => {
                    said = error.to_string();
                    tracing::warn!(error = said, "phases and flags are not followed: {said}");
                }
                Err(_) => {}
            }
            // Whoever wakes us up knows of a newer epoch; the connection may be back by then.
            let _ = tokio::time::timeout(POLL / 5, self.inner.poke.notified()).await;
        }
    }

    /// Takes this replica out of `mcp_replicas`: nobody needs to wait for it any more.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn leave(&self) -> Result<(), DatabaseError> {
        let connection = self.inner.database.get().await?;
        let instance: Parameter<'_> = (&self.inner.instance, Type::TEXT);
        connection.execute("DELETE FROM mcp_replicas WHERE instance = $1", &[instance]).await?;
        Ok(())
    }

    async fn follow_on_one_connection(&self) -> Result<(), DatabaseError> {
        let mut session = self.inner.database.session().await?;
        let holds_lock = session.is_direct();
        if holds_lock {
            let ears = self.ears();
            let listen: String = ears.iter().map(|(channel, _)| format!("LISTEN {channel};")).collect();
            session.batch_execute(&format!("LISTEN {CHANNEL}; {listen}")).await?;
            // Shared, because a connection that was lost may hold it for a while longer.
            let live = "SELECT pg_advisory_lock_shared($1, hashtext($2))";
            session.query(live, &[(&LIFE_LOCK, Type::INT4), (&self.inner.instance, Type::TEXT)]).await?;
            for (_, ear) in ears {
                let _ = ear.send(Heard::Missed);
            }
        }
        loop {
            // Whatever is told from here on is looked up in the next round, so nothing falls between.
            while let Some(notification) = session.notified_already() {
                self.tell(notification);
            }
            self.look(&session, holds_lock).await?;
            let deadline = tokio::time::sleep(POLL);
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    heard = session.notified() => match heard {
                        None => return Ok(()),
                        Some(notification) => if self.tell(notification) { break },
                    },
                    () = self.inner.poke.notified() => break,
                    () = &mut deadline => break,
                }
            }
        }
    }

    fn ears(&self) -> Vec<(&'static str, mpsc::UnboundedSender<Heard>)> {
        self.inner.ears.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes a notification on. Whether it is about phases and flags.
    fn tell(&self, notification: Notification) -> bool {
        if notification.channel == CHANNEL {
            return true;
        }
        for (channel, ear) in self.ears() {
            if channel == notification.channel {
                let _ = ear.send(Heard::Told(notification.payload.clone()));
            }
        }
        false
    }

    async fn look(&self, asked: &impl Query, holds_lock: bool) -> Result<(), DatabaseError> {
        // One statement sees one epoch with what belongs to it.
        let read = "SELECT epoch, \
             (SELECT coalesce(json_object_agg(name, phase)::text, '{}') FROM mcp_migrations WHERE phase IS NOT NULL), \
             (SELECT coalesce(json_object_agg(name, percent)::text, '{}') FROM mcp_flags) FROM mcp_control";
        let rows = match asked.query(read, &[]).await {
            Ok(rows) => rows,
            // Nobody has migrated yet.
            Err(error) if error.sql_state() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(row) = rows.first() else { return Ok(()) };
        self.install(row);
        let replica = &self.inner.replica;
        let color = replica.color.to_string();
        let epoch = self.inner.epoch.load(Ordering::Relaxed);
        asked
            .query(
                // What looks on a connection of the pool says nothing of the lock, which another connection may hold.
                "INSERT INTO mcp_replicas (instance, color, version, knows, epoch_seen, holds_lock) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (instance) DO UPDATE \
                 SET epoch_seen = excluded.epoch_seen, seen_at = now(), holds_lock = mcp_replicas.holds_lock OR excluded.holds_lock",
                &[
                    (&self.inner.instance, Type::TEXT),
                    (&color, Type::TEXT),
                    (&replica.version, Type::TEXT),
                    (&replica.knows, Type::TEXT_ARRAY),
                    (&epoch, Type::INT8),
                    (&holds_lock, Type::BOOL),
                ],
            )
            .await?;
        Ok(())
    }

    fn install(&self, row: &Row) {
        let phases: HashMap<String, i16> = serde_json::from_str(row.get(1)).unwrap_or_default();
        let snapshot = Snapshot {
            epoch: row.get(0),
            phases: phases.into_iter().filter_map(|(name, number)| Some((name, Phase::from_number(number)?))).collect(),
            flags: Flags::new(serde_json::from_str(row.get(2)).unwrap_or_default()),
        };
        self.inner.snapshot.send_if_modified(|current| {
            // Two looks may end in the other order than they began.
            if snapshot.epoch < current.epoch || **current == snapshot {
                return false;
            }
            for (name, phase) in &snapshot.phases {
                let before = current.phases.get(name);
                if before != Some(phase) {
                    let before = before.map_or("unknown", |phase| phase.word());
                    tracing::info!(
                        migration.name = name,
                        migration.phase = phase.word(),
                        epoch = snapshot.epoch,
                        "the migration {name} is in phase {phase}, was {before}"
                    );
                }
            }
            self.inner.epoch.store(snapshot.epoch, Ordering::Relaxed);
            *current = Arc::new(snapshot);
            true
        });
    }
}
