//! The lean path: a stateless JSON answer straight from the bytes of the request, for what clients ask all day.
//!
//! It answers only what it fully recognizes, and has no effect before it has recognized it. Everything else is
//! [`Lean::Elsewhere`]: rmcp answers it, with rmcp's rules and words.

use std::{
    borrow::Cow,
    sync::{OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use rmcp::model::{ErrorCode, InitializeRequestParams, ProtocolVersion};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    Route, Server, Shared,
    envelope::{self, Envelope},
    questions,
};
use crate::{
    audit,
    authentication::rejections::Reason,
    error::{Chain, Kind, ToolError},
    extract::{Call, Principal},
    http::body::Payload,
    reply::{Writer, Written},
    sessions::{Found, LONGEST_INITIALIZE},
    telemetry::{context, metrics::Outcome},
    tool,
};

pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(crate) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Room for an ordinary tool's answer. Growing a buffer copies what is in it, and a page of appointments is about 5 KB.
const ANSWER_CAPACITY: usize = 8 * 1024;

/// The session that a request names. From 2026-07-28 on it means nothing.
pub(super) fn session_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION_ID)?.to_str().ok()
}

/// Removes a session id that is empty or blank, which gateways send for a client without a session.
pub(super) fn drop_blank_session_id(headers: &mut HeaderMap) {
    let mut ids = headers.get_all(SESSION_ID).iter().peekable();
    if ids.peek().is_some() && ids.all(|id| id.as_bytes().trim_ascii().is_empty()) {
        headers.remove(SESSION_ID);
    }
}

/// How long an answer waits for what its conversation keeps of it. Shorter than the close of a process that is cut.
const REMEMBERED_WITHIN: Duration = Duration::from_secs(1);

/// What the lean path made of a request.
#[derive(Debug)]
pub(crate) enum Lean {
    /// The whole answer, and the session it opened.
    Answer { status: StatusCode, body: Payload, session: Option<Uuid> },
    /// Nothing was done; rmcp answers.
    Elsewhere,
}

/// The two lives a request can be part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Era {
    /// Up to 2025-11-25: `initialize`, and a session perhaps.
    Handshake,
    /// From 2026-07-28: each request says for itself who asks.
    Stateless,
}

/// The members of `params` that any method here looks at.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Params<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) arguments: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cursor: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "inputResponses")]
    input_responses: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "requestState")]
    request_state: Option<&'a RawValue>,
    #[serde(borrow, default)]
    task: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    pub(super) meta: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Option<&'a RawValue>,
}

/// Answers a request, if it is one the lean path recognizes.
pub(crate) async fn answer(server: &Server, headers: &HeaderMap, principal: &Principal, envelope: &Envelope<'_>) -> Lean {
    let (Some(id), Some(method)) = (envelope.id, envelope.method.as_deref()) else { return Lean::Elsewhere };
    let id = id.get();
    if method == "initialize" {
        return initialize(server, headers, principal, id, envelope.params).await;
    }
    if !matches!(method, "tools/call" | "tools/list" | "ping" | "server/discover") {
        return Lean::Elsewhere;
    }
    let params = match envelope.params.map(envelope::object::<Params<'_>>) {
        None => Params::default(),
        Some(Some(params)) => params,
        Some(None) => return Lean::Elsewhere,
    };
    let Some(era) = era(headers, method, &params) else { return Lean::Elsewhere };
    if era == Era::Handshake
        && let Some(refusal) = unknown_session(server, headers, principal, id).await
    {
        return refusal;
    }
    let started = Instant::now();
    let (operation, result) = match (method, era) {
        ("tools/call", _) => return call(server, headers, principal, era, id, &params, started).await,
        ("tools/list", _) if params.cursor.is_some() => return Lean::Elsewhere,
        ("tools/list", _) if server.config.capabilities.tools.is_none() => return Lean::Elsewhere,
        ("tools/list", Era::Handshake) => (&server.operations.list, &server.encoded.tools),
        ("tools/list", Era::Stateless) => (&server.operations.list, &server.encoded.tools_2026),
        ("server/discover", Era::Stateless) => (&server.operations.discover, &server.encoded.discover),
        ("ping", Era::Handshake) => {
            server.operations.ping.record(started.elapsed(), Outcome::Ok);
            return ok(envelope::result(id, &Bytes::from_static(b"{}")));
        }
        _ => return Lean::Elsewhere,
    };
    let body = envelope::result(id, result);
    operation.record(started.elapsed(), Outcome::Ok);
    ok(body)
}

