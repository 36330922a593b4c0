//! What is done around every answer: let it in unless it is too much, name the release, give connections up, hold the
//! admission until the last byte. `/mcp` is answered from here directly unless the application put layers around its doors.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bg_runtime::{
    Lifecycle, Release,
    lifecycle::{Stage, Status, Work},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt;

use super::{
    accept,
    body::{Held, Lasting, Payload, json},
    connection::{Answering, Counted, Patience, Watch},
    connections::Connections,
    listener::{self, Answer},
    origin::{Allowed, share},
};
use crate::{
    limits::{Limit, Limits, Peer, Turn},
    mcp::{
        door::{Door, Endless, is_stream},
        envelope,
    },
};

/// The color that answered.
pub(crate) const COLOR: HeaderName = HeaderName::from_static("release-color");
/// The build that answered: `version+commit`.
pub(crate) const BUILD: HeaderName = HeaderName::from_static("release-build");
/// Says of a process that refuses everything that it does so because it has stopped: nothing was done, and nothing will be.
pub(crate) const STAGE: HeaderName = HeaderName::from_static("release-stage");

/// The one door that is shed: everything behind it can be asked again.
const MCP: &str = "/mcp";
/// The same, as some clients and proxies write it.
const MCP_WITH_SLASH: &str = "/mcp/";
/// What every page may read.
const WELL_KNOWN: &str = "/.well-known/";

/// Browsers that were here over https come over https from then on, for a year. Other hosts of the domain are not ours to speak
/// for, so they are not included.
const HTTPS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// How often, and how many times, a call looks for the room that connections make which were given up for it.
const ROOM_INTERVAL: Duration = Duration::from_millis(5);
const ROOM_ATTEMPTS: usize = 10;

/// The public side of a process.
pub(crate) struct Edge {
    lifecycle: Lifecycle,
    limits: Arc<Limits>,
    allowed: Arc<Allowed>,
    connections: Arc<Connections>,
    color: HeaderValue,
    build: HeaderValue,
    /// Set when no layer stands between a request and `/mcp`.
    door: Option<Arc<Door>>,
    router: Router,
}

impl Edge {
    pub(crate) fn new(
        lifecycle: Lifecycle,
        (limits, connections): (Arc<Limits>, Arc<Connections>),
        allowed: Arc<Allowed>,
        release: &Release,
        door: Option<Arc<Door>>,
        router: Router,
    ) -> Self {
        let build = release.build();
        Self {
            lifecycle,
            limits,
            allowed,
            connections,
            color: HeaderValue::from_static(release.color.as_str()),
            build: HeaderValue::try_from(build).expect("a release is checked to fit into a header"),
            door,
            router,
        }
    }

