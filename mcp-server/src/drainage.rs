//! What still holds on to each build: calls, streams, and conversations that are pinned to it. An operator, or a rollout,
//! retires a color when nothing does.
//!
//! Every replica says what it has in flight, here and in `mcp_drainage`, so that any of them can tell of all.

use std::time::Duration;

use bg_runtime::{
    Database, Lifecycle, Release,
    database::{DatabaseError, Type},
    lifecycle::Status,
    storage::Control,
};
use serde::Serialize;
use tokio::time::Instant;

use crate::pins::PinLimits;

/// This replica's report, and everybody's.
#[derive(Clone, Debug)]
pub(crate) struct Drainage {
    database: Database,
    control: Control,
    release: Release,
    limits: PinLimits,
    /// Where other replicas reach this one.
    address: Option<String>,
}

/// What holds on to one build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDrainage {
    /// Version and commit.
    pub build: String,
    /// The colors that its replicas live in; none when nobody lives.
    pub colors: Vec<String>,
    /// How many of its replicas live.
    pub replicas: i64,
    /// How many have said nothing for 15 seconds, and did in the last minute: dead, or cut off with calls in flight.
    pub silent: i64,
    /// Calls in flight.
    pub calls: i64,
    /// Streams that are open.
    pub streams: i64,
    /// Conversations that are pinned to it.
    pub conversations: i64,
    /// When the oldest of them was pinned: RFC 3339, in UTC.
    pub oldest: Option<String>,
    /// Whether nothing holds on to it.
    pub drained: bool,
}

/// A change is told this soon, and that nothing changed this often: the others take a silent replica for dead after 15 s.
const SAY_WITHIN: Duration = Duration::from_millis(500);
const SAY_EVERY: Duration = Duration::from_secs(5);

const SAY: &str = "INSERT INTO mcp_drainage (instance, build, color, address, stage, role, calls, streams) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (instance) DO UPDATE SET address = excluded.address, \
     stage = excluded.stage, role = excluded.role, calls = excluded.calls, streams = excluded.streams, said_at = now()";
/// Also takes away who left no word when it died.
const LEAVE: &str = "DELETE FROM mcp_drainage WHERE instance = $1 OR said_at < now() - interval '1 hour'";
const READ: &str = "WITH living AS ( \
         SELECT build, array_agg(DISTINCT color ORDER BY color) AS colors, \
             count(*) FILTER (WHERE said_at > now() - interval '15 seconds') AS replicas, \
             count(*) FILTER (WHERE said_at <= now() - interval '15 seconds') AS silent, \
             sum(calls)::bigint AS calls, sum(streams)::bigint AS streams \
         FROM mcp_drainage WHERE said_at > now() - interval '60 seconds' GROUP BY build), \
     pinned AS ( \
         SELECT build, count(*) AS conversations, min(began_at) AS oldest FROM mcp_pins \
         WHERE used_at > now() - make_interval(secs => $1) AND began_at > now() - make_interval(secs => $2) GROUP BY build) \
     SELECT build, coalesce(colors, '{}'), coalesce(replicas, 0), coalesce(calls, 0), coalesce(streams, 0), \
         coalesce(conversations, 0), to_char(oldest AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
         coalesce(silent, 0) \
     FROM living FULL JOIN pinned USING (build) ORDER BY build";

// === impl Drainage ===

impl Drainage {
    pub(crate) fn new(
        database: Database,
        control: Control,
        release: Release,
        limits: PinLimits,
        address: Option<String>,
    ) -> Self {
        Self { database, control, release, limits, address }
    }

    /// What holds on to each build that lives or is held on to.
    pub(crate) async fn of_builds(&self) -> Result<Vec<BuildDrainage>, DatabaseError> {
        let [idle, most] = self.limits.to_secs();
        let rows = self.database.get().await?.query(READ, &[(&idle, Type::FLOAT8), (&most, Type::FLOAT8)]).await?;
        let of_build = |row: &bg_runtime::database::Row| {
            let (calls, streams, conversations, silent): (i64, i64, i64, i64) = (row.get(3), row.get(4), row.get(5), row.get(7));
            BuildDrainage {
                build: row.get(0),
                colors: row.get(1),
                replicas: row.get(2),
                calls,
                streams,
                conversations,
                oldest: row.get(6),
                silent,
                drained: calls + streams + conversations + silent == 0,
            }
        };
        Ok(rows.iter().map(of_build).collect())
    }

    /// Says what is in flight here, for ever.
    pub(crate) async fn report(&self, lifecycle: Lifecycle) {
        let mut status = lifecycle.subscribe();
        loop {
            let now = *status.borrow_and_update();
            let said = self.say(now).await;
            if let Err(failure) = &said {
                tracing::debug!(error = %failure, "what is in flight here is told later: {failure}");
            }
            let again = Instant::now() + if said.is_ok() { SAY_EVERY } else { SAY_WITHIN };
            tokio::time::sleep(SAY_WITHIN).await;
            // It changes at every call, and a rollout looks now and then.
            let _ = tokio::time::timeout_at(again, status.wait_for(|later| *later != now)).await;
        }
    }

    /// The last word: nothing is in flight here any more.
    pub(crate) async fn leave(&self) -> Result<(), DatabaseError> {
        let instance = self.control.instance();
        self.database.get().await?.execute(LEAVE, &[(&instance, Type::TEXT)]).await.map(drop)
    }

    /// Says it once.
    pub(crate) async fn say(&self, status: Status) -> Result<(), DatabaseError> {
        let (instance, build, color) = (self.control.instance(), self.release.build(), self.release.color.to_string());
        let (stage, role) = (status.stage.to_string(), status.role.to_string());
        let [calls, streams] = [status.calls, status.streams].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        let parameters = [
            (&instance as _, Type::TEXT),
            (&build as _, Type::TEXT),
            (&color as _, Type::TEXT),
            (&self.address as _, Type::TEXT),
            (&stage as _, Type::TEXT),
            (&role as _, Type::TEXT),
            (&calls as _, Type::INT8),
            (&streams as _, Type::INT8),
        ];
        self.database.get().await?.execute(SAY, &parameters).await.map(drop)
    }
}
