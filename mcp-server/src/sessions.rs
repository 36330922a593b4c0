//! Sessions of older clients. A session is what its `initialize` said and what it asked for since, and nothing else: no task,
//! no channel, no handler waits for it. rmcp builds those from here when a call needs them (a stream, a tool that talks
//! back), whichever process the session began in.
//!
//! Every session is in memory where it was last used, which is what an ordinary call looks at, and in the database
//! (`kept.rs`), where another process finds it. What must stay true: a session that a client was told of outlives the
//! process, it is its principal's alone, and one that was ended anywhere is ended everywhere.
//!
//! Vanilla rmcp keeps about 50 KB for each session for five minutes, which an `initialize` loop turns into gigabytes. Here
//! a session costs about 100 bytes: clients of one kind send the same parameters, so these are kept once, and clients that
//! send others each time meet a limit in bytes.

mod kept;
pub(crate) mod streams;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bg_runtime::storage::migration::Migration;
use rmcp::transport::streamable_http_server::session::{SessionState, SessionStore, SessionStoreError};
use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

pub(crate) use self::kept::{ENDED, Kept};
use crate::{extract::Principal, limits::tally::Tally};

/// The tables of sessions and their streams.
pub const MIGRATION: Migration = Migration::new("0004_sessions", include_str!("../migrations/0004_sessions/expand.sql"));

/// How long sessions live, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// A session that was used lives this long after its last use. Clients come back after hours and rarely say goodbye.
    pub idle: Duration,
    /// A session that was opened and never used lives this long.
    pub unused: Duration,
    /// When this many are in memory, the unused ones go first, oldest first; then those idle the longest. In the database
    /// they stay.
    pub most: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(24 * 3600), unused: Duration::from_secs(60), most: 100_000 }
    }
}

/// The sessions that this process knows.
#[derive(Debug)]
pub struct Sessions {
    limits: SessionLimits,
    born: Instant,
    open: Mutex<Open>,
    kept: Option<Kept>,
    /// Sessions that ended, for whoever serves them.
    ended: broadcast::Sender<Uuid>,
    /// There is something that should be written soon.
    hurry: Notify,
    /// What sessions ask for is written one after the other, so that memory ends as the database does.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Open {
    sessions: HashMap<Uuid, Session>,
    /// How many each principal has, where they prove to be one.
    of: Tally<Arc<str>>,
    parameters: HashSet<Arc<str>>,
    /// How many bytes the parameters have together.
    bytes: usize,
    /// Used since it was last written.
    touched: Vec<Uuid>,
}

#[derive(Debug)]
struct Session {
    /// The parameters of its `initialize`, as JSON, with the revision that was agreed on.
    initialize: Arc<str>,
    principal: Principal,
    asked: Option<Box<Asked>>,
    /// Seconds since the process was born.
    used_at: u32,
    used: bool,
    touched: bool,
    /// Whether it is in the database.
    is_kept: bool,
}

/// What a session asked for after its `initialize`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// From which level on it wants log lines, as the protocol spells it.
    pub(crate) log_level: Option<String>,
    /// The resources whose changes it wants to hear of.
    pub(crate) subscriptions: Vec<String>,
}

/// One thing that a session asks for.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Log lines from this level on.
    LogLevel(Option<String>),
    /// To hear of changes to this resource.
    Subscribe(String),
    /// Not to hear of them any more.
    Unsubscribe(String),
}

/// What a request that names a session finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is open, and the caller's.
    Open,
    /// It never was, has ended, or is somebody else's; which of these is nobody's business.
    No,
    /// The database is away, so nobody knows. The client must not give the session up for that.
    Unknown,
}

/// Only sessions whose first use was not written yet are in a hurry: the reaper takes those that were never used.
const HURRY: Duration = Duration::from_millis(200);

/// How many ended sessions may wait for whoever ends their services.
const ENDED_WAITING: usize = 1024;

/// The longest parameters of an `initialize`, in bytes. Real ones have a few hundred.
pub(crate) const LONGEST_INITIALIZE: usize = 16 * 1024;
/// The longest address of a resource that a session subscribes to, in bytes.
pub(crate) const LONGEST_ADDRESS: usize = 2048;
/// Parameters of all sessions in memory, each counted once. Beyond it sessions are given up as when there are too many.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// As it was given out and no other way: rmcp takes another spelling for another session.
fn parse(id: &str) -> Option<Uuid> {
    let is_ours = id.len() == 36 && !id.bytes().any(|byte| byte.is_ascii_uppercase());
    is_ours.then(|| Uuid::try_parse_ascii(id.as_bytes()).ok())?
}

// === impl Sessions ===

