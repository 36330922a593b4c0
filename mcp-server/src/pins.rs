//! Conversations that stay on the build they began on.
//!
//! A tool may ask for that ([`Tool::pinned`](crate::Tool::pinned)). What must stay true: while a process of its build lives,
//! a pinned conversation is answered by that build and no other, whichever process its calls come to; when none lives, it
//! moves to the build that its next call comes to, rather than being refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bg_runtime::{
    Database, Release,
    database::{DatabaseError, Type},
    storage::{control::Heard, migration::Migration},
};
use tokio::{sync::mpsc, time::Instant};

use crate::tool::Pinning;

/// The tables of pins, of what is in flight, and of the keys of request states.
pub const MIGRATION: Migration = Migration::new("0006_pins", include_str!("../migrations/0006_pins/expand.sql"));

/// How long a conversation stays pinned.
#[derive(Clone, Copy, Debug)]
pub struct PinLimits {
    /// After its last call.
    pub idle: Duration,
    /// After it was pinned. A rollout cannot wait for ever.
    pub most: Duration,
}

/// The pins of all processes on one database.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    database: Database,
    build: String,
    limits: PinLimits,
    /// Whether a tool of this build pins.
    pins: bool,
    /// Whether conversations may be pinned to other builds. While none is, no call is looked up for it.
    others: Arc<AtomicBool>,
}

/// Where a call is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this process.
    Here,
    /// In one of these, which are of the build that the conversation is pinned to.
    There { build: String, addresses: Vec<String> },
}

const REAP_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether other builds hold conversations. That they begin to is heard at once.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The channel on which a new pin is told.
pub(crate) const PINNED: &str = "mcp_pins";

/// One statement, so that of two first calls at the same time one pins and the other hears where.
const PIN: &str = "WITH pinned AS (INSERT INTO mcp_pins AS pin (conversation, build, boundary) VALUES ($1, $2, $3) \
     ON CONFLICT (conversation) DO UPDATE SET used_at = now(), \
         build = CASE WHEN pin.used_at > now() - make_interval(secs => $4) AND pin.began_at > now() - make_interval(secs => $5) \
             THEN pin.build ELSE excluded.build END, \
         began_at = CASE WHEN pin.used_at > now() - make_interval(secs => $4) AND pin.began_at > now() - make_interval(secs => $5) \
             THEN pin.began_at ELSE now() END, \
         boundary = coalesce(excluded.boundary, pin.boundary) \
     RETURNING build, xmax = 0 AS is_new) \
     SELECT build, CASE WHEN is_new THEN pg_notify('mcp_pins', build) END FROM pinned";
const FIND: &str = "UPDATE mcp_pins SET used_at = now() WHERE conversation = $1 \
     AND used_at > now() - make_interval(secs => $2) AND began_at > now() - make_interval(secs => $3) RETURNING build";
const MOVE: &str = "UPDATE mcp_pins SET build = $3, began_at = now() WHERE conversation = $1 AND build = $2";
const WHERE: &str = "SELECT build FROM mcp_pins WHERE conversation = $1";
const OTHERS: &str = "SELECT EXISTS (SELECT 1 FROM mcp_pins WHERE build <> $1 \
     AND used_at > now() - make_interval(secs => $2) AND began_at > now() - make_interval(secs => $3))";
const RELEASE: &str = "DELETE FROM mcp_pins WHERE conversation = $1 AND boundary = $2";
/// Who spoke lately, dead or not: a database that failed over knows of nobody's life for a moment, and whether somebody is
/// there is seen by asking.
const REPLICAS: &str = "SELECT address FROM mcp_drainage WHERE build = $1 AND address IS NOT NULL \
     AND said_at > now() - interval '60 seconds' ORDER BY said_at DESC LIMIT 4";
const REAP: &str = "DELETE FROM mcp_pins WHERE used_at < now() - make_interval(secs => $1) \
     OR began_at < now() - make_interval(secs => $2)";

// === impl PinLimits ===

impl PinLimits {
    pub(crate) fn to_secs(self) -> [f64; 2] {
        [self.idle.as_secs_f64(), self.most.as_secs_f64()]
    }
}

impl Default for PinLimits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(1800), most: Duration::from_secs(24 * 3600) }
    }
}

// === impl Pins ===

