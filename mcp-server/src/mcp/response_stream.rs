//! The stream that answers a request of a session, and what becomes of the request when its client disconnects.
//!
//! What must stay true: a request whose response can still be delivered runs to its end and holds no concurrency slot
//! meanwhile; one whose response nobody can get any more is cancelled; and every stream that was remembered in the database
//! ends there, so that no client waits for a response that never comes.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bg_runtime::{
    Lifecycle,
    lifecycle::{Admission, Stage, Work},
};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyDataStream, combinators::BoxBody};
use rmcp::{
    model::ClientJsonRpcMessage,
    transport::streamable_http_server::session::{SessionManager, local::LocalSessionManager},
};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use uuid::Uuid;

use super::{
    envelope,
    in_flight::ServiceRequest,
    request_id::{StreamEvent, client_id, restore_event},
};
use crate::sessions::streams::Streams;

/// How many calls may run on for clients that have disconnected. As many as may be in flight by default (`CALLS_MAX`); each of
/// them ends at the deadline of its tool.
pub(super) const MAX_UNATTENDED: usize = 512;

/// A client that lost its connection has opened the stream again by then, or is not coming back soon: it is sent a
/// reconnection time of half a second.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a drain checks whether somebody still follows a stream.
const FOLLOWED_POLL: Duration = Duration::from_millis(500);

/// The words of a response that is the last event of a stream.
const CANCELLED: &str = "the call was cancelled";
const SESSION_ENDED: &str = "the session ended before the call did; whether it took effect is not known";
const TOO_MANY: &str = "the call was cancelled: its client had disconnected, and too many such calls were running";

/// What requests of sessions need besides rmcp.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) manager: Arc<LocalSessionManager>,
    pub(super) lifecycle: Lifecycle,
    pub(super) streams: Option<Arc<Streams>>,
    /// Calls that run on without their clients.
    pub(super) unattended: Arc<Semaphore>,
}

/// A request that was handed to rmcp. Dropping it before its response has left cancels it.
pub(super) struct SessionCall {
    shared: Shared,
    session: Arc<str>,
    request: Option<ServiceRequest>,
    /// Where the stream is remembered.
    stream: Option<Uuid>,
    /// Whether the client has the id of an event, by which it can resume the stream.
    is_resumable: bool,
    /// Whether the client takes a stream, or the server takes the response out of it.
    wants_stream: bool,
}

/// The stream that answers a request, as its client sees it.
pub(super) struct ResponseStream {
    call: Option<SessionCall>,
    /// The first event, which was read already.
    first: Option<Bytes>,
    events: Option<Events>,
    /// Whether the client is sent events without a message.
    takes_empty: bool,
    /// Set when the client has disconnected.
    is_unattended: bool,
}

type Events = BodyDataStream<BoxBody<Bytes, Infallible>>;

// === impl SessionCall ===

impl SessionCall {
    pub(super) fn new(shared: Shared, session: &str, request: ServiceRequest, wants_stream: bool) -> Self {
        Self { shared, session: session.into(), request: Some(request), stream: None, is_resumable: false, wants_stream }
    }

    /// The stream that answers it, as it is remembered.
    pub(super) fn remember(&mut self, stream: Uuid) {
        self.stream = Some(stream);
    }

    /// Its response has left, or none is needed.
    fn finish(mut self) {
        self.request = None;
    }

    /// Ends a stream that got no response of rmcp's, and returns the event that the client is sent instead.
    fn conclude(mut self) -> Option<Bytes> {
        let request = self.request.take()?;
        // Whoever takes over from this process answers it.
        if self.shared.lifecycle.cut().is_cancelled() {
            return None;
        }
        let is_cancelled = request.is_cancelled();
        let error = error(&request, if is_cancelled { CANCELLED } else { SESSION_ENDED });
        // A client that cancelled a request waits for no response (MCP, cancellation); one that takes no stream gets HTTP's.
        let is_sent = !is_cancelled || !self.wants_stream;
        let event = is_sent.then(|| Bytes::from(format!("data: {error}\n\n")));
        self.store_end(if is_cancelled { String::new() } else { error });
        event
    }

    /// Cancels the request, and ends its stream with this message.
    fn cancel(&mut self, message: impl FnOnce(&ServiceRequest) -> String) {
        let Some(request) = self.request.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // Whoever takes over from this process makes the call again, or says that nobody knows what became of it.
        if self.shared.lifecycle.cut().is_cancelled() {
            return;
        }
        self.store_end(message(&request));
        let (manager, session) = (self.shared.manager.clone(), self.session.clone());
        runtime.spawn(async move { cancel(&manager, &session, request.internal()).await });
    }

    /// Stores the last event of its stream; an empty one is the end of a stream without a response.
    fn store_end(&self, message: String) {
        let (Some(streams), Some(stream)) = (self.shared.streams.clone(), self.stream) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(failure) = streams.store(&stream.to_string(), &message, true).await {
                    tracing::warn!(error = %failure, "the end of a stream could not be stored: {failure}");
                }
            });
        }
    }
}

impl Drop for SessionCall {
    fn drop(&mut self) {
        self.cancel(|_| String::new());
    }
}

