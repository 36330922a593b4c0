//! How much at once, and of whom. Who asks for more is told so quickly, by which limit, and when to come again.
//!
//! What must stay true: a refusal is cheap and changes nothing, it never ends a session or a stream that is read, it is no other
//! principal's, and probes, operators and whoever looks for the way to a token are refused nothing.

pub(crate) mod address;
pub(crate) mod memory;
mod principals;
mod rates;
pub(crate) mod tally;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

pub use self::address::TrustedProxies;
pub(crate) use self::principals::Turn;
use self::{
    address::place,
    principals::Principals,
    rates::{Rates, quota},
};
use crate::{
    extract::Principal,
    http::{
        body::{Payload, json},
        connection::Counted,
    },
    mcp::envelope,
    telemetry::{metrics::Metrics, throttle::Throttle},
};

/// How much there may be. 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Requests to `/mcp` being answered at once, by the whole process.
    pub calls: usize,
    /// Connections to the public listener.
    pub connections: usize,
    /// Of these, from one address. Trusted proxies may have any number.
    pub connections_of_address: usize,
    /// The largest result of a tool, and of a batch, in bytes.
    pub response: usize,
    /// Bytes of responses that wait for their readers, by the whole process.
    pub unread: usize,
    /// Bytes of large bodies that arrive or are being answered, by the whole process.
    pub bodies: usize,
    /// Of each principal that proved to be one.
    pub principal: PrincipalLimits,
    /// Of each address, for requests that prove nobody.
    pub address: AddressLimits,
    /// The proxies that are believed about addresses.
    pub proxies: TrustedProxies,
}

/// How much there may be of each principal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrincipalLimits {
    /// Messages a second.
    pub rate: u32,
    /// Messages at once, after a rest.
    pub burst: u32,
    /// Calls in flight.
    pub calls: usize,
    /// Streams that are open.
    pub streams: usize,
    /// Sessions in this process.
    pub sessions: usize,
    /// Bytes of responses that wait for their reader.
    pub unread: usize,
}

/// How much there may be of each address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressLimits {
    /// Requests a second without a proof, or with one that is none.
    pub rate: u32,
    /// These at once, after a rest.
    pub burst: u32,
    /// New sessions a minute of nobody in particular.
    pub sessions: u32,
}

/// What there can be too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Calls in the process.
    Calls,
    /// Connections of the process.
    Connections,
    /// Connections from an address.
    ConnectionsOfAddress,
    /// Requests of an address that prove nobody.
    UnprovenOfAddress,
    /// New sessions of nobody in particular from an address.
    SessionsOfAddress,
    /// Messages of a principal.
    RateOfPrincipal,
    /// Calls of a principal in flight.
    CallsOfPrincipal,
    /// Open streams of a principal.
    StreamsOfPrincipal,
    /// Sessions of a principal.
    SessionsOfPrincipal,
    /// Bytes of responses that wait for their readers.
    Unread,
    /// The same of a principal.
    UnreadOfPrincipal,
    /// Bytes of large bodies.
    Bodies,
}

/// A limit, and in how many seconds it is worth trying again.
pub(crate) type Refused = (Limit, u64);

/// Whom a connection is with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The limits of a process, and what they counted.
pub(crate) struct Limits {
    config: LimitsConfig,
    /// Requests to `/mcp` whose responses have not left to the last byte.
    calls: AtomicUsize,
    /// The same for every other path.
    others: AtomicUsize,
    /// Bytes of large responses that wait for their readers.
    unread: AtomicUsize,
    /// Bytes of large bodies that are on their way or belong to a call in flight.
    bodies: AtomicUsize,
    /// Calls whose bodies are still on their way.
    arriving: AtomicUsize,
    rates: Option<Rates<Arc<str>>>,
    principals: Arc<Principals>,
    unproven: Option<Rates<IpAddr>>,
    new_sessions: Option<Rates<IpAddr>>,
    /// What a call is told that is too much, made before there are many.
    full: Bytes,
    metrics: Arc<Metrics>,
    born: Instant,
    throttles: [Throttle; Limit::ALL.len()],
}