impl Sessions {
    /// No sessions yet, and none that outlive this process.
    pub fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            born: Instant::now(),
            open: Mutex::default(),
            kept: None,
            ended: broadcast::Sender::new(ENDED_WAITING),
            hurry: Notify::new(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// The sessions of all processes on one database.
    pub(crate) fn kept(limits: SessionLimits, kept: Kept) -> Self {
        Self { kept: Some(kept), ..Self::new(limits) }
    }

    /// Opens a session for what `initialize` said, and gives its id: 122 random bits from a cryptographic generator.
    ///
    /// When it returns the session is in the database, so that the next request may go to another process. A database that
    /// is away is waited for only a moment: the session then works here, and is written as soon as possible.
    pub async fn open(&self, initialize: &str, principal: &Principal) -> Uuid {
        let id = Uuid::new_v4();
        let initialize = {
            let mut open = self.lock();
            let initialize = open.shared(initialize);
            let session = Session { principal: principal.clone(), ..self.session(initialize.clone()) };
            self.insert(&mut open, id, session);
            initialize
        };
        if let Some(kept) = &self.kept {
            kept.open(id, initialize, principal).await;
        }
        id
    }

    /// Whether the session is open and this principal's. Asking is using.
    pub async fn touch(&self, id: &str, principal: &Principal) -> Found {
        let Some(id) = parse(id) else { return Found::No };
        if let Some(found) = self.touch_here(id, principal) {
            return found;
        }
        let Some(kept) = &self.kept else { return Found::No };
        match kept.load(id, principal).await {
            Ok(Some(loaded)) => {
                {
                    let mut open = self.lock();
                    // Another request may have found it first, and the session asked for something since.
                    if !open.sessions.contains_key(&id) {
                        let initialize = open.shared(&loaded.initialize);
                        let session = Session {
                            principal: loaded.principal,
                            asked: (loaded.asked != Asked::default()).then(|| Box::new(loaded.asked)),
                            is_kept: true,
                            ..self.session(initialize)
                        };
                        self.insert(&mut open, id, session);
                    }
                }
                self.touch_here(id, principal).unwrap_or(Found::No)
            }
            Ok(None) => Found::No,
            Err(failure) => {
                tracing::warn!(error = %failure, "a session could not be looked up: {failure}");
                Found::Unknown
            }
        }
    }

    fn touch_here(&self, id: Uuid, principal: &Principal) -> Option<Found> {
        let now = self.now();
        let mut open = self.lock();
        let Open { sessions, touched, .. } = &mut *open;
        let session = sessions.get_mut(&id)?;
        if session.principal != *principal {
            return Some(Found::No);
        }
        if !std::mem::replace(&mut session.used, true) && self.kept.is_some() {
            self.hurry.notify_one();
        }
        session.used_at = now;
        if !std::mem::replace(&mut session.touched, true) && self.kept.is_some() {
            touched.push(id);
        }
        Some(Found::Open)
    }

    /// Ends a session, here and everywhere. Whether it was here.
    pub async fn close(&self, id: &str) -> bool {
        let Some(id) = parse(id) else { return false };
        let was_here = self.forget(id);
        if let Some(kept) = &self.kept {
            kept.end(id).await;
        }
        was_here
    }

    /// What the session asked for since it began.
    pub(crate) fn asked(&self, id: &str) -> Asked {
        let Some(id) = parse(id) else { return Asked::default() };
        self.lock().sessions.get(&id).and_then(|session| session.asked.as_deref().cloned()).unwrap_or_default()
    }

    /// The session asks for something. It is written before this returns, unless the database is away: then it holds here.
    pub(crate) async fn ask(&self, id: &str, ask: Ask) {
        let Some(id) = parse(id) else { return };
        let _one_at_a_time = self.asking.lock().await;
        let principal = self.lock().sessions.get_mut(&id).map(|session| {
            session.asked.get_or_insert_default().take(&ask);
            session.principal.clone()
        });
        let Some(kept) = &self.kept else { return };
        match kept.ask(id, &principal.unwrap_or_default(), &ask).await {
            // Another process may know of more.
            Ok(Some(asked)) => {
                if let Some(session) = self.lock().sessions.get_mut(&id) {
                    session.asked = Some(Box::new(asked));
                }
            }
            Ok(None) => {}
            Err(failure) => tracing::warn!(error = %failure, "what a session asked for could not be written: {failure}"),
        }
    }

    /// The revision that was agreed on with the client of this session.
    pub(crate) fn revision(&self, id: &str) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Initialize {
            #[serde(rename = "protocolVersion")]
            revision: String,
        }
        let initialize = self.lock().sessions.get(&parse(id)?)?.initialize.clone();
        serde_json::from_str::<Initialize>(&initialize).ok().map(|initialize| initialize.revision)
    }

    /// How many are in memory.
    pub fn count(&self) -> usize {
        self.lock().sessions.len()
    }