impl Pins {
    /// `pins` is whether a tool of this build pins.
    pub(crate) fn new(database: Database, release: &Release, limits: PinLimits, pins: bool) -> Self {
        Self { database, build: release.build(), limits, pins, others: Arc::new(AtomicBool::new(true)) }
    }

    /// Whether a call may belong to another build, so that it is worth a look.
    pub(crate) fn may_be_elsewhere(&self) -> bool {
        self.pins || self.others.load(Ordering::Relaxed)
    }

    /// Where a call of a conversation is to be answered. A call of a pinned tool pins the conversation.
    pub(crate) async fn place(&self, conversation: &str, pinning: Pinning) -> Result<Place, DatabaseError> {
        let connection = self.database.get().await?;
        let [idle, most] = self.limits.to_secs();
        let (idle, most) = ((&idle as _, Type::FLOAT8), (&most as _, Type::FLOAT8));
        let named = (&conversation as _, Type::TEXT);
        let row = match pinning {
            Pinning::Auto => connection.query_opt(FIND, &[named, idle, most]).await?,
            Pinning::Pinned(boundary) => {
                let parameters = [named, (&self.build as _, Type::TEXT), (&boundary as _, Type::TEXT), idle, most];
                connection.query_opt(PIN, &parameters).await?
            }
        };
        let Some(build) = row.map(|row| row.get::<_, String>(0)).filter(|build| *build != self.build) else {
            return Ok(Place::Here);
        };
        let rows = connection.query(REPLICAS, &[(&build, Type::TEXT)]).await?;
        Ok(Place::There { build, addresses: rows.iter().map(|row| row.get(0)).collect() })
    }

    /// Pins a conversation to this build, because nobody of its own answers. Whether it is here then: it may have moved to a
    /// third one meanwhile.
    pub(crate) async fn move_here(&self, conversation: &str, from: &str) -> Result<bool, DatabaseError> {
        let connection = self.database.get().await?;
        let parameters = [(&conversation as _, Type::TEXT), (&from as _, Type::TEXT), (&self.build as _, Type::TEXT)];
        if connection.execute(MOVE, &parameters).await? > 0 {
            tracing::info!(build.from = from, build.to = self.build, "a conversation moves: nobody of {from} answers");
            return Ok(true);
        }
        let row = connection.query_opt(WHERE, &[(&conversation, Type::TEXT)]).await?;
        Ok(row.is_none_or(|row| row.get::<_, String>(0) == self.build))
    }

    /// A conversation has reached a boundary: it may move, if that was what it waited for.
    pub(crate) async fn release(&self, conversation: &str, boundary: &str) -> Result<(), DatabaseError> {
        let parameters = [(&conversation as _, Type::TEXT), (&boundary as _, Type::TEXT)];
        self.database.get().await?.execute(RELEASE, &parameters).await.map(drop)
    }

    /// Looks whether other builds hold conversations.
    pub(crate) async fn look(&self) -> Result<(), DatabaseError> {
        let [idle, most] = self.limits.to_secs();
        let parameters = [(&self.build as _, Type::TEXT), (&idle as _, Type::FLOAT8), (&most as _, Type::FLOAT8)];
        let row = self.database.get().await?.query_opt(OTHERS, &parameters).await?;
        self.others.store(row.is_none_or(|row| row.get(0)), Ordering::Relaxed);
        Ok(())
    }

    /// Lets go of conversations whose time is over, and knows whether other builds hold some, for ever.
    pub(crate) async fn look_after(&self, mut told: mpsc::UnboundedReceiver<Heard>) {
        let mut reap = tokio::time::interval_at(Instant::now() + REAP_EVERY, REAP_EVERY);
        let mut look = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        let [idle, most] = self.limits.to_secs();
        loop {
            tokio::select! {
                _ = reap.tick() => {
                    let parameters = [(&idle as _, Type::FLOAT8), (&most as _, Type::FLOAT8)];
                    let reaped = async { self.database.get().await?.execute(REAP, &parameters).await };
                    if let Err(failure) = reaped.await {
                        tracing::debug!(error = %failure, "conversations are let go later: {failure}");
                    }
                }
                Some(heard) = told.recv() => if !matches!(heard, Heard::Told(build) if build == self.build) {
                    self.others.store(true, Ordering::Relaxed);
                },
                _ = look.tick() => if self.look().await.is_err() {
                    // Who does not know looks at each call.
                    self.others.store(true, Ordering::Relaxed);
                },
            }
        }
    }
}