/// A body that is on its way.
pub(crate) struct Arriving<'a>(&'a AtomicUsize);

/// The bytes of a large response, counted until this is dropped.
pub(crate) struct UnreadBytes {
    limits: Arc<Limits>,
    bytes: usize,
    turn: Option<Arc<Turn>>,
}

/// The bytes of a body, counted until this is dropped.
pub(crate) struct BodyBytes<'a> {
    limits: &'a Limits,
    read: usize,
    counted: usize,
}

/// A body or a response of at most so many bytes is not counted by its bytes: CALLS_MAX of them are 32 MiB.
pub(crate) const SMALL: usize = 64 * 1024;

/// Calls end within milliseconds, so a second later there is room.
const SHED_FOR: u64 = 1;
/// Streams end when somebody closes a window.
const STREAMS_FOR: u64 = 5;

// === impl Limit ===

impl Limit {
    const ALL: [Self; 12] = [
        Self::Calls,
        Self::Connections,
        Self::ConnectionsOfAddress,
        Self::UnprovenOfAddress,
        Self::SessionsOfAddress,
        Self::RateOfPrincipal,
        Self::CallsOfPrincipal,
        Self::StreamsOfPrincipal,
        Self::SessionsOfPrincipal,
        Self::Unread,
        Self::UnreadOfPrincipal,
        Self::Bodies,
    ];

    /// The word for metrics and the log.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Connections => "connections",
            Self::ConnectionsOfAddress => "connections_of_address",
            Self::UnprovenOfAddress => "unproven_of_address",
            Self::SessionsOfAddress => "sessions_of_address",
            Self::RateOfPrincipal => "rate_of_principal",
            Self::CallsOfPrincipal => "calls_of_principal",
            Self::StreamsOfPrincipal => "streams_of_principal",
            Self::SessionsOfPrincipal => "sessions_of_principal",
            Self::Unread => "unread",
            Self::UnreadOfPrincipal => "unread_of_principal",
            Self::Bodies => "bodies",
        }
    }
}

// === impl Limits ===

