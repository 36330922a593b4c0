//! What is done around every answer: let it in unless it is too much, name the release, give connections up, hold the
//! admission until the last byte. `/mcp` is answered from here directly unless the application put layers around its doors.

use std::sync::Arc;

use axum::{Router, body::Body};
use bg_runtime::{
    Lifecycle, Release,
    lifecycle::{Stage, Status, Work},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use tower::ServiceExt;

use super::{
    body::{Held, Payload, json},
    connection::{Answering, Watch},
    listener::Answer,
};
use crate::{
    limits::{Limits, Peer, Turn},
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

/// The public side of a process.
pub(crate) struct Edge {
    lifecycle: Lifecycle,
    limits: Arc<Limits>,
    color: HeaderValue,
    build: HeaderValue,
    /// Set when no layer stands between a request and `/mcp`.
    door: Option<Arc<Door>>,
    router: Router,
}

impl Edge {
    pub(crate) fn new(
        lifecycle: Lifecycle,
        limits: Arc<Limits>,
        release: &Release,
        door: Option<Arc<Door>>,
        router: Router,
    ) -> Self {
        let build = release.build();
        Self {
            lifecycle,
            limits,
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
        match self.router.clone().oneshot(request.map(Body::new)).await {
            Ok(answer) => answer.map(Payload::Body),
            Err(never) => match never {},
        }
    }

    /// Answers one request, wherever its body comes from.
    pub(crate) async fn respond<B>(&self, request: Request<B>, mut answering: Answering) -> Response<Held>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let one = request.version() < Version::HTTP_2;
        let is_get = request.method() == Method::GET;
        let (is_mcp, is_extra) = (request.uri().path() == MCP, answering.watch().is_extra());
        // Whatever is asked at the other endpoints holds no call's slot, and what is asked there is not shed.
        if is_mcp && !is_extra {
            answering.count_as_call();
        }
        let (answer, admission) = match self.lifecycle.admit(Work::Call) {
            Ok(_) if is_mcp && is_extra => (self.limits.crowded(), None),
            // A refusal is no call, so it is not counted as one while it is sent.
            Ok(_) if is_mcp && self.limits.is_full() => {
                answering.uncount();
                (self.limits.shed(), None)
            }
            Ok(admission) => (self.route(request, is_mcp, answering.watch()).await, Some(admission)),
            Err(_) => (stopped(), None),
        };
        let sheds = self.lifecycle.status().sheds();
        let (mut head, payload) = answer.into_parts();
        // An answer that another build gave, to a call that belongs to it, says so itself.
        head.headers.entry(COLOR).or_insert_with(|| self.color.clone());
        head.headers.entry(BUILD).or_insert_with(|| self.build.clone());
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
                Held::until(payload, (Some(admission), answering, turn), shed, head.extensions.remove())
            }
            Some(mut admission) => {
                if head.extensions.remove::<Endless>().is_some() {
                    admission.become_stream();
                }
                Held::new(payload, (Some(admission), answering, turn))
            }
            None => Held::new(payload, (None, answering, turn)),
        };
        Response::from_parts(head, body)
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