    /// How many of them are this principal's.
    pub(crate) fn count_of(&self, principal: &Principal) -> usize {
        let Some(who) = principal.proved() else { return 0 };
        self.lock().of.of(who)
    }

    /// Whether a session that is open here, and the principal's, agreed on a revision after this one.
    pub(crate) fn is_after(&self, id: &str, principal: &Principal, revision: &str) -> bool {
        #[derive(serde::Deserialize)]
        struct Agreed<'a> {
            #[serde(borrow, rename = "protocolVersion")]
            version: std::borrow::Cow<'a, str>,
        }
        let Some(id) = parse(id) else { return false };
        let open = self.lock();
        let session = open.sessions.get(&id).filter(|session| session.principal == *principal);
        let agreed = session.and_then(|session| serde_json::from_str::<Agreed<'_>>(&session.initialize).ok());
        agreed.is_some_and(|agreed| *agreed.version > *revision)
    }

    /// How long a session lives that nobody uses.
    pub(crate) fn unused(&self) -> Duration {
        self.limits.unused
    }

    /// Hears of sessions that ended, wherever that was.
    pub(crate) fn endings(&self) -> broadcast::Receiver<Uuid> {
        self.ended.subscribe()
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
        open.tidy();
    }

    fn session(&self, initialize: Arc<str>) -> Session {
        Session {
            initialize,
            principal: Principal::anonymous(),
            asked: None,
            used_at: self.now(),
            used: false,
            touched: false,
            is_kept: false,
        }
    }

    fn insert(&self, open: &mut Open, id: Uuid, session: Session) {
        let is_full = open.sessions.len() >= self.limits.most;
        if is_full || (open.bytes > MOST_BYTES && !open.sessions.is_empty()) {
            open.make_room((open.sessions.len() / 8).max(1));
        }
        if let Some(who) = session.principal.proved() {
            open.of.add(who.clone());
        }
        open.sessions.insert(id, session);
    }

    /// Forgets a session here.
    fn forget(&self, id: Uuid) -> bool {
        let was_here = {
            let mut open = self.lock();
            let forgotten = open.sessions.remove(&id);
            if let Some(who) = forgotten.as_ref().and_then(|session| session.principal.proved()) {
                open.of.remove(who);
            }
            forgotten.is_some()
        };
        // Refused when nobody serves sessions.
        let _ = self.ended.send(id);
        was_here
    }