impl Limits {
    pub(crate) fn new(config: LimitsConfig, metrics: Arc<Metrics>) -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        let (principal, address) = (config.principal, config.address);
        Self {
            calls: AtomicUsize::new(0),
            others: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            bodies: AtomicUsize::new(0),
            arriving: AtomicUsize::new(0),
            rates: quota(principal.rate, principal.burst, SECOND).map(Rates::new),
            principals: Arc::new(Principals::new(principal)),
            unproven: quota(address.rate, address.burst, SECOND).map(Rates::new),
            new_sessions: quota(address.sessions, 0, 60 * SECOND).map(Rates::new),
            full: refusal(&words(&config, Limit::Calls), SHED_FOR, None),
            metrics,
            born: Instant::now(),
            throttles: Default::default(),
            config,
        }
    }

    /// Counts a request until [`Self::end_request`], and says how many of its kind there are with it.
    pub(crate) fn begin_request(&self, counted: Counted) -> usize {
        self.of(counted).fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn end_request(&self, counted: Counted) {
        self.of(counted).fetch_sub(1, Ordering::Relaxed);
    }

    fn of(&self, counted: Counted) -> &AtomicUsize {
        match counted {
            Counted::Call => &self.calls,
            Counted::Other => &self.others,
        }
    }

    /// Whether more requests to other paths than there may be calls are in flight. They are answered all the same.
    pub(crate) fn has_many_others(&self) -> bool {
        self.config.calls > 0 && self.others.load(Ordering::Relaxed) > self.config.calls
    }

    /// Whether a call cannot be begun that is one of so many, and the limit that says so.
    pub(crate) fn refuses_call(&self, among: usize) -> Option<Limit> {
        if self.is_full(among) {
            return Some(Limit::Calls);
        }
        let most = self.config.unread;
        (most > 0 && self.unread.load(Ordering::Relaxed) >= most).then_some(Limit::Unread)
    }

    /// Whether a response of this size may wait for its reader. The first one always may.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        let (most, unread) = (self.config.unread, self.unread.load(Ordering::Relaxed));
        most == 0 || bytes <= SMALL || unread == 0 || unread.saturating_add(bytes) <= most
    }

    /// Counts the bytes of a large response until they have left, for the process and for whose call it answers. Small ones are
    /// bounded by the number of calls.
    pub(crate) fn unread(self: &Arc<Self>, bytes: usize, turn: Option<&Arc<Turn>>) -> Option<UnreadBytes> {
        if bytes <= SMALL {
            return None;
        }
        self.unread.fetch_add(bytes, Ordering::Relaxed);
        let turn = turn.cloned();
        if let Some(turn) = &turn {
            turn.add_unread(bytes);
        }
        Some(UnreadBytes { limits: self.clone(), bytes, turn })
    }

    /// Begins to count what a body takes.
    pub(crate) fn body(&self) -> BodyBytes<'_> {
        BodyBytes { limits: self, read: 0, counted: 0 }
    }

    /// Whether so many calls are more than there may be in flight. A call whose body is still uploading is not counted: bodies
    /// that drip must not keep others out.
    fn is_full(&self, among: usize) -> bool {
        let most = self.config.calls;
        most > 0 && among > most && among > most + self.arriving.load(Ordering::Relaxed)
    }

    /// Notes that a body is waited for; nothing when as many are as there may be calls.
    pub(crate) fn arriving(&self) -> Option<Arriving<'_>> {
        let before = self.arriving.fetch_add(1, Ordering::Relaxed);
        let arriving = Arriving(&self.arriving);
        (self.config.calls == 0 || before < self.config.calls).then_some(arriving)
    }

    /// Whether an address that has so many connections may have no further one.
    pub(crate) fn has_too_many_connections(&self, peer: IpAddr, has: usize) -> bool {
        let most = self.config.connections_of_address;
        most > 0 && has >= most && !self.config.proxies.are(peer)
    }

    /// Whether it matters where a request comes from.
    pub(crate) fn asks_for_addresses(&self) -> bool {
        self.unproven.is_some() || self.new_sessions.is_some()
    }

    /// A request that proves nobody.
    pub(crate) fn unproven(&self, peer: Option<Peer>, headers: &HeaderMap) -> Result<(), Refused> {
        self.of_address(self.unproven.as_ref(), peer, headers).map_err(|after| (Limit::UnprovenOfAddress, after))
    }

    /// A message of a principal that proved to be one, or its stream; nothing to hold where nobody is one.
    pub(crate) fn begin(&self, principal: &Principal, is_stream: bool) -> Result<Option<Turn>, Refused> {
        let Some(who) = principal.proved() else { return Ok(None) };
        self.more(principal, 1)?;
        let turn = self.principals.begin(who, is_stream, 1);
        turn.map(Some).map_err(|limit| (limit, if is_stream { STREAMS_FOR } else { SHED_FOR }))
    }

    /// So many further messages of a principal in the same body, each of which is a call in flight until that is answered.
    pub(crate) fn begin_more(&self, principal: &Principal, count: usize) -> Result<Option<Turn>, Refused> {
        self.more(principal, count)?;
        let Some(who) = principal.proved().filter(|_| count > 0) else { return Ok(None) };
        self.principals.begin(who, false, count).map(Some).map_err(|limit| (limit, SHED_FOR))
    }

    fn more(&self, principal: &Principal, count: usize) -> Result<(), Refused> {
        let (Some(rates), Some(who)) = (&self.rates, principal.proved()) else { return Ok(()) };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        rates.take(who, count).map_err(|after| (Limit::RateOfPrincipal, after))
    }

    /// A call turns out to be a stream.
    pub(crate) fn becomes_stream(&self, turn: &mut Turn) -> Result<(), Refused> {
        turn.become_stream().map_err(|limit| (limit, STREAMS_FOR))
    }

    /// A new session, where its principal has so many that live for so long when they are not used.
    pub(crate) fn session(
        &self,
        principal: &Principal,
        has: usize,
        unused: Duration,
        from: (Option<Peer>, &HeaderMap),
    ) -> Result<(), Refused> {
        if principal.proved().is_none() {
            let taken = self.of_address(self.new_sessions.as_ref(), from.0, from.1);
            return taken.map_err(|after| (Limit::SessionsOfAddress, after));
        }
        let most = self.config.principal.sessions;
        if most > 0 && has >= most { Err((Limit::SessionsOfPrincipal, unused.as_secs().max(1))) } else { Ok(()) }
    }

    /// The answer to what is too much.
    pub(crate) fn refuse(&self, (limit, after): Refused, id: Option<&str>) -> Response<Payload> {
        self.note(limit);
        answer(after, refusal(&words(&self.config, limit), after, id))
    }

    /// The answer to a call that is too much.
    pub(crate) fn shed(&self) -> Response<Payload> {
        self.note(Limit::Calls);
        answer(SHED_FOR, self.full.clone())
    }

    /// The answer to a call that cannot be begun for this reason.
    pub(crate) fn shed_for(&self, limit: Limit) -> Response<Payload> {
        if limit == Limit::Calls { self.shed() } else { self.refuse((limit, SHED_FOR), None) }
    }

    /// The answer to a call on a connection that is one too many.
    pub(crate) fn crowded(&self) -> Response<Payload> {
        answer(SHED_FOR, refusal(&words(&self.config, Limit::Connections), SHED_FOR, None))
    }

    /// Counts a refusal, and says now and then that there are some.
    pub(crate) fn note(&self, limit: Limit) {
        self.metrics.refused(limit.as_str());
        if let Some(refused) = self.throttles[limit as usize].count(self.born) {
            tracing::warn!(limit = limit.as_str(), refused, "refused {refused}: {}", words(&self.config, limit));
        }
    }

    fn of_address(&self, rates: Option<&Rates<IpAddr>>, peer: Option<Peer>, headers: &HeaderMap) -> Result<(), u64> {
        let (Some(rates), Some(Peer(peer))) = (rates, peer) else { return Ok(()) };
        rates.take(&place(self.config.proxies.client(peer, headers)), 1)
    }
}

