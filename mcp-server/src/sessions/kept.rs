//! Sessions in the database. Openings that come together are written together; uses are written now and then.
//!
//! What must stay true: what cannot be written is tried again until it can be or its time is over, and a late write never
//! brings back what was ended.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bg_runtime::{
    Database, Release,
    database::{DatabaseError, Type},
    storage::control::Heard,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use uuid::Uuid;

use super::{Ask, Asked, HURRY, Sessions};
use crate::extract::Principal;

/// The database's side of [`Sessions`].
#[derive(Debug)]
pub(crate) struct Kept {
    database: Database,
    release: Release,
    openings: mpsc::Sender<Opening>,
    /// Taken by [`keep`].
    to_open: Mutex<Option<mpsc::Receiver<Opening>>>,
    /// Sessions whose end could not be written yet.
    ends: Mutex<Vec<Uuid>>,
}

/// A session that is to be written, and who waits for it.
#[derive(Debug)]
struct Opening {
    id: Uuid,
    initialize: Arc<str>,
    principal: Principal,
    written: oneshot::Sender<()>,
}

/// A session as it was found.
pub(super) struct Loaded {
    pub(super) initialize: String,
    pub(super) principal: Principal,
    pub(super) asked: Asked,
}

/// The channel on which ended sessions are told.
pub(crate) const ENDED: &str = "mcp_sessions";

/// How long an `initialize` waits for a database that is away before its session goes out all the same.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
/// Sessions that wait for a database that is away. Those beyond it live in this process only.
const WAITING: usize = 10_000;
/// Rows of one statement.
const TOGETHER: usize = 500;
/// How often uses are written, and whether a session that is used here was ended elsewhere is looked up.
const TOUCH_EVERY: Duration = Duration::from_secs(5);
const REAP_EVERY: Duration = Duration::from_secs(30);

const OPEN: &str = "INSERT INTO mcp_sessions (session_id, principal, initialize, color, build) \
     SELECT id, principal, initialize, $4, $5 FROM unnest($1::uuid[], $2::text[], $3::text[]) AS new (id, principal, initialize) \
     ON CONFLICT DO NOTHING";
const LOAD: &str =
    "SELECT initialize, principal, log_level, subscriptions FROM mcp_sessions WHERE session_id = $1 AND ended_at IS NULL";
/// Inserts where the session itself could not be written yet, so that it is dead before it comes.
const END: &str = "WITH ended AS (INSERT INTO mcp_sessions (session_id, principal, initialize, color, build, ended_at) \
     SELECT id, '', '', $2, $3, now() FROM unnest($1::uuid[]) AS old (id) \
     ON CONFLICT (session_id) DO UPDATE SET ended_at = now() WHERE mcp_sessions.ended_at IS NULL RETURNING session_id) \
     SELECT pg_notify('mcp_sessions', session_id::text) FROM ended";
/// What one process adds must not take away what another one did, so each statement says only what is new.
const LOG_LEVEL: &str =
    "UPDATE mcp_sessions SET log_level = $2 WHERE session_id = $1 AND ended_at IS NULL RETURNING log_level, subscriptions";
const SUBSCRIBE: &str = "UPDATE mcp_sessions \
     SET subscriptions = CASE WHEN $2 = ANY(subscriptions) THEN subscriptions ELSE array_append(subscriptions, $2) END \
     WHERE session_id = $1 AND ended_at IS NULL RETURNING log_level, subscriptions";
const UNSUBSCRIBE: &str = "UPDATE mcp_sessions SET subscriptions = array_remove(subscriptions, $2) \
     WHERE session_id = $1 AND ended_at IS NULL RETURNING log_level, subscriptions";
/// A use is rounded to a minute, so that a busy session is not written every few seconds.
const TOUCH: &str = "WITH here AS (SELECT session_id FROM mcp_sessions WHERE session_id = ANY($1) AND ended_at IS NULL), \
     touched AS (UPDATE mcp_sessions s SET used_at = now() FROM here WHERE s.session_id = here.session_id \
     AND (used_at IS NULL OR used_at < now() - interval '1 minute')) \
     SELECT session_id FROM here";
/// A tombstone stays for longer than anybody's late write or old view; a broken stream can be resumed for as long, and
/// clients reconnect within seconds.
const REAP: &str = "WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('mcp_sessions reaper')) AS mine), \
     sessions AS (DELETE FROM mcp_sessions USING mine WHERE mine AND (ended_at < now() - interval '10 minutes' \
     OR used_at < now() - make_interval(secs => $1) \
     OR (used_at IS NULL AND opened_at < now() - make_interval(secs => $2)))), \
     streams AS (DELETE FROM mcp_streams USING mine WHERE mine AND began_at < now() - interval '10 minutes') \
     DELETE FROM mcp_stream_events USING mine WHERE mine AND stored_at < now() - interval '10 minutes'";

