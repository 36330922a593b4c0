//! Conversations that stay on the build they began on.
//!
//! A tool may ask for that ([`Tool::pinned`](crate::Tool::pinned)). What must stay true: while a process of its build lives,
//! a pinned conversation is answered by that build and no other, whichever process its calls come to; when none lives, it
//! moves to the build that its next call comes to, rather than being refused.

use std::time::Duration;

use bg_runtime::{
    Database, Release,
    database::{DatabaseError, Type},
    storage::{Control, migration::Migration},
};
use tokio::time::Instant;

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
    control: Control,
    build: String,
    limits: PinLimits,
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

/// One statement, so that of two first calls at the same time one pins and the other hears where.
const PIN: &str = "INSERT INTO mcp_pins AS pin (conversation, build, boundary) VALUES ($1, $2, $3) \
     ON CONFLICT (conversation) DO UPDATE SET used_at = now(), \
         build = CASE WHEN pin.used_at > now() - make_interval(secs => $4) AND pin.began_at > now() - make_interval(secs => $5) \
             THEN pin.build ELSE excluded.build END, \
         began_at = CASE WHEN pin.used_at > now() - make_interval(secs => $4) AND pin.began_at > now() - make_interval(secs => $5) \
             THEN pin.began_at ELSE now() END, \
         boundary = coalesce(excluded.boundary, pin.boundary) \
     RETURNING build";
const FIND: &str = "UPDATE mcp_pins SET used_at = now() WHERE conversation = $1 \
     AND used_at > now() - make_interval(secs => $2) AND began_at > now() - make_interval(secs => $3) RETURNING build";
const MOVE: &str = "UPDATE mcp_pins SET build = $3, began_at = now() WHERE conversation = $1 AND build = $2";
const RELEASE: &str = "DELETE FROM mcp_pins WHERE conversation = $1 AND boundary = $2";
const REPLICAS: &str =
    "SELECT instance, address FROM mcp_drainage WHERE build = $1 AND address IS NOT NULL ORDER BY said_at DESC";
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
    pub(crate) fn new(database: Database, control: Control, release: &Release, limits: PinLimits) -> Self {
        Self { database, control, build: release.build(), limits }
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
        drop(connection);
        let mut addresses = Vec::new();
        for row in rows {
            if self.control.lives(row.get(0)).await? {
                addresses.push(row.get(1));
            }
        }
        if addresses.is_empty() {
            self.move_here(conversation, &build).await?;
            return Ok(Place::Here);
        }
        Ok(Place::There { build, addresses })
    }

    /// Pins a conversation to this build, because nobody of its own answers.
    pub(crate) async fn move_here(&self, conversation: &str, from: &str) -> Result<(), DatabaseError> {
        let parameters = [(&conversation as _, Type::TEXT), (&from as _, Type::TEXT), (&self.build as _, Type::TEXT)];
        if self.database.get().await?.execute(MOVE, &parameters).await? > 0 {
            tracing::info!(build.from = from, build.to = self.build, "a conversation moves: nobody of {from} answers");
        }
        Ok(())
    }

    /// A conversation has reached a boundary: it may move, if that was what it waited for.
    pub(crate) async fn release(&self, conversation: &str, boundary: &str) -> Result<(), DatabaseError> {
        let parameters = [(&conversation as _, Type::TEXT), (&boundary as _, Type::TEXT)];
        self.database.get().await?.execute(RELEASE, &parameters).await.map(drop)
    }

    /// Lets go of conversations whose time is over, for ever.
    pub(crate) async fn look_after(&self) {
        let mut reap = tokio::time::interval_at(Instant::now() + REAP_EVERY, REAP_EVERY);
        let [idle, most] = self.limits.to_secs();
        loop {
            reap.tick().await;
            let parameters = [(&idle as _, Type::FLOAT8), (&most as _, Type::FLOAT8)];
            let reaped = async { self.database.get().await?.execute(REAP, &parameters).await };
            if let Err(failure) = reaped.await {
                tracing::debug!(error = %failure, "conversations are let go later: {failure}");
            }
        }
    }
}