/// What is too much, and what says so.
fn words(config: &LimitsConfig, limit: Limit) -> String {
    let LimitsConfig { principal, address, .. } = config;
    match limit {
        Limit::Calls => format!("this process answers {} calls at once and no more (CALLS_MAX)", config.calls),
        Limit::Connections => format!("this process has {} connections and takes no more (CONNECTIONS_MAX)", config.connections),
        Limit::ConnectionsOfAddress => {
            format!("an address may have {} connections (CONNECTIONS_PER_ADDRESS)", config.connections_of_address)
        }
        Limit::UnprovenOfAddress => {
            format!("an address may come without a good token {} times a second (UNPROVEN_PER_SECOND)", address.rate)
        }
        Limit::SessionsOfAddress => {
            format!("an address may open {} sessions a minute (NEW_SESSIONS_PER_ADDRESS)", address.sessions)
        }
        Limit::RateOfPrincipal => {
            let PrincipalLimits { rate, burst, .. } = principal;
            format!("a caller may send {rate} messages a second (CALLS_PER_SECOND), and {burst} at once (CALLS_BURST)")
        }
        Limit::CallsOfPrincipal => {
            format!("a caller may have {} calls in flight (CALLS_PER_PRINCIPAL)", principal.calls)
        }
        Limit::StreamsOfPrincipal => {
            format!("a caller may have {} streams open (STREAMS_PER_PRINCIPAL)", principal.streams)
        }
        Limit::SessionsOfPrincipal => {
            format!("a caller may have {} sessions (SESSIONS_PER_PRINCIPAL); end those that nobody uses", principal.sessions)
        }
        Limit::Unread => {
            format!("responses of {} bytes wait for their readers, and no more may (UNREAD_BYTES_MAX)", config.unread)
        }
        Limit::UnreadOfPrincipal => {
            let most = principal.unread;
            format!("responses of {most} bytes to this caller wait to be read, and no more may (UNREAD_BYTES_PER_PRINCIPAL)")
        }
        Limit::Bodies => format!("large requests of {} bytes are being read, and no more may (BODY_BYTES_MAX)", config.bodies),
    }
}