// === impl Kept ===

impl Kept {
    pub(crate) fn new(database: Database, release: Release) -> Self {
        let (openings, to_open) = mpsc::channel(WAITING);
        Self { database, release, openings, to_open: Mutex::new(Some(to_open)), ends: Mutex::default() }
    }

    /// Writes a new session, and waits for that for a moment.
    pub(super) async fn open(&self, id: Uuid, initialize: Arc<str>, principal: &Principal) {
        let (written, wait) = oneshot::channel();
        let opening = Opening { id, initialize, principal: principal.clone(), written };
        match self.openings.try_send(opening) {
            // Whether it is written by then is the writer's business.
            Ok(()) => drop(tokio::time::timeout(WRITTEN_WITHIN, wait).await),
            Err(_) => tracing::debug!("a session lives in this process only: too many wait for the database"),
        }
    }

    /// A session of this principal's. Another's is none.
    pub(super) async fn load(&self, id: Uuid, principal: &Principal) -> Result<Option<Loaded>, DatabaseError> {
        let row = self.database.get_as(principal.subject()).await?.query_opt(LOAD, &[(&id, Type::UUID)]).await?;
        Ok(row.map(|row| Loaded {
            initialize: row.get(0),
            principal: Principal::stored(row.get(1)),
            asked: Asked { log_level: row.get(2), subscriptions: row.get(3) },
        }))
    }

    /// Ends a session; now, or as soon as the database is back.
    pub(super) async fn end(&self, id: Uuid) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.write_ends().await;
    }

    /// Writes what a session asks for, and gives all that it has asked for by then, here and elsewhere.
    pub(super) async fn ask(&self, id: Uuid, principal: &Principal, ask: &Ask) -> Result<Option<Asked>, DatabaseError> {
        let (statement, value) = match ask {
            Ask::LogLevel(level) => (LOG_LEVEL, level.as_deref()),
            Ask::Subscribe(address) => (SUBSCRIBE, Some(address.as_str())),
            Ask::Unsubscribe(address) => (UNSUBSCRIBE, Some(address.as_str())),
        };
        let connection = self.database.get_as(principal.subject()).await?;
        let row = connection.query_opt(statement, &[(&id, Type::UUID), (&value, Type::TEXT)]).await?;
        Ok(row.map(|row| Asked { log_level: row.get(0), subscriptions: row.get(1) }))
    }

    async fn write_ends(&self) {
        let ends = std::mem::take(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner));
        if ends.is_empty() {
            return;
        }
        if let Err(failure) = self.end_now(&ends).await {
            tracing::warn!(error = %failure, "the end of {} sessions is written later: {failure}", ends.len());
            self.ends.lock().unwrap_or_else(PoisonError::into_inner).extend(ends);
        }
    }

    async fn end_now(&self, ids: &[Uuid]) -> Result<(), DatabaseError> {
        let (color, build) = (self.release.color.to_string(), self.release.build());
        let parameters = [(&ids as _, Type::UUID_ARRAY), (&color as _, Type::TEXT), (&build as _, Type::TEXT)];
        self.database.get().await?.query(END, &parameters).await.map(drop)
    }

    async fn open_now(&self, batch: &[Opening]) -> Result<(), DatabaseError> {
        let ids: Vec<Uuid> = batch.iter().map(|opening| opening.id).collect();
        let principals: Vec<&str> = batch.iter().map(|opening| opening.principal.to_stored()).collect();
        let initialize: Vec<&str> = batch.iter().map(|opening| &*opening.initialize).collect();
        let (color, build) = (self.release.color.to_string(), self.release.build());
        let parameters = [
            (&ids as _, Type::UUID_ARRAY),
            (&principals as _, Type::TEXT_ARRAY),
            (&initialize as _, Type::TEXT_ARRAY),
            (&color as _, Type::TEXT),
            (&build as _, Type::TEXT),
        ];
        self.database.get().await?.execute(OPEN, &parameters).await.map(drop)
    }

    /// Removes what nobody comes back for. One process at a time does, whichever tries first.
    async fn reap(&self, sessions: &Sessions) -> Result<(), DatabaseError> {
        let (idle, unused) = (sessions.limits.idle.as_secs_f64(), sessions.limits.unused.as_secs_f64());
        self.database.get().await?.execute(REAP, &[(&idle, Type::FLOAT8), (&unused, Type::FLOAT8)]).await.map(drop)
    }
}

// === impl Sessions ===

