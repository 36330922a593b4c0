//! What sessions ask of rmcp: calls that talk back, their streams, and the stream that a session hears on.
//!
//! What must stay true: a stream that broke is read on from any process, by its own session alone; a call whose process died
//! is made again where its client comes next, if making it twice does no harm, and is told of otherwise.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyDataStream, Full, combinators::BoxBody};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService,
    session::{SessionManager, local::LocalSessionManager},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use uuid::Uuid;

use super::{
    Server,
    door::{self, is_stream},
    envelope::{self, Envelope},
    in_flight::Reached,
    lean::{self, SESSION_ID},
    protocol::Protocol,
    refusal::{in_json, in_json_of_session},
    request_id::{self, StreamEvent},
    response_stream::{self, MAX_UNATTENDED, ResponseStream, SessionCall, Shared},
};
use crate::{
    answers,
    http::body::{EndsSilently, Payload},
    sessions::streams::{Begun, Event, FOLLOW_INTERVAL, PAGE, Place, Streams},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How soon a client whose stream broke comes back. A balancer has noticed a dead process by then, or the client tries again.
const RETRY: Duration = Duration::from_millis(500);
/// How often a stream that is answered elsewhere is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Below every proxy's idle timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The first revision whose clients expect an event without a message: it says where a stream begins.
const EMPTY_EVENTS_SINCE: &str = "2025-11-25";
/// Events on their way to a slow reader. More wait in the database.
const WAITING: usize = 16;

/// The sessions that rmcp serves here.
pub(crate) struct Served {
    server: Arc<Server>,
    manager: Arc<LocalSessionManager>,
    /// Who may wake a session up; see [`Served::ask`].
    turns: [tokio::sync::Mutex<()>; 64],
    service: StreamableHttpService<Protocol, LocalSessionManager>,
    shared: Shared,
}

type Answer = Response<Payload>;

// === impl Served ===

impl Served {
    pub(crate) fn new(server: Arc<Server>, config: StreamableHttpServerConfig, streams: Option<Arc<Streams>>) -> Self {
        let mut manager = LocalSessionManager::default();
        manager.session_config.sse_retry = Some(RETRY);
        if let Some(streams) = &streams {
            manager = manager.with_event_store(streams.clone());
        }
        let manager = Arc::new(manager);
        let of_session = {
            let server = server.clone();
            move || Ok(Protocol::of_session(server.clone()))
        };
        Self {
            service: StreamableHttpService::new(of_session, manager.clone(), config),
            shared: Shared {
                manager: manager.clone(),
                lifecycle: server.lifecycle.clone(),
                streams,
                unattended: Arc::new(Semaphore::new(MAX_UNATTENDED)),
            },
            server,
            manager,
            turns: std::array::from_fn(|_| Default::default()),
        }
    }

    /// Whether rmcp has a service running for the session that the request names.
    pub(crate) async fn is_served(&self, headers: &HeaderMap) -> bool {
        let Some(session) = lean::session_id(headers) else { return false };
        matches!(self.manager.has_session(&session.to_owned().into()).await, Ok(true))
    }

    /// Ends the services of sessions that ended, wherever that was.
    pub(crate) async fn end_with_their_sessions(&self) {
        let mut endings = self.server.sessions.endings();
        loop {
            match endings.recv().await {
                Ok(session) => drop(self.manager.close_session(&session.to_string().into()).await),
                // Those that were missed are refused at the door; their services end by themselves when they are idle.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Answers a message of a session, which was read from `body`.
    pub(crate) async fn post(&self, parts: Parts, body: Bytes, message: &Envelope<'_>, wants_stream: bool) -> Answer {
        let begun = match (lean::session_id(&parts.headers), message.id, &message.method) {
            (Some(session), Some(id), Some(_)) => {
                let session = session.to_owned();
                self.begin(parts, &session, id.get(), &body, message, wants_stream).await
            }
            _ => Err(in_json(self.ask(Request::from_parts(parts, Full::new(body))).await, None).await),
        };
        match begun {
            Ok((head, _, stream)) => Response::from_parts(head, Payload::Body(Body::from_stream(stream))),
            Err(answer) => answer,
        }
    }

    /// Hands a request of a session to rmcp, under an id of its own. The stream that answers it is remembered before the client
    /// sees any of it.
    async fn begin(
        &self,
        parts: Parts,
        session: &str,
        id: &str,
        body: &Bytes,
        request: &Envelope<'_>,
        wants_stream: bool,
    ) -> Result<(http::response::Parts, Option<Place>, ResponseStream), Answer> {
        let entry = self.server.in_flight.enter(session, id);
        let unique = request_id::assign(body, request, entry.sequence());
        let mut call = SessionCall::new(self.shared.clone(), session, entry, wants_stream);
        let answer = self.ask(Request::from_parts(parts, Full::new(unique))).await;
        if !is_stream(answer.headers()) {
            return Err(in_json_of_session(answer, id).await);
        }
        let (head, events) = answer.into_parts();
        let mut events = BodyDataStream::new(events);
        // The first event says where the stream begins.
        let first = match events.next().await {
            Some(Ok(first)) => first,
            None | Some(Err(_)) => Bytes::new(),
        };
        let place = place_of(&first);
        if let (Some(streams), Some(place), Ok(session), Ok(request)) =
            (&self.shared.streams, &place, Uuid::try_parse(session), std::str::from_utf8(body))
            && let Ok(stream) = place.stream.parse()
        {
            match streams.begin(stream, session, request).await {
                Ok(()) => call.remember(stream),
                Err(failure) => {
                    tracing::warn!(error = %failure, "a call cannot be taken over should this process die: {failure}");
                }
            }
        }
        Ok((head, place, ResponseStream::new(call, first, events, self.takes_empty_events(session))))
    }

    /// Cancels the newest request of the session with this id, if this process has one.
    pub(crate) async fn cancel(&self, session: &str, id: &str) -> bool {
        match self.server.in_flight.cancel(session, id) {
            Some(Reached::Service(internal)) => {
                response_stream::cancel(&self.manager, session, &internal).await;
                true
            }
            Some(Reached::Call) => true,
            None => false,
        }
    }

    /// The replica that has the newest request of the session with this id, and its address, if that is another one.
    pub(crate) async fn holder(&self, headers: &HeaderMap, id: &str) -> Option<(String, String)> {
        let (streams, session) = (self.shared.streams.as_ref()?, session_of(headers)?);
        let is_meant = |request: &str| {
            let request = Envelope::read(request.as_bytes()).ok();
            request.and_then(|request| request.id).is_some_and(|of_request| request_id::same(of_request.get(), id))
        };
        match streams.holder(session, is_meant).await {
            Ok(holder) => holder,
            Err(failure) => {
                tracing::warn!(error = %failure, "which replica has a request could not be looked up: {failure}");
                None
            }
        }
    }

    /// Whether a session's client is sent events without a message: clients of earlier revisions read one as a broken message.
    fn takes_empty_events(&self, session: &str) -> bool {
        self.server.sessions.revision(session).is_some_and(|revision| revision.as_str() >= EMPTY_EVENTS_SINCE)
    }

    /// A stream of a session as its client sees it.
    async fn own_events(&self, parts: Parts) -> Result<impl futures_util::Stream<Item = Bytes> + Send + use<>, Answer> {
        let takes_empty = lean::session_id(&parts.headers).is_some_and(|session| self.takes_empty_events(session));
        let answer = self.ask(Request::from_parts(parts, Full::default())).await;
        if !is_stream(answer.headers()) {
            return Err(in_json(answer, None).await);
        }
        Ok(BodyDataStream::new(answer.into_body()).filter_map(move |event| {
            let Ok(event) = event;
            std::future::ready(match request_id::restore_event(event) {
                StreamEvent::Response(event) | StreamEvent::Other(event) => Some(event),
                StreamEvent::Empty(event) => takes_empty.then_some(event),
            })
        }))
    }

    /// The request of a stream that a client wants to read on, when whoever answered it died and nobody has taken over.
    pub(crate) async fn orphaned(&self, headers: &HeaderMap) -> Option<String> {
        let place = Place::parse(headers.get(LAST_EVENT_ID)?.to_str().ok()?)?;
        let (streams, session, stream) = (self.shared.streams.as_ref()?, session_of(headers)?, place.stream.parse().ok()?);
        // What cannot be looked up is looked up again below, and said there.
        let begun = streams.find(stream, session).await.ok()??;
        let is_open = begun.continued_by.is_none() && !begun.is_answered;
        (is_open && !streams.lives(&begun).await.ok()?).then_some(begun.request)
    }

    /// The process that waits for a client's response in this session, and where it is, if that is another one.
    pub(crate) async fn asked_by(&self, headers: &HeaderMap) -> Option<(String, String)> {
        let (streams, session) = (self.shared.streams.as_ref()?, session_of(headers)?);
        match streams.asked_by(session).await {
            Ok(address) => address,
            Err(failure) => {
                tracing::warn!(error = %failure, "who waits for a response could not be looked up: {failure}");
                None
            }
        }
    }

    /// GET: the session's own stream, or a broken one that is read on.
    pub(crate) async fn stream(self: &Arc<Self>, parts: Parts) -> Answer {
        let takes_empty = lean::session_id(&parts.headers).is_some_and(|session| self.takes_empty_events(session));
        let mut answer = self.open_stream(parts).await;
        if !takes_empty {
            answer.extensions_mut().insert(EndsSilently);
        }
        answer
    }

    async fn open_stream(self: &Arc<Self>, mut parts: Parts) -> Answer {
        let place = match parts.headers.remove(LAST_EVENT_ID).map(|id| id.to_str().ok().and_then(Place::parse)) {
            None => None,
            Some(Some(place)) => Some(place),
            Some(None) => return unknown_event(),
        };
        let Some(place) = place else {
            return self.own_events(parts).await.map_or_else(|refusal| refusal, event_stream);
        };
        let (Some(streams), Some(session)) = (&self.shared.streams, session_of(&parts.headers)) else { return unknown_event() };
        if place.is_own_of(&session.to_string()) {
            return self.own_stream(parts, streams, place).await;
        }
        let Ok(stream) = place.stream.parse() else { return unknown_event() };
        match streams.find(stream, session).await {
            Ok(Some(begun)) => match streams.is_read_to_its_end(&begun, &place).await {
                // Clients that resume by themselves, as browsers do, stop here.
                Ok(true) => return nothing_left(),
                Ok(false) => {}
                Err(failure) => return not_looked_up(&failure),
            },
            Ok(None) => return unknown_event(),
            Err(failure) => return not_looked_up(&failure),
        }
        let (out, events) = mpsc::channel(WAITING);
        let follow = Follow { served: self.clone(), streams: streams.clone(), session, parts, out };
        tokio::spawn(follow.run(place));
        event_stream(futures_util::stream::unfold(events, async |mut events| Some((events.recv().await?, events))))
    }

    /// What a session missed of its own stream, and then what comes.
    async fn own_stream(&self, parts: Parts, streams: &Streams, place: Place) -> Answer {
        // Opened first: what comes in between is in both, and is left out once.
        let events = match self.own_events(parts).await {
            Ok(events) => events,
            Err(refusal) => return refusal,
        };
        let missed = match streams.all_after(&place).await {
            Ok(missed) => missed,
            Err(failure) => return not_looked_up(&failure),
        };
        let last = missed.last().map_or(place.number, |event| event.number);
        let missed: Vec<_> = missed.iter().map(|event| text(&place.stream, event)).collect();
        let rest = events.filter(move |event| {
            let again = place_of(event).is_some_and(|place| (1..=last).contains(&place.number));
            std::future::ready(!again)
        });
        event_stream(futures_util::stream::iter(missed).chain(rest))
    }

    /// Hands a request of a session to rmcp. rmcp shows a service that it has just built for a session to everybody before
    /// that service has seen its `initialize`, and another request that gets there first ends it (3.11: "Session service
    /// terminated"). Clients do open their stream and ask something at the same time. So whoever finds a session without
    /// service goes alone, and the others of that session wait until it is there.
    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> Response<BoxBody<Bytes, Infallible>> {
        let session = request.headers().get(SESSION_ID).map(HeaderValue::as_bytes).unwrap_or_default();
        let turn = session.iter().fold(0_usize, |turn, byte| turn.wrapping_mul(31).wrapping_add((*byte).into()));
        let alone = self.turns[turn % self.turns.len()].lock().await;
        if self.is_served(request.headers()).await {
            drop(alone);
        }
        self.service.handle(request).await
    }

    /// Whether making a request again does no harm. A stream is read on for longer than the same arguments are the same
    /// call, so a call that acts needs a key for that.
    fn is_repeatable(&self, request: &Envelope<'_>) -> bool {
        #[derive(Deserialize)]
        struct Named<'a> {
            #[serde(borrow)]
            name: std::borrow::Cow<'a, str>,
            #[serde(borrow, default, rename = "_meta")]
            meta: Option<std::collections::HashMap<String, &'a RawValue>>,
        }
        match request.method.as_deref() {
            Some("tools/call") => {
                let Some(params) = request.params else { return false };
                let Some(named) = envelope::object::<Named<'_>>(params) else { return false };
                let has_key = named.meta.is_some_and(|meta| meta.contains_key(answers::KEY));
                let route = self.server.routes.get(&*named.name);
                route.is_some_and(|route| route.is_repeatable || (route.acts_once && has_key))
            }
            Some("prompts/get") => true,
            _ => false,
        }
    }
}

/// A stream being read on.
struct Follow {
    served: Arc<Served>,
    streams: Arc<Streams>,
    session: Uuid,
    /// Of the request that reads on: its headers, and whose it is.
    parts: Parts,
    out: mpsc::Sender<Bytes>,
}

// === impl Follow ===

impl Follow {
    async fn run(self, mut place: Place) {
        let mut said = Instant::now();
        let mut was_away = false;
        let mut looks = 0_u32;
        let mut noted = None;
        // Until the client goes, or the answer has come.
        while !self.out.is_closed() {
            match self.step(&mut place, &mut said).await {
                Ok(true) => return,
                Ok(false) => was_away = false,
                Err(failure) => {
                    if !std::mem::replace(&mut was_away, true) {
                        tracing::warn!(error = %failure, "a stream is read on later: {failure}");
                    }
                }
            }
            if said.elapsed() > KEEP_ALIVE {
                said = Instant::now();
                let _ = self.out.send(Bytes::from_static(b":\n\n")).await;
            }
            self.note(&place, &mut noted).await;
            tokio::select! {
                // A thousand streams that wait for long calls must not keep the database busy.
                () = tokio::time::sleep(LOOK * (1 + looks / 10).min(10)) => looks += 1,
                () = self.out.closed() => {}
            }
        }
    }

    /// Says now and then that the stream is followed, so that a process that drains finishes the call.
    async fn note(&self, place: &Place, noted: &mut Option<Instant>) {
        let Ok(stream) = place.stream.parse() else { return };
        if noted.is_none_or(|noted| noted.elapsed() >= FOLLOW_INTERVAL) {
            *noted = Some(Instant::now());
            if let Err(failure) = self.streams.follow(stream).await {
                tracing::debug!(error = %failure, "that a stream is followed is said later: {failure}");
            }
        }
    }

    /// Sends what there is, and sees to it that more comes. Whether that was all.
    async fn step(&self, place: &mut Place, said: &mut Instant) -> Result<bool, bg_runtime::database::DatabaseError> {
        let Ok(stream) = place.stream.parse() else { return Ok(true) };
        // Asked first: an answer that comes after this is found below, or in the next step.
        let begun = self.streams.find(stream, self.session).await?;
        let lives = match &begun {
            Some(begun) if begun.continued_by.is_none() && !begun.is_answered => self.streams.lives(begun).await?,
            _ => true,
        };
        let events = self.streams.after(place).await?;
        let are_more = events.len() as i64 == PAGE;
        for event in events {
            place.number = event.number;
            *said = Instant::now();
            // The stream may have ended without an answer.
            let is_sent = event.message.is_empty() || self.out.send(text(&place.stream, &event)).await.is_ok();
            if event.is_answer || !is_sent {
                return Ok(true);
            }
        }
        match begun {
            _ if are_more => {}
            // Its time is over, and nobody will answer; or the client has seen the answer.
            None | Some(Begun { is_answered: true, .. }) => return Ok(true),
            Some(Begun { continued_by: Some(next), .. }) => *place = Place { stream: next.to_string(), number: 0 },
            Some(begun) if !lives && self.streams.claim(stream, &begun).await? => self.take_over(stream, &begun).await?,
            Some(_) => {}
        }
        Ok(false)
    }

    /// Makes the request again. What comes of it is a stream of its own, which the broken one goes on in.
    async fn take_over(&self, stream: Uuid, begun: &Begun) -> Result<(), bg_runtime::database::DatabaseError> {
        let body = Bytes::from(begun.request.clone());
        let Ok(request) = Envelope::read(&body) else { return Ok(()) };
        let id = request.id.map(RawValue::get);
        if self.served.is_repeatable(&request)
            && let Some(id) = id
        {
            tracing::info!(mcp.session.id = %self.session, "a call is made again, because the process that had it died");
            let session = self.session.to_string();
            let begun = self.served.begin(self.request(), &session, id, &body, &request, true).await;
            if let Ok((_, Some(place), response)) = begun
                && let Ok(next) = place.stream.parse()
            {
                response.leave_to_client();
                // It was claimed, so nobody else will say so.
                while let Err(failure) = self.streams.continue_in(stream, next).await {
                    tracing::warn!(error = %failure, "a stream goes on in another one, which is said later: {failure}");
                    tokio::time::sleep(RETRY).await;
                }
                return Ok(());
            }
        }
        let words = "the server that made this call died; whether it took effect is not known: look before you make it again";
        let error = envelope::error(id, envelope::INTERNAL_ERROR, words, Some(r#"{"retryable":false}"#));
        let error = String::from_utf8_lossy(&error);
        while let Err(failure) = self.streams.store(&stream.to_string(), &error, true).await {
            tracing::warn!(error = %failure, "the end of a call is told later: {failure}");
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }

    /// The head of a POST in the place of the client's.
    fn request(&self) -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::POST;
        parts.uri = self.parts.uri.clone();
        parts.headers = self.parts.headers.clone();
        parts.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.extensions = self.parts.extensions.clone();
        parts
    }
}

fn session_of(headers: &HeaderMap) -> Option<Uuid> {
    Uuid::try_parse_ascii(headers.get(SESSION_ID)?.as_bytes()).ok()
}

/// The place that an event says.
fn place_of(event: &[u8]) -> Option<Place> {
    let id = event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"id:"))?;
    Place::parse(std::str::from_utf8(id).ok()?.trim())
}

fn text(stream: &str, event: &Event) -> Bytes {
    // A message is one line: JSON has no bare line break.
    format!("id: {stream}/{}\ndata: {}\n\n", event.number, event.message).into()
}

fn event_stream(events: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Answer {
    let mut answer = Response::new(Payload::Body(Body::from_stream(events.map(Ok::<_, Infallible>))));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

fn not_looked_up(failure: &bg_runtime::database::DatabaseError) -> Answer {
    tracing::warn!(error = %failure, "a stream could not be looked up: {failure}");
    door::unavailable("null")
}

/// The answer to a client that has read a stream to its end.
fn nothing_left() -> Answer {
    let mut answer = Response::new(Payload::Bytes(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// An empty stream would end the client's patience without a word. 404 would end its session.
fn unknown_event() -> Answer {
    let words = "this stream is no longer known; make the call again";
    let data = json!({ "retryable": false }).to_string();
    crate::http::body::json(StatusCode::BAD_REQUEST, envelope::error(None, envelope::INVALID_REQUEST, words, Some(&data)))
}