/// Which life the request is part of, when its headers and its `_meta` agree on it in every point. `None` is a question
/// for rmcp, which knows the words for each disagreement.
fn era(headers: &HeaderMap, method: &str, params: &Params<'_>) -> Option<Era> {
    let header = headers.get(PROTOCOL_VERSION).map(http::HeaderValue::as_bytes);
    let meta = match params.meta {
        Some(meta) => envelope::object::<Meta<'_>>(meta)?,
        None => Meta::default(),
    };
    let Some(version) = meta.version else {
        let handshake = header.is_none_or(|header| HANDSHAKE_VERSIONS.iter().any(|version| version.as_bytes() == header));
        return handshake.then_some(Era::Handshake);
    };
    let stateless = version == STATELESS_VERSION
        && header == Some(STATELESS_VERSION.as_bytes())
        && meta.capabilities.is_some_and(|capabilities| capabilities.get().starts_with('{'))
        && only(headers, &METHOD) == Some(method.as_bytes())
        && match method {
            "tools/call" => only(headers, &NAME) == params.name.as_deref().map(str::as_bytes),
            _ => !headers.contains_key(NAME),
        };
    stateless.then_some(Era::Stateless)
}

const HANDSHAKE_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
const STATELESS_VERSION: &str = "2026-07-28";

/// The value of a header that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value.as_bytes())
}

/// The refusal of a request that names a session we do not have. 404 is what tells a client to initialize again, so it is
/// never said for a database that is away.
pub(crate) async fn unknown_session(server: &Server, headers: &HeaderMap, principal: &Principal, id: &str) -> Option<Lean> {
    let session = headers.get(SESSION_ID)?;
    let found = match session.to_str() {
        Ok(session) => server.sessions.touch(session, principal).await,
        Err(_) => Found::No,
    };
    let (status, body) = match found {
        Found::Open => return None,
        Found::No => {
            let message = "session not found; initialize again";
            (StatusCode::NOT_FOUND, envelope::error(Some(id), envelope::SESSION_NOT_FOUND, message, None).into())
        }
        Found::Unknown => (StatusCode::SERVICE_UNAVAILABLE, not_looked_up(id)),
    };
    Some(Lean::Answer { status, body, session: None })
}

