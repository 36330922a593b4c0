//! Sessions of older clients. A session is what its `initialize` said, and nothing else: no task, no channel, no handler
//! waits for it. rmcp builds those from here when a call needs them (a stream, a tool that talks back), through the same
//! restore that will bring a session over from the other color.
//!
//! Vanilla rmcp keeps about 50 KB for each session for five minutes, which an `initialize` loop turns into gigabytes. Here
//! a session costs about 100 bytes: clients of one kind send the same parameters, so these are kept once.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rmcp::transport::streamable_http_server::session::{SessionState, SessionStore, SessionStoreError};
use uuid::Uuid;

/// How long sessions live, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// A session that was used lives this long after its last use. Clients come back after hours and rarely say goodbye.
    pub idle: Duration,
    /// A session that was opened and never used lives this long.
    pub unused: Duration,
    /// When this many are open, the unused ones go first, oldest first; then those idle the longest.
    pub most: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(24 * 3600), unused: Duration::from_secs(60), most: 100_000 }
    }
}

/// The sessions of this process.
#[derive(Debug)]
pub struct Sessions {
    limits: SessionLimits,
    born: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    sessions: HashMap<Uuid, Session>,
    parameters: HashSet<Arc<str>>,
}

#[derive(Debug)]
struct Session {
    /// The parameters of its `initialize`, as JSON.
    initialize: Arc<str>,
    /// Seconds since the process was born.
    used_at: u32,
    used: bool,
}

fn parse(id: &str) -> Option<Uuid> {
    Uuid::try_parse_ascii(id.as_bytes()).ok()
}

// === impl Sessions ===

impl Sessions {
    /// No sessions yet.
    pub fn new(limits: SessionLimits) -> Self {
        Self { limits, born: Instant::now(), open: Mutex::default() }
    }

    /// Opens a session for what `initialize` said, and gives its id: 122 random bits from a cryptographic generator.
    pub fn open(&self, initialize: &str) -> Uuid {
        let id = Uuid::new_v4();
        let mut open = self.lock();
        if open.sessions.len() >= self.limits.most {
            self.make_room(&mut open);
        }
        let initialize = match open.parameters.get(initialize) {
            Some(known) => known.clone(),
            None => {
                let new: Arc<str> = initialize.into();
                open.parameters.insert(new.clone());
                new
            }
        };
        open.sessions.insert(id, Session { initialize, used_at: self.now(), used: false });
        id
    }

    /// Whether the session is open. Asking is using.
    pub fn touch(&self, id: &str) -> bool {
        let Some(id) = parse(id) else { return false };
        let now = self.now();
        match self.lock().sessions.get_mut(&id) {
            Some(session) => {
                session.used = true;
                session.used_at = now;
                true
            }
            None => false,
        }
    }

    /// Ends a session. Whether there was one.
    pub fn close(&self, id: &str) -> bool {
        parse(id).is_some_and(|id| self.lock().sessions.remove(&id).is_some())
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Forgets those whose time is over. Called now and then.
    pub fn reap(&self) {
        let now = self.now();
        let limits = self.limits;
        let mut open = self.lock();
        open.sessions.retain(|_, session| {
            let life = if session.used { limits.idle } else { limits.unused };
            u64::from(now - session.used_at) < life.as_secs()
        });
        Self::tidy(&mut open);
    }

    /// Gives up an eighth of the room, so that a full house does not look for room at each knock.
    fn make_room(&self, open: &mut Open) {
        let mut order: Vec<(bool, u32, Uuid)> =
            open.sessions.iter().map(|(id, session)| (session.used, session.used_at, *id)).collect();
        order.sort_unstable();
        let surplus = (self.limits.most / 8).max(1);
        tracing::warn!(sessions = order.len(), "{} sessions are open, the most there may be; giving up {surplus}", order.len());
        for (_, _, id) in order.into_iter().take(surplus) {
            open.sessions.remove(&id);
        }
        Self::tidy(open);
    }

    fn tidy(open: &mut Open) {
        open.parameters.retain(|parameters| Arc::strong_count(parameters) > 1);
        if open.sessions.capacity() > 4 * open.sessions.len().max(1024) {
            open.sessions.shrink_to_fit();
        }
    }

    fn now(&self) -> u32 {
        u32::try_from(self.born.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Every change above is whole before anything in it can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// rmcp asks here when a request names a session that it has no service for.
#[async_trait::async_trait]
impl SessionStore for Sessions {
    async fn load(&self, id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        let Some(id) = parse(id) else { return Ok(None) };
        let initialize = self.lock().sessions.get(&id).map(|session| session.initialize.clone());
        initialize.map(|initialize| Ok(SessionState::new(serde_json::from_str(&initialize)?))).transpose()
    }

    async fn store(&self, _id: &str, _state: &SessionState) -> Result<(), SessionStoreError> {
        // Sessions are opened by our own `initialize`, before rmcp hears of them.
        Ok(())
    }

    async fn delete(&self, id: &str) -> Result<(), SessionStoreError> {
        self.close(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIALIZE: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}"#;

    #[tokio::test]
    async fn a_session_is_what_its_initialize_said() {
        let sessions = Sessions::new(SessionLimits::default());
        let id = sessions.open(INITIALIZE).to_string();
        assert!(sessions.touch(&id));
        assert!(!sessions.touch("nonsense"));
        let state = sessions.load(&id).await.unwrap().unwrap();
        assert_eq!(state.initialize_params.client_info.name, "test");
        sessions.delete(&id).await.unwrap();
        assert!(!sessions.touch(&id));
        assert!(sessions.load(&id).await.unwrap().is_none());
    }

    #[test]
    fn a_flood_of_initialize_takes_bounded_room_and_spares_used_sessions() {
        let sessions = Sessions::new(SessionLimits { most: 100, ..SessionLimits::default() });
        let used = sessions.open(INITIALIZE).to_string();
        assert!(sessions.touch(&used));
        for _ in 0..1000 {
            sessions.open(INITIALIZE);
        }
        assert!(sessions.count() <= 100);
        assert!(sessions.touch(&used));
        assert_eq!(sessions.lock().parameters.len(), 1);
    }

    #[test]
    fn unused_sessions_are_reaped_first() {
        let sessions = Sessions::new(SessionLimits { unused: Duration::ZERO, ..SessionLimits::default() });
        let used = sessions.open(INITIALIZE).to_string();
        assert!(sessions.touch(&used));
        sessions.open(INITIALIZE);
        sessions.reap();
        assert_eq!(sessions.count(), 1);
        assert!(sessions.close(&used));
        sessions.reap();
        assert!(sessions.lock().parameters.is_empty());
    }
}