/// The response to a request whose effects are not known.
fn error(request: &ServiceRequest, words: &str) -> String {
    let error = envelope::error(client_id(request.internal()), envelope::INTERNAL_ERROR, words, Some(r#"{"retryable":false}"#));
    String::from_utf8_lossy(&error).into_owned()
}

/// Cancels a request that a service of rmcp's has. One that has ended meanwhile, or whose session has, is none any more.
pub(super) async fn cancel(manager: &LocalSessionManager, session: &str, internal: &str) {
    let message = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": internal } });
    let message: ClientJsonRpcMessage = serde_json::from_value(message).expect("it is a message");
    if let Err(failure) = manager.accept_message(&session.into(), message).await {
        tracing::debug!(error = %failure, "a request had ended before it was cancelled: {failure}");
    }
}

// === impl ResponseStream ===

impl ResponseStream {
    /// A stream whose first event was read.
    pub(super) fn new(call: SessionCall, first: Bytes, events: Events, takes_empty: bool) -> Self {
        Self { call: Some(call), first: Some(first), events: Some(events), takes_empty, is_unattended: false }
    }

    /// Lets the request run to its end for a client that will resume the stream.
    pub(super) fn leave_to_client(mut self) {
        if let Some(call) = &mut self.call {
            call.is_resumable = true;
        }
    }

    /// An event as the client is to see it, if it is to see it.
    fn shown(&mut self, event: Bytes) -> Option<Bytes> {
        let shown = match restore_event(event) {
            StreamEvent::Response(event) => {
                if let Some(call) = self.call.take() {
                    call.finish();
                }
                event
            }
            StreamEvent::Other(event) => event,
            StreamEvent::Empty(event) if self.takes_empty => event,
            StreamEvent::Empty(_) => return None,
        };
        if let Some(call) = &mut self.call {
            call.is_resumable |= call.wants_stream && call.stream.is_some() && has_id(&shown);
        }
        Some(shown)
    }

    /// Reads to the end for a client that has disconnected. A drain waits for that as long as somebody may still get the
    /// response.
    async fn run_unattended(mut self, admission: Admission, _permit: OwnedSemaphorePermit) {
        let followed = self.call.as_ref().and_then(|call| Some((call.shared.clone(), call.stream?)));
        let mut admission = Some(admission);
        let disconnected = Instant::now();
        let mut abandoned = std::pin::pin!(async {
            if let Some((shared, stream)) = followed {
                abandoned(&shared, stream, disconnected).await;
            }
        });
        loop {
            tokio::select! {
                event = self.next() => if event.is_none() { return },
                () = &mut abandoned, if admission.is_some() => {
                    tracing::info!("a drain does not wait for a call: its client has disconnected and nobody follows its stream");
                    admission = None;
                }
            }
        }
    }
}

impl futures_util::Stream for ResponseStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(first) = this.first.take()
            && let Some(shown) = this.shown(first)
        {
            return Poll::Ready(Some(Ok(shown)));
        }
        while let Some(events) = &mut this.events {
            match ready!(events.poll_next_unpin(context)) {
                Some(Ok(event)) => {
                    if let Some(shown) = this.shown(event) {
                        return Poll::Ready(Some(Ok(shown)));
                    }
                }
                None => {
                    this.events = None;
                    return Poll::Ready(this.call.take().and_then(SessionCall::conclude).map(Ok));
                }
                Some(Err(never)) => match never {},
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        // What is still here when this returns is cancelled as it is dropped.
        let is_resumable = self.call.as_ref().is_some_and(|call| call.is_resumable);
        if self.is_unattended || !is_resumable || self.events.is_none() {
            return;
        }
        let Some(mut call) = self.call.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // Before the admission of the response is dropped, so that a drain does not end in between.
        let Ok(admission) = call.shared.lifecycle.admit(Work::Call) else { return };
        let Ok(permit) = call.shared.unattended.clone().try_acquire_owned() else {
            tracing::warn!("a call is cancelled: its client has disconnected, and {MAX_UNATTENDED} such calls are running");
            return call.cancel(|request| error(request, TOO_MANY));
        };
        let rest = Self {
            call: Some(call),
            first: self.first.take(),
            events: self.events.take(),
            takes_empty: self.takes_empty,
            is_unattended: true,
        };
        runtime.spawn(rest.run_unattended(admission, permit));
    }
}

/// Resolves when the process drains, and nobody follows a stream whose client disconnected at that moment.
async fn abandoned(shared: &Shared, stream: Uuid, disconnected: Instant) {
    shared.lifecycle.wait_for(|status| status.stage >= Stage::Draining).await;
    tokio::time::sleep_until(disconnected + RECONNECT_TIMEOUT).await;
    let Some(streams) = &shared.streams else { return };
    // A database that is away keeps no response either.
    while streams.is_followed(stream).await.unwrap_or(false) {
        tokio::time::sleep(FOLLOWED_POLL).await;
    }
}

/// Whether an event says its place in the stream.
fn has_id(event: &[u8]) -> bool {
    memchr::memmem::find(event, b"\nid: ").is_some()
}
