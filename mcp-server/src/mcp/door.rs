//! `/mcp`: every revision from 2024-11-05 to 2026-07-28 on one endpoint.
//!
//! The door reads the body once and asks the lean path first. What that leaves goes to one of two rmcp services: the one
//! with sessions when the request names one, the one without otherwise. Clients that ask for less than the transport wants
//! (curl, a smoke test) are helped into it, and get plain JSON back.

mod batch;
mod body;

use std::{borrow::Cow, sync::Arc};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Server,
    envelope::{self, Envelope, Malformed},
    forward::{Forward, Lost},
    lean::{self, Lean, SESSION_ID},
    misread::{self, is_misread, is_never_offered},
    protocol::Protocol,
    refusal::in_json,
    replica::{FORWARDED, PROOF},
    served::Served,
};
use crate::{
    authentication::{Authenticator, Denied, header_value, rejections::Reason},
    conversation::Named,
    extract::Principal,
    http::{
        accept,
        body::{Payload, Until, json},
        origin::Allowed,
    },
    limits::{Limit, Limits, Refused, Turn},
    pins::Place,
    sessions::streams::Streams,
};

/// How a client of a session takes a request back.
const CANCELLED: &str = "notifications/cancelled";

/// What a client without sessions hears of changes by (2026-07-28).
pub(super) const LISTEN: &str = "subscriptions/listen";

/// How much longer than a tool may take an answer from another process may take.
const HANDED: std::time::Duration = std::time::Duration::from_secs(5);

/// The endpoint.
pub(crate) struct Door {
    server: Arc<Server>,
    allowed: Arc<Allowed>,
    authenticator: Arc<Authenticator>,
    limits: Arc<Limits>,
    body: BodyLimits,
    served: Arc<Served>,
    /// Where conversations stay on a build.
    forward: Option<Forward>,
    without_sessions: StreamableHttpService<Protocol, NeverSessionManager>,
}

/// What is taken of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// So many bytes.
    pub(crate) most: usize,
    /// Within this time once its headers have come, however it comes.
    pub(crate) within: std::time::Duration,
}

/// Which tool is called, whatever else is said.
#[derive(Deserialize)]
struct Called<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

type Answer = Response<Payload>;

/// Says of an answer that it has no end of its own, and ends by itself when connections are given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endless;

impl Door {
    pub(crate) fn new(
        server: Arc<Server>,
        allowed: Arc<Allowed>,
        authenticator: Arc<Authenticator>,
        limits: Arc<Limits>,
        body: BodyLimits,
        streams: Option<Arc<Streams>>,
        forward: Forward,
    ) -> Self {
        let mut config = StreamableHttpServerConfig::default()
            // Host and origin have been checked by then; see `Allowed`.
            .disable_allowed_hosts()
            .with_max_request_body_bytes(body.most)
            .with_cancellation_token(server.lifecycle.cut().clone());
        config.session_store = Some(server.sessions.clone());
        let stateless = config.clone().with_legacy_session_mode(false).with_json_response(true);
        let without = {
            let server = server.clone();
            move || Ok(Protocol::stateless(server.clone()))
        };
        Self {
            forward: (server.shared.pins.is_some() || streams.is_some()).then_some(forward),
            served: Arc::new(Served::new(server.clone(), config, streams)),
            without_sessions: StreamableHttpService::new(without, Arc::default(), stateless),
            server,
            allowed,
            authenticator,
            limits,
            body,
        }
    }

    /// The sessions that rmcp serves.
    pub(crate) fn served(&self) -> Arc<Served> {
        self.served.clone()
    }