    /// A connection that goes through no socket.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        Watch::new(std::net::Ipv4Addr::LOCALHOST.into(), false, self.limits.clone())
    }

    /// Serves a connection that comes through no socket, until it ends.
    pub(crate) async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        const PATIENCE: Patience =
            Patience { headers: Duration::from_secs(10), idle: Duration::from_secs(75), write: Duration::from_secs(30) };
        if let Some(entered) = self.connections.enter(std::net::Ipv4Addr::LOCALHOST.into()) {
            let lifecycle = self.lifecycle.clone();
            listener::connection(stream, entered, self, lifecycle, PATIENCE).await;
        }
    }

    async fn route<B>(&self, mut request: Request<B>, is_mcp: bool, watch: &Watch) -> Response<Payload>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if is_mcp && self.limits.asks_for_addresses() {
            request.extensions_mut().insert(Peer(watch.peer()));
        }
        if let Some(door) = &self.door
            && is_mcp
        {
            return door.answer(request).await;
        }
        let asked = Asked::new(&request);
        let answer = match self.router.clone().oneshot(request.map(Body::new)).await {
            Ok(answer) => answer.map(Payload::Body),
            Err(never) => match never {},
        };
        match asked {
            Some(asked) if matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => {
                self.answer_unrouted(&asked)
            }
            _ => answer,
        }
    }

    /// Answers what no route answers: a browser that asks before it sends, and a client that was given the address of the server
    /// for the address of its endpoint.
    fn answer_unrouted(&self, asked: &Asked) -> Response<Payload> {
        if asked.method == Method::OPTIONS {
            return match asked.uri.path().starts_with(WELL_KNOWN) {
                true => self.allowed.open_preflight(&asked.headers),
                false => self.allowed.preflight(&asked.uri, &asked.headers),
            };
        }
        let endpoint = self.allowed.endpoint();
        let message = format!("the MCP endpoint of this server is {endpoint}");
        let is_read = matches!(asked.method, Method::GET | Method::HEAD);
        let mut answer = if !is_read || accept::asks_for_stream(&asked.headers) {
            let data = serde_json::json!({ "endpoint": endpoint }).to_string();
            json(StatusCode::NOT_FOUND, envelope::error(None, envelope::INVALID_REQUEST, &message, Some(&data)))
        } else if accept::asks_for_json(&asked.headers) {
            json(StatusCode::OK, Bytes::from(serde_json::json!({ "message": message, "endpoint": endpoint }).to_string()))
        } else {
            let mut answer = Response::new(Payload::Bytes(format!("{message}\n").into()));
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            answer
        };
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }

    /// Answers one request, wherever its body comes from.
    pub(crate) async fn respond<B>(&self, mut request: Request<B>, mut answering: Answering) -> Response<Held>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let one = request.version() < Version::HTTP_2;
        let is_get = request.method() == Method::GET;
        if request.uri().path() == MCP_WITH_SLASH {
            *request.uri_mut() = without_slash(request.uri());
        }
        let (is_mcp, is_extra) = (request.uri().path() == MCP, answering.watch().is_extra());
        // A browser shows a page nothing of a response whose preflight was refused, so those are always answered.
        let is_preflight = request.method() == Method::OPTIONS;
        let is_call = is_mcp && !is_preflight;
        let reader = self.allowed.reader(request.uri(), request.headers());
        // A request to another endpoint holds no slot of a call, and is not shed: it is a probe's, or costs little.
        let refused = if is_call && !is_extra {
            self.refuses_call(&mut answering).await
        } else {
            answering.count_as(Counted::Other);
            None
        };
        if self.limits.has_many_others() {
            self.connections.give_up_stalled();
        }
        let (answer, admission) = match (self.lifecycle.admit(Work::Call), refused) {
            (Ok(_), _) if is_call && is_extra => (self.limits.crowded(), None),
            (Ok(_), Some(limit)) => (self.limits.shed_for(limit), None),
            (Ok(admission), None) => (self.route(request, is_mcp, answering.watch()).await, Some(admission)),
            (Err(_), _) if is_preflight => (self.allowed.preflight(request.uri(), request.headers()), None),
            (Err(_), _) => (stopped(), None),
        };
        let sheds = self.lifecycle.status().sheds();
        let (mut head, payload) = answer.into_parts();
        // An answer that another build gave, to a call that belongs to it, says so itself.
        head.headers.entry(COLOR).or_insert_with(|| self.color.clone());
        head.headers.entry(BUILD).or_insert_with(|| self.build.clone());
        if self.allowed.is_secure() {
            head.headers.insert(header::STRICT_TRANSPORT_SECURITY, HTTPS_ONLY);
        }
        if let Some(reader) = reader {
            share(&mut head.headers, reader);
        }
        if (sheds || is_extra) && one {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let turn = head.extensions.remove::<Arc<Turn>>();
        let body = match admission {
            Some(mut admission) if is_get && is_stream(&head.headers) => {
                admission.become_stream();
                let lifecycle = self.lifecycle.clone();
                let shed = async move {
                    lifecycle.wait_for(Status::sheds).await;
                };
                let lasting = Lasting::new(Some(admission), answering, turn);
                Held::until(payload, lasting, shed, head.extensions.remove(), head.extensions.remove())
            }
            Some(mut admission) => {
                if head.extensions.remove::<Endless>().is_some() {
                    admission.become_stream();
                }
                Held::new(payload, Lasting::new(Some(admission), answering, turn))
            }
            None => Held::new(payload, Lasting::new(None, answering, turn)),
        };
        Response::from_parts(head, body)
    }
}

/// The head of a request that is answered here if no route answers it.
struct Asked {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Asked {
    fn new<B>(request: &Request<B>) -> Option<Self> {
        (request.method() == Method::OPTIONS || request.uri().path() == "/").then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        })
    }
}

/// Writes `/mcp/` as `/mcp`, for everything behind this.
fn without_slash(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    let path = uri.query().map_or_else(|| MCP.to_owned(), |query| format!("{MCP}?{query}"));
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static(MCP))
}

impl Edge {
    /// Counts a call, or gives the limit for which it cannot be begun: a refusal is not counted as a call while it is sent.
    /// Responses that nobody reads make room first: otherwise clients that read nothing could keep every other one out.
    async fn refuses_call(&self, answering: &mut Answering) -> Option<Limit> {
        let mut attempts = ROOM_ATTEMPTS;
        loop {
            let limit = self.limits.refuses_call(answering.count_as(Counted::Call))?;
            // Whoever waits for room takes none.
            answering.count_as(Counted::Other);
            if attempts == 0 || !self.connections.give_up_stalled() {
                return Some(limit);
            }
            attempts -= 1;
            tokio::time::sleep(ROOM_INTERVAL).await;
        }
    }
}

impl Answer for Edge {
    type Body = Held;

    async fn answer(self: Arc<Self>, request: Request<Incoming>, answering: Answering) -> Response<Held> {
        self.respond(request, answering).await
    }
}

fn stopped() -> Response<Payload> {
    let body: Bytes =
        envelope::error(None, envelope::INTERNAL_ERROR, "the server has stopped; try again", Some(r#"{"retryable":true}"#));
    let mut answer = json(StatusCode::SERVICE_UNAVAILABLE, body);
    answer.headers_mut().insert(STAGE, HeaderValue::from_static(Stage::Stopped.as_str()));
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}