fn refusal(words: &str, after: u64, id: Option<&str>) -> Bytes {
    let words = format!("{words}; try again in {after} s");
    envelope::error(id, envelope::INTERNAL_ERROR, &words, Some(r#"{"retryable":true}"#))
}

/// The refusal of a request by any limit. It is 429 and not 503, also where the whole process is busy (RFC 6585 leaves open how
/// requests are counted): a balancer counts 5xx as failures of the server, and an alarm on them would let whoever floods it
/// cause a rollback.
fn answer(after: u64, body: Bytes) -> Response<Payload> {
    let mut answer = json(StatusCode::TOO_MANY_REQUESTS, body);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after));
    answer
}

// === impl BodyBytes ===

impl BodyBytes<'_> {
    /// Counts further bytes of the body; false when there is no room for them.
    pub(crate) fn add(&mut self, bytes: usize) -> bool {
        self.read = self.read.saturating_add(bytes);
        if self.read <= SMALL {
            return true;
        }
        let more = self.read - self.counted;
        self.counted = self.read;
        let most = self.limits.config.bodies;
        let before = self.limits.bodies.fetch_add(more, Ordering::Relaxed);
        most == 0 || before.saturating_add(more) <= most
    }
}

impl Drop for BodyBytes<'_> {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.limits.bodies.fetch_sub(self.counted, Ordering::Relaxed);
        }
    }
}