    /// Answers one HTTP request.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut parts, body) = request.into_parts();
        lean::drop_blank_session_id(&mut parts.headers);
        // A browser asks what it may send before it sends a token.
        if parts.method == Method::OPTIONS {
            return self.allowed.preflight(&parts.uri, &parts.headers);
        }
        if let Err(refusal) = self.allowed.check(&parts) {
            return *refusal;
        }
        if parts.headers.contains_key(FORWARDED) {
            match self.forward.as_ref().and_then(Forward::replica).and_then(|ours| ours.is_marked(&parts.headers)) {
                Some(true) => {}
                Some(false) => {
                    let words = "this message was handed on to another process than this one";
                    return json(StatusCode::MISDIRECTED_REQUEST, error(None, envelope::INVALID_REQUEST, words));
                }
                // From a client it means nothing. A release that knows no proofs also sends it without one: its message is
                // answered here as if it had come from its client.
                None => drop((parts.headers.remove(FORWARDED), parts.headers.remove(PROOF))),
            }
        }
        let principal = match self.authenticator.principal(&parts.headers).await {
            Ok(principal) => principal,
            Err(denied) => return self.deny(&parts, denied),
        };
        match self.begin(&parts, &principal) {
            Ok(turn) => held(&self.limits, self.within(parts, &principal, body).await, turn),
            Err(refused) => self.limits.refuse(refused, None),
        }
    }

    /// The answer to a caller who is not let in.
    fn deny(&self, parts: &Parts, denied: Denied) -> Answer {
        self.server.rejections.count(Reason::Denied(denied), None);
        let resource = self.authenticator.resource().expect("only who wants tokens denies");
        // A missing token costs no signature check and is how every client begins to sign in: a stranger behind the same balancer
        // must not be able to use up its rate. That the issuer's keys are unavailable is not the caller's doing.
        let is_limited = matches!(denied, Denied::Malformed | Denied::Invalid(_));
        if is_limited && let Err(refused) = self.limits.unproven(parts.extensions.get().copied(), &parts.headers) {
            let mut answer = self.limits.refuse(refused, None);
            resource.lead(&mut answer);
            return answer;
        }
        resource.deny(denied)
    }

    /// What a request takes of what its caller may have.
    fn begin(&self, parts: &Parts, principal: &Principal) -> Result<Option<Turn>, Refused> {
        if principal.proved().is_none() {
            self.limits.unproven(parts.extensions.get().copied(), &parts.headers)?;
        }
        self.limits.begin(principal, parts.method == Method::GET)
    }

    /// Answers a request that is not too much.
    async fn within<B>(&self, parts: Parts, principal: &Principal, body: B) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match parts.method {
            Method::POST => self.post(parts, principal, body).await,
            Method::GET | Method::DELETE => {
                let mut answer = self.stream_or_end(parts, principal).await;
                // Whoever reads it on brings a token that is good then.
                if let Some(until) = principal.until() {
                    answer.extensions_mut().insert(Until(until));
                }
                // rmcp says `no-cache`, with which a cache may keep what somebody was told.
                answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                answer
            }
            _ => {
                let mut answer = json(StatusCode::METHOD_NOT_ALLOWED, error(None, envelope::INVALID_REQUEST, "use POST"));
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
                answer
            }
        }
    }

    async fn post<B>(&self, parts: Parts, principal: &Principal, body: B) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if !says_json(&parts.headers) {
            let words = "send the JSON-RPC message as Content-Type: application/json";
            return json(StatusCode::UNSUPPORTED_MEDIA_TYPE, error(None, envelope::INVALID_REQUEST, words));
        }
        if !accept::is_identity(&parts.headers) {
            let message = "send the body without a Content-Encoding: compressed bodies are not read here";
            let mut answer = json(StatusCode::UNSUPPORTED_MEDIA_TYPE, error(None, envelope::INVALID_REQUEST, message));
            answer.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            return answer;
        }
        let mut room = self.limits.body();
        let body = match self.read(&parts.headers, body, &mut room).await {
            Ok(body) => without_byte_order_mark(body),
            Err(refusal) => return refusal,
        };
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
            return self.batch(parts, principal, &body).await;
        }
        self.message(parts, principal, body).await
    }

    /// One message of a body that held one.
    async fn message(&self, parts: Parts, principal: &Principal, body: Bytes) -> Answer {
        let envelope = match Envelope::read(&body) {
            Ok(envelope) => envelope,
            Err(Malformed { repaired: Some(body), .. }) => return Box::pin(self.message(parts, principal, body)).await,
            Err(malformed) => return json(StatusCode::BAD_REQUEST, error(None, malformed.code, &malformed.message)),
        };
        if let Some(body) = envelope.with_whole_request_id(&body) {
            return Box::pin(self.message(parts, principal, body)).await;
        }
        if let Some(refusal) = self.beyond(&parts.headers, principal, &envelope) {
            return refusal;
        }
        if let Some(answer) = self.pinned(&parts, principal, &body, &envelope).await {
            return answer;
        }
        if envelope.method.as_deref() == Some("initialize") {
            let sessions = &self.server.sessions;
            let from = (parts.extensions.get().copied(), &parts.headers);
            if let Err(refused) = self.limits.session(principal, sessions.count_of(principal), sessions.unused(), from) {
                return self.limits.refuse(refused, envelope.id.map(RawValue::get));
            }
        }
        match lean::answer(&self.server, &parts.headers, principal, &envelope).await {
            Lean::Answer { body, .. } if !self.limits.has_room_for(body.len()) => self.dropped(&envelope),
            Lean::Answer { status, body, session } => {
                let mut answer = answered(status, body);
                if let Some(session) = session {
                    let mut text = uuid::Uuid::encode_buffer();
                    let value =
                        HeaderValue::from_str(session.hyphenated().encode_lower(&mut text)).expect("a UUID is a header value");
                    answer.headers_mut().insert(SESSION_ID, value);
                }
                answer
            }
            Lean::Elsewhere => self.elsewhere(parts, principal, &body, &envelope).await,
        }
    }

    /// The answer in place of one that is too large to wait for its reader beside the others. The call was made.
    fn dropped(&self, envelope: &Envelope<'_>) -> Answer {
        let is_harmless = || {
            let called: Called<'_> = envelope::object(envelope.params?)?;
            self.server.routes.get(&*called.name).map(|route| route.is_repeatable)
        };
        let is_call = envelope.method.as_deref() == Some("tools/call");
        let (words, data) = match !is_call || is_harmless().unwrap_or(false) {
            true => ("too many answers wait to be read; try again", r#"{"retryable":true}"#),
            false => {
                ("the tool has run, and too many answers wait to be read; look before you call again", r#"{"retryable":false}"#)
            }
        };
        self.limits.note(Limit::Unread);
        let id = envelope.id.map(RawValue::get);
        json(StatusCode::OK, envelope::error(id, envelope::INTERNAL_ERROR, words, Some(data)))
    }

    /// The answer to a call that the caller's token does not allow: what to ask for, as clients of the protocol read it from the
    /// status and its header (MCP, scope challenge handling), and ChatGPT from the result's `_meta`. A call that is not read as
    /// one here does not run either; see [`lean::run`].
    fn beyond(&self, headers: &HeaderMap, principal: &Principal, envelope: &Envelope<'_>) -> Option<Answer> {
        if !principal.is_limited() || envelope.method.as_deref() != Some("tools/call") {
            return None;
        }
        let resource = self.authenticator.resource()?;
        let called: Called<'_> = envelope::object(envelope.params?)?;
        let route = self.server.routes.get(&*called.name)?;
        let words = route.beyond(principal)?;
        self.server.rejections.count(Reason::InsufficientScope, Some(&called.name));
        let challenge = resource.wider(principal, &route.scopes, &words);
        let mut result = serde_json::json!({
            "content": [{ "type": "text", "text": words }],
            "isError": true,
            "_meta": { "mcp/www_authenticate": [challenge] },
        });
        if is_stateless(headers) {
            result["resultType"] = "complete".into();
        }
        let id = envelope.id.map_or("null", RawValue::get);
        let body = envelope::result(id, &Bytes::from(result.to_string()));
        // ChatGPT reads results and not refusals of calls.
        let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let status = if agent.starts_with("openai-mcp") { StatusCode::OK } else { StatusCode::FORBIDDEN };
        let mut answer = json(status, body);
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, header_value(&challenge));
        Some(answer)
    }

    /// The answer to a call whose conversation stays on another build: that build gives it.
    async fn pinned(&self, parts: &Parts, principal: &Principal, body: &Bytes, envelope: &Envelope<'_>) -> Option<Answer> {
        let (pins, forward) = (self.server.shared.pins.as_ref()?, self.forward.as_ref()?);
        let is_call = envelope.method.as_deref() == Some("tools/call");
        if !is_call || !pins.may_be_elsewhere() || parts.headers.contains_key(FORWARDED) {
            return None;
        }
        let id = envelope.id?.get();
        let params: lean::Params<'_> = envelope::object(envelope.params?)?;
        // A tool that this build does not have may be one of the build that the conversation stays on.
        let pinning = self.server.routes.get(params.name.as_deref()?).map_or(crate::tool::Pinning::Auto, |route| route.pinning);
        let stateless = is_stateless(&parts.headers);
        // Whoever refuses the session does so below, in its own words.
        if !stateless && lean::unknown_session(&self.server, &parts.headers, principal, id).await.is_some() {
            return None;
        }
        let session = lean::session_id(&parts.headers).filter(|_| !stateless);
        let arguments = params.arguments.map(RawValue::get);
        let conversation = Named::of(params.meta, arguments, session, principal)?;
        let place = match pins.place(&conversation.key, pinning).await {
            Ok(place) => place,
            Err(failure) => {
                tracing::warn!(error = %failure, "where a conversation belongs could not be looked up: {failure}");
                return Some(retryable(id, "the conversation cannot be looked up at the moment; try again"));
            }
        };
        let Place::There { build, addresses } = place else { return None };
        for address in &addresses {
            match self.unless_cut(forward.hand(parts, body.clone(), address, &build)).await {
                Ok(answer) => return Some(answer),
                Err(Lost::Unreached) => {}
                Err(Lost::Unknown) => {
                    let words =
                        "the release that this conversation stays on went away during the call; look before you try again";
                    let error = envelope::error(Some(id), envelope::INTERNAL_ERROR, words, Some(r#"{"retryable":false}"#));
                    return Some(json(StatusCode::OK, error));
                }
            }
        }
        // They live, by what they said last, and nobody answers.
        match pins.move_here(&conversation.key, &build).await {
            Ok(true) => None,
            Ok(false) | Err(_) => Some(retryable(id, "the conversation cannot be moved at the moment; try again")),
        }
    }

    /// What was handed to another process, with the same ends as a call here: its deadline, and the end of this process.
    async fn unless_cut(&self, handed: impl Future<Output = Result<Answer, Lost>>) -> Result<Answer, Lost> {
        tokio::select! {
            biased;
            // The other one's own deadline comes first, and says more.
            handed = tokio::time::timeout(self.server.call_timeout + HANDED, handed) => handed.unwrap_or(Err(Lost::Unknown)),
            () = self.server.lifecycle.cut().cancelled() => Err(Lost::Unknown),
        }
    }

    /// What the lean path left.
    async fn elsewhere(&self, mut parts: Parts, principal: &Principal, body: &Bytes, envelope: &Envelope<'_>) -> Answer {
        let id = envelope.id.map(RawValue::get);
        let stateless = is_stateless(&parts.headers);
        let in_session = parts.headers.contains_key(SESSION_ID) && !stateless;
        if in_session {
            let refusal = lean::unknown_session(&self.server, &parts.headers, principal, id.unwrap_or("null")).await;
            if let Some(Lean::Answer { status, body, .. }) = refusal {
                return answered(status, body);
            }
            // A session without a service has nothing that a notification could reach, and gets none built for it. A call on the
            // fast path needs none to be cancelled.
            let is_cancellation = envelope.method.as_deref() == Some(CANCELLED);
            if id.is_none() && envelope.method.is_some() && !is_cancellation && !self.served.is_served(&parts.headers).await {
                return accepted();
            }
        } else if id.is_none() && envelope.method.is_some() {
            return accepted();
        }
        if is_misread(envelope, body, stateless) {
            let (code, words) = match envelope.method.as_deref() {
                Some(method) => (envelope::INVALID_PARAMS, misread::describe(method, envelope.params)),
                None => (envelope::INVALID_REQUEST, "the message is neither a request nor an answer".to_owned()),
            };
            return json(StatusCode::BAD_REQUEST, error(id, code, &words));
        }
        if let (Some(id), Some(method)) = (id, envelope.method.as_deref())
            && is_never_offered(method, stateless)
        {
            let status = if stateless { StatusCode::NOT_FOUND } else { StatusCode::OK };
            return json(status, error(Some(id), envelope::METHOD_NOT_FOUND, &envelope::method_not_found(method)));
        }
        if in_session && id.is_none() && envelope.method.as_deref() == Some(CANCELLED) {
            return self.cancel(parts, body, envelope).await;
        }
        // A response to a question that another process asked: the balancer does not know who did.
        if in_session
            && envelope.method.is_none()
            && !parts.headers.contains_key(FORWARDED)
            && let Some(forward) = &self.forward
            && let Some((instance, address)) = self.served.asked_by(&parts.headers).await
        {
            let handed = forward.hand(&parts, body.clone(), &address, &instance);
            return match self.unless_cut(handed).await {
                Ok(answer) => answer,
                // It comes again; what a question is answered twice with is dropped by whoever asked it.
                Err(Lost::Unreached | Lost::Unknown) => unavailable(id.unwrap_or("null")),
            };
        }
        let wants_stream = accept::asks_for_stream(&parts.headers);
        // Out of a stream without an end no answer would ever be taken.
        if envelope.method.as_deref() == Some(LISTEN) && !wants_stream {
            let words = format!("`{LISTEN}` is answered by a stream: send Accept: text/event-stream");
            return json(StatusCode::NOT_ACCEPTABLE, error(id, envelope::INVALID_REQUEST, &words));
        }
        parts.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // rmcp hands it on to the handlers with the rest of the head.
        parts.extensions.insert(principal.clone());
        let method = envelope.method.as_deref().unwrap_or("response");
        let started = std::time::Instant::now();
        let answer = if in_session && needs_session(method) {
            self.served.post(parts, body.clone(), envelope, wants_stream).await
        } else {
            parts.headers.remove(SESSION_ID);
            let answer = self.without_sessions.handle(Request::from_parts(parts, Full::new(body.clone()))).await;
            let mut answer = in_json(answer, id).await;
            if method == "tools/list" && self.authenticator.resource().is_some() {
                answer = self.with_security_schemes(answer).await;
            }
            if method == LISTEN && is_stream(answer.headers()) {
                answer.extensions_mut().insert(Endless);
            }
            answer
        };
        if method != "tools/call" && id.is_some() {
            self.server.operations.other.record(started.elapsed(), crate::telemetry::metrics::Outcome::Ok);
        }
        match id {
            Some(id) if !wants_stream && is_stream(answer.headers()) => without_stream(answer, id).await,
            _ => answer,
        }
    }

    /// Puts into rmcp's list of tools what its type has no member for, so that both paths list the same.
    async fn with_security_schemes(&self, answer: Answer) -> Answer {
        let (mut head, body) = answer.into_parts();
        let body = axum::body::to_bytes(body.into_body(), usize::MAX).await.unwrap_or_default();
        let Ok(mut message) = serde_json::from_slice::<serde_json::Value>(&body) else {
            return Response::from_parts(head, Payload::Bytes(body));
        };
        if let Some(tools) = message.pointer_mut("/result/tools") {
            *tools = self.server.tools.iter().map(super::listed).collect();
        }
        head.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(head, Payload::Bytes(message.to_string().into()))
    }

    /// GET opens a session's own stream, DELETE ends the session. Both are of older revisions.
    async fn stream_or_end(&self, mut parts: Parts, principal: &Principal) -> Answer {
        let named = parts.headers.contains_key(SESSION_ID);
        if named
            && let Some(Lean::Answer { status, body, .. }) =
                lean::unknown_session(&self.server, &parts.headers, principal, "null").await
        {
            return answered(status, body);
        }
        parts.extensions.insert(principal.clone());
        if parts.method == Method::GET {
            if !accept::accepts_stream(&parts.headers) {
                let message = "a stream is sent as text/event-stream, which `Accept` does not allow";
                return json(StatusCode::NOT_ACCEPTABLE, error(None, envelope::INVALID_REQUEST, message));
            }
            // rmcp looks for the name of the type, and accepts no wildcard and no silence.
            parts.headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
            // A call that is to be made again is made where its conversation stays.
            if let Some(request) = self.served.orphaned(&parts.headers).await
                && let Ok(envelope) = Envelope::read(request.as_bytes())
                && let Some(answer) = self.pinned(&parts, principal, &Bytes::new(), &envelope).await
            {
                return answer;
            }
            return self.served.stream(parts).await;
        }
        if named && !self.served.is_served(&parts.headers).await {
            if let Some(session) = lean::session_id(&parts.headers) {
                self.server.sessions.close(session).await;
            }
            return without_content();
        }
        let answer = self.served.ask(Request::from_parts(parts, Full::default())).await;
        // rmcp says 202, which clients in Python log as a failure.
        if answer.status() == StatusCode::ACCEPTED {
            return without_content();
        }
        in_json(answer, None).await
    }

    /// A client takes a request of its session back: the newest that has the id it names. Nothing is answered, whatever it
    /// reached (MCP, cancellation).
    async fn cancel(&self, parts: Parts, body: &Bytes, envelope: &Envelope<'_>) -> Answer {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, rename = "requestId")]
            id: &'a RawValue,
        }
        let named = envelope.params.and_then(envelope::object::<Params<'_>>);
        let (Some(named), Some(session)) = (named, lean::session_id(&parts.headers)) else { return accepted() };
        if !self.served.cancel(session, named.id.get()).await
            && !parts.headers.contains_key(FORWARDED)
            && let Some(forward) = &self.forward
            && let Some((instance, address)) = self.served.holder(&parts.headers, named.id.get()).await
        {
            // One that gets lost is like one that came too late.
            let _ = self.unless_cut(forward.hand(&parts, body.clone(), &address, &instance)).await;
        }
        accepted()
    }
}

/// An answer that keeps its caller's turn until its last byte is out.
fn held(limits: &Limits, mut answer: Answer, turn: Option<Turn>) -> Answer {
    let Some(mut turn) = turn else { return answer };
    // The other messages of a batch end with the first one.
    if let Some(more) = answer.extensions_mut().remove::<Arc<Turn>>().and_then(Arc::into_inner) {
        turn.absorb(more);
    }
    if answer.extensions().get::<Endless>().is_some()
        && let Err(refused) = limits.becomes_stream(&mut turn)
    {
        return limits.refuse(refused, None);
    }
    answer.extensions_mut().insert(Arc::new(turn));
    answer
}

/// Whether the client says that it speaks a revision without sessions.
fn is_stateless(headers: &HeaderMap) -> bool {
    headers.get(lean::PROTOCOL_VERSION).is_some_and(|version| version.as_bytes() >= &b"2026"[..])
}

/// An error that calling again is worthwhile after.
fn retryable(id: &str, words: &str) -> Answer {
    json(StatusCode::OK, envelope::error(Some(id), envelope::INTERNAL_ERROR, words, Some(r#"{"retryable":true}"#)))
}

/// Whether a method, or a client's answer to a question of ours, reaches what a session's service holds. The others are
/// answered as if there were no session, which needs no service and no stream.
fn needs_session(method: &str) -> bool {
    const WITHOUT: [&str; 7] = [
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "completion/complete",
        "ping",
    ];
    !WITHOUT.contains(&method)
}

/// An answer that rmcp has no part in.
fn answered(status: StatusCode, body: Payload) -> Answer {
    let mut answer = json(status, body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

/// The database is away for a moment. The client should come again, and keep its session.
pub(crate) fn unavailable(id: &str) -> Answer {
    answered(StatusCode::SERVICE_UNAVAILABLE, lean::not_looked_up(id))
}

fn error(id: Option<&str>, code: i32, words: &str) -> Bytes {
    envelope::error(id, code, words, None)
}

fn accepted() -> Answer {
    empty(StatusCode::ACCEPTED)
}

/// The response to the `DELETE` of a session.
fn without_content() -> Answer {
    empty(StatusCode::NO_CONTENT)
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Payload::Bytes(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// Drops the mark that editors and Windows programs put before UTF-8. RFC 8259 lets a parser ignore it.
fn without_byte_order_mark(mut body: Bytes) -> Bytes {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if body.starts_with(MARK) {
        body.advance(MARK.len());
    }
    body
}

/// A missing content type is taken for JSON; another one is a form or a file, and perhaps a browser that was tricked.
fn says_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return true };
    kind == "application/json"
        || kind
            .to_str()
            .is_ok_and(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json"))
}

pub(crate) fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// The one answer out of a stream, for a client that did not ask for a stream. What came before it is dropped: progress
/// and log lines, which such a client has no use for.
async fn without_stream(answer: Answer, id: &str) -> Answer {
    let Payload::Body(mut body) = answer.into_body() else { unreachable!("a stream is no finished body") };
    let mut seen = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        seen.extend_from_slice(data);
        while let Some(end) = memchr::memmem::find(&seen, b"\n\n") {
            let event: Vec<u8> = seen.drain(..end + 2).collect();
            if let Some(message) = answer_in(&event, id) {
                return json(StatusCode::OK, message);
            }
        }
    }
    json(
        StatusCode::OK,
        envelope::error(Some(id), envelope::INTERNAL_ERROR, "the server is going away; try again", Some(r#"{"retryable":true}"#)),
    )
}

fn answer_in(event: &[u8], id: &str) -> Option<Bytes> {
    let data = event.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data:")).collect::<Vec<_>>().concat();
    let envelope = Envelope::read(data.trim_ascii()).ok()?;
    (envelope.method.is_none() && envelope.id.is_some_and(|answered| answered.get() == id))
        .then(|| Bytes::copy_from_slice(data.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use bg_runtime::{Color, Release};

    use super::*;
    use crate::{App, Tool, resource::Changes, testing};

    #[test]
    fn the_answer_is_found_among_notifications() {
        assert_eq!(answer_in(b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n", "1"), None);
        assert_eq!(answer_in(b"data: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n", "1"), None);
        assert_eq!(
            answer_in(b"id: 1/2\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n", "1").unwrap(),
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}"
        );
    }

    /// By a message that the door did not read as a call, or by a stream that is read on.
    #[tokio::test]
    async fn a_tool_does_not_run_beyond_a_token_whichever_way_its_call_came() {
        let write = Tool::new("write", async || "written".to_owned()).describe("Writes.").additive().scopes(&["write"]);
        let app = App::new(Release::new(Color::Blue, "1.0.0", "test").unwrap(), ()).tool(write);
        let running = testing::start(app).await.unwrap();
        let message = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write"}}"#;
        let envelope = Envelope::read(message.as_bytes()).unwrap();
        for (scopes, words) in
            [("read", "this needs the scope write, which the access token does not have"), ("read write", "written")]
        {
            let caller = Principal::with_token("ada", scopes, std::time::Instant::now());
            let answer = lean::answer(&running.running().door().server, &HeaderMap::new(), &caller, &envelope).await;
            let Lean::Answer { body, .. } = answer else { panic!("the lean path knows a call") };
            let body = axum::body::to_bytes(body.into_body(), usize::MAX).await.unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(answer["result"]["content"][0]["text"], words, "{answer}");
            assert_eq!(answer["result"]["isError"], scopes == "read");
        }
    }

    /// serde would take the values of a list for the members of an object, and a tool would run by where its name stands.
    #[tokio::test]
    async fn a_list_of_values_is_no_object_wherever_one_is_wanted() {
        let greet = Tool::new("greet", async || "hello".to_owned()).describe("Greets.").read_only();
        let app = App::new(Release::new(Color::Blue, "1.0.0", "test").unwrap(), ()).tool(greet);
        let running = testing::start(app).await.unwrap();
        let call = |method: &str, params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        for (body, code) in [
            (call("tools/call", r#"["greet",{}]"#), -32602),
            (call("tools/call", r#"{"name":"greet","arguments":[]}"#), -32602),
            (call("tools/call", r#"{"name":"greet","_meta":["2026-07-28",{}]}"#), -32602),
            (call("prompts/get", r#"["letter"]"#), -32602),
            (call("initialize", r#"[null,"2025-11-25",{},{"name":"a","version":"1"}]"#), -32602),
            (call("no/such/method", "[1]"), -32602),
            (r#"[["2.0",1,"ping"]]"#.to_owned(), -32600),
            // Neither do rmcp's words for a media type come of it.
            (r#"{"jsonrpc":"2.0","id":1,"result":{"a":1e999}}"#.to_owned(), -32600),
        ] {
            let answer = running.post(&body).await.body;
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
            let answer = answer.get(0).unwrap_or(&answer);
            assert_eq!(answer["error"]["code"], code, "{body}: {answer}");
        }
    }

    #[tokio::test]
    async fn who_listens_and_takes_no_stream_is_told_so_and_does_not_wait() {
        let app = App::new(Release::new(Color::Blue, "1.0.0", "test").unwrap(), ()).subscriptions(Changes::new());
        let running = testing::start(app).await.unwrap();
        let meta = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
        let params = format!(r#"{{"notifications":{{"resourceSubscriptions":["test://a"]}},"_meta":{meta}}}"#);
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{LISTEN}","params":{params}}}"#);
        let head = format!(
            "POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\naccept: application/json\r\ncontent-length: {}\r\n\
             mcp-protocol-version: 2026-07-28\r\nmcp-method: {LISTEN}",
            body.len()
        );
        let asked = testing::exchange(running.running().address(), &head, &body);
        let answer = tokio::time::timeout(std::time::Duration::from_secs(10), asked).await.expect("it is answered");
        assert_eq!(answer.status, 406, "{}", answer.body);
        assert!(answer.body.contains("Accept: text/event-stream") && answer.body.contains(r#""id":1"#), "{}", answer.body);
    }

    #[test]
    fn forms_and_files_are_no_json() {
        let says =
            |kind: &'static str| says_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]));
        assert!(says_json(&HeaderMap::new()));
        assert!(says("application/json") && says("Application/JSON; charset=utf-8"));
        assert!(!says("text/plain") && !says("application/x-www-form-urlencoded") && !says("multipart/form-data"));
    }
}