pub(crate) fn not_looked_up(id: &str) -> Payload {
    let message = "the session cannot be looked up at the moment; try again";
    envelope::error(Some(id), envelope::INTERNAL_ERROR, message, Some(r#"{"retryable":true}"#)).into()
}

/// Opens a session. It is nothing but what the client said here; see [`crate::sessions`].
async fn initialize(server: &Server, headers: &HeaderMap, principal: &Principal, id: &str, params: Option<&RawValue>) -> Lean {
    let started = Instant::now();
    if headers.contains_key(SESSION_ID) || headers.get(METHOD).is_some_and(|method| method != "initialize") {
        return Lean::Elsewhere;
    }
    let Some(params) = params else { return Lean::Elsewhere };
    if params.get().len() > LONGEST_INITIALIZE {
        let words = format!("the parameters of `initialize` have at most {LONGEST_INITIALIZE} bytes");
        let body = envelope::error(Some(id), envelope::INVALID_PARAMS, &words, None);
        return Lean::Answer { status: StatusCode::BAD_REQUEST, body: body.into(), session: None };
    }
    // Read by rmcp's own type, because rmcp will read it again when it restores the session.
    let Some(mut parameters) = envelope::object::<InitializeRequestParams>(params) else { return Lean::Elsewhere };
    let asked = parameters.protocol_version.as_str();
    if headers.get(PROTOCOL_VERSION).is_some_and(|header| header != asked) {
        return Lean::Elsewhere;
    }
    let version = HANDSHAKE_VERSIONS
        .into_iter()
        .find(|version| *version == asked)
        .unwrap_or(ProtocolVersion::LATEST_WITH_INITIALIZE.as_str());
    let mut out = envelope::begin(id, server.encoded.initialize.len() + 48);
    out.extend_from_slice(b"{\"protocolVersion\":\"");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(server.encoded.initialize.as_bytes());
    out.extend_from_slice(b"}}");
    // A build that speaks other revisions must not choose another one when the session comes to it.
    let session = if asked == version {
        server.sessions.open(params.get(), principal).await
    } else {
        parameters.protocol_version = ProtocolVersion::LATEST_WITH_INITIALIZE;
        let agreed = serde_json::to_string(&parameters).expect("parameters that were read can be written");
        server.sessions.open(&agreed, principal).await
    };
    server.operations.initialize.record(started.elapsed(), Outcome::Ok);
    Lean::Answer { status: StatusCode::OK, body: Bytes::from(out).into(), session: Some(session) }
}

async fn call(
    server: &Server,
    headers: &HeaderMap,
    principal: &Principal,
    era: Era,
    id: &str,
    params: &Params<'_>,
    started: Instant,
) -> Lean {
    // A client that answers a request for input, or wants a task, speaks to rmcp.
    if params.input_responses.is_some() || params.request_state.is_some() || params.task.is_some() {
        return Lean::Elsewhere;
    }
    let Some((name, route)) = params.name.as_deref().and_then(|name| server.routes.get_key_value(name)) else {
        return Lean::Elsewhere;
    };
    let arguments = params.arguments.map_or("{}", RawValue::get);
    if route.needs_peer || !arguments.starts_with('{') {
        return Lean::Elsewhere;
    }
    let session = session_id(headers).filter(|_| era == Era::Handshake);
    let call = Call {
        tool: name,
        arguments,
        meta: params.meta,
        principal,
        release: &server.release,
        request_states: &server.request_states,
        session,
        takes_handle: route.takes_handle,
        shape: &route.shape,
        acts: route.acts,
        ignored: OnceLock::new(),
        audit: server.audit(route, principal, name),
        named: OnceLock::new(),
        begun: OnceLock::new(),
        peer: None,
    };
    let meta = if era == Era::Stateless { server.encoded.meta_2026 } else { b"" };
    let origin = Origin { headers, id };
    let written = run(
        server,
        &origin,
        name,
        route,
        &call,
        || Writer { out: envelope::begin(id, ANSWER_CAPACITY), meta, note: None },
        started,
    )
    .await;
    ok(match written {
        Ok(Written::Open { mut out, .. }) => {
            if era == Era::Stateless {
                out.extend_from_slice(b",\"resultType\":\"complete\"");
            }
            out.extend_from_slice(b"}}");
            Bytes::from(out)
        }
        Ok(Written::Response(_)) => unreachable!("a tool with such a result is called through rmcp"),
        Err(failure) => envelope::error(Some(id), failure.code, &failure.message, failure.data.as_deref()),
    })
}

/// Why a call has no result that a tool wrote.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) message: Cow<'static, str>,
    /// JSON: what a client's retry may go by.
    pub(crate) data: Option<Cow<'static, str>>,
}

impl Failure {
    const INTERNAL: Self = Self::ours(envelope::INTERNAL_ERROR, "internal error; try again");
    /// Nobody reads this one: who cancelled a call does not wait for it (MCP, cancellation).
    const CANCELLED: Self = Self::ours(envelope::INTERNAL_ERROR, "the call was cancelled");
    const TIMEOUT: Self = Self::ours(envelope::REQUEST_TIMEOUT, "the tool took too long and was stopped; try again");
    /// Calling again would give the same.
    const TOO_LARGE: Self = Self {
        code: envelope::INTERNAL_ERROR,
        message: Cow::Borrowed("the tool's answer is larger than may be sent; ask for less"),
        data: Some(Cow::Borrowed(r#"{"retryable":false}"#)),
    };
    const CUT: Self = Self::ours(envelope::INTERNAL_ERROR, "the server is going away and stopped the tool; try again");

    const fn ours(code: i32, message: &'static str) -> Self {
        Self { code, message: Cow::Borrowed(message), data: Some(Cow::Borrowed(r#"{"retryable":true}"#)) }
    }
}

impl From<rmcp::ErrorData> for Failure {
    fn from(error: rmcp::ErrorData) -> Self {
        Self { code: error.code.0, message: error.message, data: error.data.map(|data| data.to_string().into()) }
    }
}

/// Where a call comes from, for its trace.
pub(crate) struct Origin<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) id: &'a str,
}

/// Runs a tool, inside a span when spans go anywhere.
pub(crate) async fn run(
    server: &Server,
    origin: &Origin<'_>,
    name: &str,
    route: &Route,
    call: &Call<'_>,
    begin: impl Fn() -> Writer,
    started: Instant,
) -> Result<Written, Failure> {
    if !context::enabled() {
        return attempt(server, origin.id, name, route, call, begin, started).await.0;
    }
    let text = |name| origin.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let meta: Option<serde_json::Map<_, _>> = call.meta.and_then(|meta| serde_json::from_str(meta.get()).ok());
    let meta = meta.as_ref().map(context::Meta);
    let remote = context::Remote::extract(origin.headers, meta.as_ref().map(|meta| meta as _));
    let described = context::Call {
        method: "tools/call",
        tool: Some(name),
        request_id: Some(origin.id),
        protocol_version: text(PROTOCOL_VERSION),
        session_id: text(SESSION_ID),
    };
    let span = context::operation_span(&described, remote);
    let (written, outcome) = attempt(server, origin.id, name, route, call, begin, started).instrument(span.clone()).await;
    context::finish(&span, outcome);
    written
}

/// Runs a tool, on either path: arguments refused, the tool's own error, its deadline, the end of the process and a panic
/// all become what the client may see. What went wrong on our side is logged here, once.
async fn attempt(
    server: &Server,
    id: &str,
    name: &str,
    route: &Route,
    call: &Call<'_>,
    begin: impl Fn() -> Writer,
    started: Instant,
) -> (Result<Written, Failure>, Outcome) {
    let ended = |result, outcome| {
        let elapsed = started.elapsed();
        route.operation.record(elapsed, outcome);
        if let Some(record) = &call.audit {
            record.end(audit::word(outcome));
        }
        tracing::debug!(tool.name = name, duration_us = elapsed.as_micros(), outcome = ?outcome, "called {name}");
        (result, outcome)
    };
    let mistake = |words: &str| ended(Ok(begin().with_note(call.note()).plain(words, true)), Outcome::ToolError);
    if has_nul(call.arguments) {
        return mistake("the arguments hold the NUL character (\\u0000), which no text here may");
    }
    // The door says it better, for whatever it reads as a call. Here is what every call comes by.
    if let Some(words) = route.beyond(call.principal) {
        server.rejections.count(Reason::InsufficientScope, Some(name));
        return mistake(&words);
    }
    // Clients keep the list of tools for days, so a tool that is switched off stays listed and says so itself.
    if server.is_switched_off(route, call) {
        return mistake("this tool is switched off for the moment; do without it, or try again later");
    }
    let running = match (route.run)(call, begin()) {
        Ok(running) => running,
        Err(rejection) => return mistake(&rejection.0),
    };
    if let Some(record) = &call.audit {
        record.begin();
    }
    let outcome = tokio::select! {
        biased;
        outcome = tokio::time::timeout(server.call_timeout, tool::guarded(running)) => outcome,
        () = cancelled(server, id, call) => return ended(Err(Failure::CANCELLED), Outcome::Error("cancelled")),
        () = server.lifecycle.cut().cancelled() => return ended(Err(Failure::CUT), Outcome::Error("cut")),
    };
    let outcome =
        outcome.map(|outcome| outcome.map_err(ToolError::into_kind).and_then(|written| questions::check(written, call)));
    // A question is no success yet: the boundary that a call of the tool reaches is not reached.
    let has_succeeded = matches!(&outcome, Ok(Ok(written)) if !written.is_error() && !written.is_question());
    if let (Ok(Ok(written)), Some(record)) = (&outcome, &call.audit)
        && written.is_question()
    {
        record.end("input_required");
    }
    // The call was made and has its answer; a database that is slow now must not withhold it.
    if tokio::time::timeout(REMEMBERED_WITHIN, remember(server, name, route, call, has_succeeded)).await.is_err() {
        tracing::warn!(tool.name = name, "what a conversation keeps of a call took too long");
    }
    match outcome {
        Ok(Ok(written)) if server.response_limit > 0 && written.is_larger_than(server.response_limit) => {
            let most = server.response_limit;
            tracing::error!(tool.name = name, "the answer of tool {name} is larger than {most} bytes (RESPONSE_LIMIT_BYTES)");
            ended(Err(Failure::TOO_LARGE), Outcome::Error("too_large"))
        }
        Ok(Ok(written)) => {
            let outcome = if written.is_error() { Outcome::ToolError } else { Outcome::Ok };
            ended(Ok(written), outcome)
        }
        Ok(Err(Kind::Caller(words))) => mistake(&words),
        Ok(Err(Kind::Protocol(error))) => {
            let code = match error.code {
                ErrorCode::INVALID_PARAMS => "-32602",
                ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY => "-32021",
                _ => "_OTHER",
            };
            ended(Err((*error).into()), Outcome::Error(code))
        }
        Ok(Err(Kind::Internal(source))) => {
            tracing::error!(tool.name = name, error = %Chain(source.as_ref()), "tool {name} failed");
            ended(Err(Failure::INTERNAL), Outcome::Error("-32603"))
        }
        Err(_) => {
            tracing::error!(tool.name = name, "tool {name} was stopped after {:?}", server.call_timeout);
            ended(Err(Failure::TIMEOUT), Outcome::Error("timeout"))
        }
    }
}

/// What a conversation keeps of a call that was answered: a line, that it has begun here and stays, or that it has reached
/// a boundary. Whoever named its conversation was told at the door where it stays.
async fn remember(server: &Server, name: &str, route: &Route, call: &Call<'_>, has_succeeded: bool) {
    let Shared { calls, pins, .. } = &server.shared;
    if calls.is_none() && pins.is_none() {
        return;
    }
    let Some(conversation) = call.conversation() else { return };
    if let Some(calls) = calls
        && !conversation.is_told.load(Ordering::Relaxed)
    {
        calls.answered(&conversation.key, name);
    }
    let (Some(pins), true) = (pins, has_succeeded) else { return };
    if route.pinning != tool::Pinning::Auto
        && call.begun.get().is_some()
        && let Err(failure) = pins.place(&conversation.key, route.pinning).await
    {
        tracing::warn!(error = %failure, "a conversation that should stay here may move at its next call: {failure}");
    }
    if let Some(boundary) = route.reaches
        && let Err(failure) = pins.release(&conversation.key, boundary).await
    {
        tracing::warn!(error = %failure, "a conversation stays where it is, though it has reached {boundary}: {failure}");
    }
}

/// Resolves when the client cancels the call. A client without a session does that by closing its connection, which drops the
/// call.
async fn cancelled(server: &Server, id: &str, call: &Call<'_>) {
    match (&call.peer, call.session) {
        (Some(peer), _) => peer.context.ct.cancelled().await,
        (None, Some(session)) => server.in_flight.cancelled(session, id).await,
        (None, None) => std::future::pending().await,
    }
}

/// Whether a JSON text holds an escaped NUL: the escape, after an even number of backslashes. PostgreSQL stores no NUL.
fn has_nul(json: &str) -> bool {
    let bytes = json.as_bytes();
    memchr::memmem::find_iter(bytes, b"\\u0000")
        .any(|at| bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0)
}

fn ok(body: impl Into<Payload>) -> Lean {
    Lean::Answer { status: StatusCode::OK, body: body.into(), session: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revisions_are_those_that_rmcp_speaks() {
        let known: Vec<_> = HANDSHAKE_VERSIONS.into_iter().chain([STATELESS_VERSION]).collect();
        assert_eq!(known, ProtocolVersion::KNOWN_VERSIONS.iter().map(ProtocolVersion::as_str).collect::<Vec<_>>());
        assert_eq!(HANDSHAKE_VERSIONS.last(), Some(&ProtocolVersion::LATEST_WITH_INITIALIZE.as_str()));
    }

    #[test]
    fn only_a_real_nul_is_one() {
        assert!(has_nul(r#"{"a":"\u0000"}"#));
        assert!(has_nul(r#"{"a":"\\\u0000"}"#));
        assert!(!has_nul(r#"{"a":"\\u0000"}"#));
        assert!(!has_nul(r#"{"a":"\u0001"}"#));
    }

    #[test]
    fn headers_and_meta_must_agree_on_the_era() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value))).collect()
        };
        let of = |pairs: &[(&'static str, &'static str)], params: &str| {
            era(&headers(pairs), "tools/call", &serde_json::from_str(params).unwrap())
        };
        let meta = r#"{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}"#;
        let right = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "t")];
        assert_eq!(of(&[], r#"{"name":"t"}"#), Some(Era::Handshake));
        assert_eq!(of(&[("mcp-protocol-version", "2025-11-25")], r#"{"name":"t"}"#), Some(Era::Handshake));
        assert_eq!(of(&right, meta), Some(Era::Stateless));
        assert_eq!(of(&right, r#"{"name":"t"}"#), None, "the header promises a _meta");
        assert_eq!(of(&right[1..], meta), None, "no version header");
        assert_eq!(of(&right[..2], meta), None, "no name header");
        assert_eq!(of(&[right[0], right[1], ("mcp-name", "other")], meta), None);
        assert_eq!(of(&[right[0], right[1], right[2], ("mcp-name", "u")], meta), None, "two names");
        assert_eq!(of(&[("mcp-protocol-version", "1999-01-01")], r#"{"name":"t"}"#), None);
    }
}