impl Sessions {
    /// Forgets those whose time is over, and keeps memory and database together, until it is dropped.
    pub(crate) async fn keep(&self, mut told: Option<mpsc::UnboundedReceiver<Heard>>) {
        let Some(kept) = &self.kept else {
            loop {
                tokio::time::sleep(REAP_EVERY).await;
                self.reap();
            }
        };
        let hear = async {
            while let Some(told) = &mut told {
                match told.recv().await {
                    Some(Heard::Told(id)) => drop(super::parse(&id).map(|id| self.forget(id))),
                    Some(Heard::Missed) => self.look_again(),
                    None => return,
                }
            }
        };
        tokio::join!(self.write_openings(kept), hear, self.write_uses(kept));
    }

    /// Writes openings for ever: those that came while one batch was written are the next.
    async fn write_openings(&self, kept: &Kept) {
        let to_open = kept.to_open.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut to_open) = to_open else { return };
        let mut batch = Vec::new();
        while to_open.recv_many(&mut batch, TOGETHER).await > 0 {
            // No row can be at fault, so whatever fails is tried again: a database that takes no writes is one that failed
            // over a moment ago.
            while let Err(failure) = kept.open_now(&batch).await {
                tracing::warn!(error = %failure, "{} sessions are written later: {failure}", batch.len());
                tokio::time::sleep(HURRY).await;
            }
            let mut open = self.lock();
            let super::Open { sessions, touched, .. } = &mut *open;
            for opening in batch.drain(..) {
                if let Some(session) = sessions.get_mut(&opening.id) {
                    session.is_kept = true;
                    // A use that came before the row found nothing to write.
                    if session.used && !std::mem::replace(&mut session.touched, true) {
                        touched.push(opening.id);
                        self.hurry.notify_one();
                    }
                }
                // Whoever waited may have gone out without it.
                let _ = opening.written.send(());
            }
        }
    }

    async fn write_uses(&self, kept: &Kept) {
        let mut touch = tokio::time::interval_at(Instant::now() + TOUCH_EVERY, TOUCH_EVERY);
        // A test may grant unused sessions less than a real deployment does.
        let reap_every = self.limits.unused.clamp(HURRY, REAP_EVERY);
        let mut reap = tokio::time::interval_at(Instant::now() + reap_every, reap_every);
        loop {
            tokio::select! {
                _ = touch.tick() => kept.write_ends().await,
                () = self.hurry.notified() => tokio::time::sleep(HURRY).await,
                _ = reap.tick() => {
                    self.reap();
                    // What is used must be written before what is not is removed.
                    if self.write_touched(kept).await && let Err(failure) = kept.reap(self).await {
                        tracing::debug!(error = %failure, "sessions are reaped later: {failure}");
                    }
                }
            }
            self.write_touched(kept).await;
        }
    }

    /// Writes who was used until now, and hears who of them is no more. Whether it is done.
    async fn write_touched(&self, kept: &Kept) -> bool {
        // Those that are used meanwhile are written the next time: a busy house would never be done.
        let touched: Vec<Uuid> = {
            let mut open = self.lock();
            let touched = std::mem::take(&mut open.touched);
            for id in &touched {
                if let Some(session) = open.sessions.get_mut(id) {
                    session.touched = false;
                }
            }
            touched
        };
        for (at, batch) in touched.chunks(TOGETHER).enumerate() {
            let written = async { kept.database.get().await?.query(TOUCH, &[(&batch, Type::UUID_ARRAY)]).await };
            match written.await {
                Ok(rows) => {
                    let here: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
                    // One that was never written is not missed.
                    let is_gone =
                        |id: &&Uuid| !here.contains(id) && self.lock().sessions.get(id).is_some_and(|session| session.is_kept);
                    for id in batch.iter().filter(is_gone).copied().collect::<Vec<_>>() {
                        self.forget(id);
                    }
                }
                Err(failure) => {
                    tracing::debug!(error = %failure, "uses of sessions are written later: {failure}");
                    let mut open = self.lock();
                    let super::Open { sessions, touched: later, .. } = &mut *open;
                    for id in &touched[at * TOGETHER..] {
                        if let Some(session) = sessions.get_mut(id)
                            && !std::mem::replace(&mut session.touched, true)
                        {
                            later.push(*id);
                        }
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Looks all sessions up again: an end may have been missed.
    fn look_again(&self) {
        let mut open = self.lock();
        let super::Open { sessions, touched, .. } = &mut *open;
        for (id, session) in sessions.iter_mut().filter(|(_, session)| session.used && !session.touched) {
            session.touched = true;
            touched.push(*id);
        }
        self.hurry.notify_one();
    }
}