    fn now(&self) -> u32 {
        u32::try_from(self.born.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Every change above is whole before anything in it can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Asked ===

impl Asked {
    fn take(&mut self, ask: &Ask) {
        match ask {
            Ask::LogLevel(level) => self.log_level.clone_from(level),
            Ask::Subscribe(address) if self.subscriptions.contains(address) => {}
            Ask::Subscribe(address) => self.subscriptions.push(address.clone()),
            Ask::Unsubscribe(address) => self.subscriptions.retain(|other| other != address),
        }
    }
}

// === impl Open ===

impl Open {
    /// The one copy of these parameters.
    fn shared(&mut self, initialize: &str) -> Arc<str> {
        match self.parameters.get(initialize) {
            Some(known) => known.clone(),
            None => {
                let new: Arc<str> = initialize.into();
                self.parameters.insert(new.clone());
                self.bytes += new.len();
                new
            }
        }
    }

    /// Gives up some of the room, so that a full house does not look for room at each knock.
    fn make_room(&mut self, surplus: usize) {
        let mut order: Vec<(bool, u32, Uuid)> =
            self.sessions.iter().map(|(id, session)| (session.used, session.used_at, *id)).collect();
        order.sort_unstable();
        tracing::warn!(
            sessions = order.len(),
            "{} sessions with {} bytes of parameters are in memory, the most there may be; giving up {surplus}",
            order.len(),
            self.bytes
        );
        for (_, _, id) in order.into_iter().take(surplus) {
            self.sessions.remove(&id);
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        self.of = self.sessions.values().filter_map(|session| session.principal.proved().cloned()).collect();
        self.parameters.retain(|parameters| Arc::strong_count(parameters) > 1);
        self.bytes = self.parameters.iter().map(|parameters| parameters.len()).sum();
        if self.sessions.capacity() > 4 * self.sessions.len().max(1024) {
            self.sessions.shrink_to_fit();
        }
    }
}

/// rmcp asks here when a request names a session that it has no service for. Whose the session is has been checked by then.
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
        self.close(id).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIALIZE: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}"#;
    const NOBODY: Principal = Principal::anonymous();

    #[tokio::test]
    async fn a_session_is_what_its_initialize_said() {
        let sessions = Sessions::new(SessionLimits::default());
        let id = sessions.open(INITIALIZE, &NOBODY).await.to_string();
        assert_eq!(sessions.touch(&id, &NOBODY).await, Found::Open);
        assert_eq!(sessions.touch("nonsense", &NOBODY).await, Found::No);
        let state = sessions.load(&id).await.unwrap().unwrap();
        assert_eq!(state.initialize_params.client_info.name, "test");
        sessions.delete(&id).await.unwrap();
        assert_eq!(sessions.touch(&id, &NOBODY).await, Found::No);
        assert!(sessions.load(&id).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_session_is_its_principals_alone() {
        let sessions = Sessions::new(SessionLimits::default());
        let (ada, eve) = (Principal::named("ada"), Principal::named("eve"));
        let id = sessions.open(INITIALIZE, &ada).await.to_string();
        assert_eq!(sessions.touch(&id, &eve).await, Found::No);
        assert_eq!(sessions.touch(&id, &NOBODY).await, Found::No);
        assert_eq!(sessions.touch(&id, &ada).await, Found::Open);
    }

    #[tokio::test]
    async fn what_a_principal_has_is_counted_however_it_ends() {
        let sessions = Sessions::new(SessionLimits { most: 16, unused: Duration::ZERO, ..SessionLimits::default() });
        let (ada, eve) = (Principal::named("ada"), Principal::named("eve"));
        let first = sessions.open(INITIALIZE, &ada).await.to_string();
        let second = sessions.open(INITIALIZE, &ada).await.to_string();
        let nobodys = sessions.open(INITIALIZE, &NOBODY).await.to_string();
        assert_eq!((sessions.count_of(&ada), sessions.count_of(&eve), sessions.count_of(&NOBODY)), (2, 0, 0));
        sessions.close(&first).await;
        sessions.close(&first).await;
        assert_eq!(sessions.count_of(&ada), 1);
        // Of sessions of one second that nobody uses any may go first, and this one is in no count.
        sessions.close(&nobodys).await;
        sessions.touch(&second, &ada).await;
        for _ in 0..32 {
            sessions.open(INITIALIZE, &eve).await;
        }
        assert_eq!(sessions.count_of(&ada), 1, "what is used makes no room");
        assert_eq!(sessions.count_of(&eve), sessions.count() - 1, "what made room is not counted");
        sessions.reap();
        assert_eq!((sessions.count_of(&ada), sessions.count_of(&eve), sessions.lock().of.len()), (1, 0, 1));
    }

    #[tokio::test]
    async fn a_flood_of_initialize_takes_bounded_room_and_spares_used_sessions() {
        let sessions = Sessions::new(SessionLimits { most: 100, ..SessionLimits::default() });
        let used = sessions.open(INITIALIZE, &NOBODY).await.to_string();
        assert_eq!(sessions.touch(&used, &NOBODY).await, Found::Open);
        for _ in 0..1000 {
            sessions.open(INITIALIZE, &NOBODY).await;
        }
        assert!(sessions.count() <= 100);
        assert_eq!(sessions.touch(&used, &NOBODY).await, Found::Open);
        assert_eq!(sessions.lock().parameters.len(), 1);
    }

    #[tokio::test]
    async fn sessions_that_all_say_something_else_take_bounded_room() {
        let sessions = Sessions::new(SessionLimits::default());
        for number in 0..5000 {
            sessions.open(&format!("{number:016384}"), &NOBODY).await;
            assert!(sessions.lock().bytes <= MOST_BYTES + LONGEST_INITIALIZE);
        }
        let open = sessions.lock();
        assert_eq!(open.bytes, open.parameters.len() * LONGEST_INITIALIZE);
    }

    #[tokio::test]
    async fn a_session_has_one_spelling() {
        let sessions = Sessions::new(SessionLimits::default());
        let id = sessions.open(INITIALIZE, &NOBODY).await;
        let upper = id.to_string().to_uppercase();
        for spelling in [upper, id.simple().to_string(), id.braced().to_string(), id.urn().to_string()] {
            // A UUID of digits alone has no upper case.
            assert!(spelling == id.to_string() || sessions.touch(&spelling, &NOBODY).await == Found::No, "{spelling}");
        }
        assert_eq!(sessions.touch(&id.to_string(), &NOBODY).await, Found::Open);
    }

    #[tokio::test]
    async fn unused_sessions_are_reaped_first() {
        let sessions = Sessions::new(SessionLimits { unused: Duration::ZERO, ..SessionLimits::default() });
        let used = sessions.open(INITIALIZE, &NOBODY).await.to_string();
        assert_eq!(sessions.touch(&used, &NOBODY).await, Found::Open);
        sessions.open(INITIALIZE, &NOBODY).await;
        sessions.reap();
        assert_eq!(sessions.count(), 1);
        assert!(sessions.close(&used).await);
        sessions.reap();
        assert!(sessions.lock().parameters.is_empty());
    }
}