impl Drop for UnreadBytes {
    fn drop(&mut self) {
        self.limits.unread.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(turn) = &self.turn {
            turn.remove_unread(self.bytes);
        }
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bg_runtime::{Color, Release};

    use super::*;
    use crate::telemetry::Telemetry;

    pub(crate) fn limits(config: LimitsConfig) -> (Limits, Telemetry) {
        let telemetry = Telemetry::off(&Release::new(Color::Blue, "1.0.0", "test").unwrap());
        (Limits::new(config, Arc::new(Metrics::new(&telemetry.meter()))), telemetry)
    }

    fn of(calls: usize) -> LimitsConfig {
        LimitsConfig { calls, ..LimitsConfig::default() }
    }

    #[test]
    fn a_body_that_drips_keeps_no_call_out_and_is_itself_bounded() {
        let (limits, _) = limits(of(2));
        let is_full = |calls| limits.is_full(calls);
        assert!(!is_full(2) && is_full(3));
        let first = limits.arriving();
        assert!(first.is_some() && !is_full(3), "what arrives is no call yet");
        let second = limits.arriving();
        assert!(limits.arriving().is_none(), "as many as calls, and no more");
        assert!(is_full(5) && !is_full(4));
        drop((first, second));
        assert!(is_full(3));
    }

    #[test]
    fn zero_is_no_limit() {
        let (limits, _) = limits(LimitsConfig::default());
        assert!(limits.refuses_call(usize::MAX).is_none());
        let all: Vec<_> = (0..100).map(|_| limits.arriving()).collect();
        assert!(all.iter().all(Option::is_some));
        let (ada, peer) = (Principal::named("ada"), Some(Peer([198, 51, 100, 1].into())));
        let turns: Vec<_> = (0..100).map(|_| limits.begin(&ada, true).unwrap()).collect();
        assert!(turns.iter().all(Option::is_some));
        assert_eq!(limits.unproven(peer, &HeaderMap::new()), Ok(()));
        for principal in [ada, Principal::anonymous()] {
            let session = limits.session(&principal, usize::MAX, Duration::ZERO, (peer, &HeaderMap::new()));
            assert_eq!(session, Ok(()));
        }
    }

    #[test]
    fn a_refusal_says_which_limit_and_when_to_come_again_and_is_counted() {
        let (limits, telemetry) = limits(of(2));
        let answer = limits.refuse((Limit::Calls, 1), Some("7"));
        assert_eq!((answer.status().as_u16(), &answer.headers()[header::RETRY_AFTER]), (429, &HeaderValue::from(1)));
        let Payload::Bytes(body) = answer.into_body() else { panic!("it is there whole") };
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["id"], &body["error"]["data"]["retryable"]), (&7.into(), &true.into()));
        let words = "this process answers 2 calls at once and no more (CALLS_MAX); try again in 1 s";
        assert_eq!(body["error"]["message"], words);
        let text = telemetry.prometheus();
        assert!(text.contains("mcp_server_admission_refused_total{") && text.contains(r#"reason="calls""#), "{text}");
    }

    #[test]
    fn nobody_in_particular_has_no_limit_of_a_principal() {
        let principal = PrincipalLimits { rate: 1, burst: 1, calls: 1, streams: 1, sessions: 1, unread: 1 };
        let (limits, _) = limits(LimitsConfig { principal, ..LimitsConfig::default() });
        let nobody = Principal::anonymous();
        assert!((0..10).all(|_| limits.begin(&nobody, false).is_ok_and(|turn| turn.is_none())));
        let ada = Principal::named("ada");
        assert!(limits.begin(&ada, false).is_ok());
        assert_eq!(limits.begin(&ada, false).unwrap_err(), (Limit::RateOfPrincipal, 1));
    }

    #[test]
    fn unread_responses_are_counted_by_their_bytes_until_they_have_left() {
        let principal = PrincipalLimits { unread: 2 * SMALL, ..PrincipalLimits::default() };
        let (limits, _) = limits(LimitsConfig { unread: 4 * SMALL, principal, ..LimitsConfig::default() });
        let (limits, ada) = (Arc::new(limits), Principal::named("ada"));
        let turn = Arc::new(limits.begin(&ada, false).unwrap().unwrap());
        assert!(limits.unread(SMALL, Some(&turn)).is_none(), "small ones are bounded by the number of calls");
        let first = limits.unread(3 * SMALL, Some(&turn)).unwrap();
        assert_eq!(limits.begin(&ada, false).unwrap_err().0, Limit::UnreadOfPrincipal);
        assert!(limits.begin(&Principal::named("bob"), false).is_ok(), "another caller's are something else");
        assert!(limits.has_room_for(SMALL) && !limits.has_room_for(2 * SMALL) && limits.refuses_call(1).is_none());
        let second = limits.unread(2 * SMALL, None);
        assert_eq!(limits.refuses_call(1), Some(Limit::Unread));
        drop((first, second));
        assert!(limits.refuses_call(1).is_none() && limits.begin(&ada, false).is_ok());
        assert!(limits.has_room_for(usize::MAX), "the first one always has room");
    }

    #[test]
    fn large_bodies_are_counted_by_their_bytes_and_small_ones_have_room_beside_them() {
        let (limits, _) = limits(LimitsConfig { bodies: 3 * SMALL, ..LimitsConfig::default() });
        let mut first = limits.body();
        assert!(first.add(SMALL) && first.add(SMALL) && first.add(SMALL));
        let (mut small, mut large) = (limits.body(), limits.body());
        assert!(small.add(SMALL) && !large.add(2 * SMALL));
        drop((first, large));
        assert!(limits.body().add(2 * SMALL), "what ended makes room");
        assert_eq!(limits.bodies.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_order_of_limits_is_that_of_what_is_said_of_them() {
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, number, "{}", limit.as_str());
        }
    }
}
