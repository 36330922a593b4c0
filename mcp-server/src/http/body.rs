//! Bodies on their way out. [`Held`] keeps the admission of its request until its last byte is out, which is what makes a
//! drain wait for streams and not only for headers.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use bg_runtime::lifecycle::Admission;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::connection::Answering;
use crate::limits::Turn;

/// A body that is there, or one that is coming.
#[derive(Debug)]
pub(crate) enum Payload {
    Bytes(Bytes),
    /// An answer around something that never changes and is shared, not copied.
    Spliced(std::array::IntoIter<Bytes, 3>),
    Body(Body),
}

impl Payload {
    pub(crate) fn into_body(self) -> Body {
        match self {
            Self::Bytes(bytes) => Body::from(bytes),
            Self::Spliced(parts) => Body::from(parts.as_slice().concat()),
            Self::Body(body) => body,
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<[Bytes; 3]> for Payload {
    fn from(parts: [Bytes; 3]) -> Self {
        Self::Spliced(parts.into_iter())
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: impl Into<Payload>) -> Response<Payload> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// What is sent when an idle stream is ended so that its client opens it again elsewhere, soon: the reconnection time of
/// the event-stream format, in milliseconds.
const GOODBYE: Bytes = Bytes::from_static(b"retry: 250\n\n");

/// The body of an answer, and the admission that lasts as long as it does.
pub(crate) struct Held {
    payload: Payload,
    /// Set on streams without an end of their own: resolves when connections are to be given up.
    shed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Set where the token runs out that a stream was opened with.
    over: Option<Pin<Box<Sleep>>>,
    ended: bool,
    _guards: Guards,
}

/// When the caller's token is none any more. It comes with a stream, in its extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until(pub(crate) Instant);

/// What lasts as long as an answer does: its place in the drain's count, its connection's turn, and its principal's.
type Guards = (Option<Admission>, Answering, Option<Arc<Turn>>);

impl Held {
    pub(crate) fn new(payload: Payload, guards: Guards) -> Self {
        Self { payload, shed: None, over: None, ended: false, _guards: guards }
    }

    /// A stream that ends, cleanly, when `shed` does and it is idle; and at this moment in any case.
    pub(crate) fn until(
        payload: Payload,
        guards: Guards,
        shed: impl Future<Output = ()> + Send + 'static,
        over: Option<Until>,
    ) -> Self {
        let over = over.map(|Until(moment)| Box::pin(tokio::time::sleep_until(moment.into())));
        Self { payload, shed: Some(Box::pin(shed)), over, ended: false, _guards: guards }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        // Not even what is there already is said to somebody whose token has run out. A frame holds whole events.
        if let Some(over) = &mut this.over
            && over.as_mut().poll(context).is_ready()
        {
            this.ended = true;
            return Poll::Ready(Some(Ok(Frame::data(GOODBYE))));
        }
        let frame = match &mut this.payload {
            Payload::Bytes(bytes) => {
                this.ended = true;
                let bytes = std::mem::take(bytes);
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Payload::Spliced(parts) => return Poll::Ready(parts.next().map(|part| Ok(Frame::data(part)))),
            Payload::Body(body) => Pin::new(body).poll_frame(context),
        };
        // What the stream still has to say goes first; only an idle one is ended.
        if frame.is_pending()
            && let Some(shed) = &mut this.shed
            && shed.as_mut().poll(context).is_ready()
        {
            this.ended = true;
            return Poll::Ready(Some(Ok(Frame::data(GOODBYE))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Bytes(bytes) => self.ended || bytes.is_empty(),
            Payload::Spliced(parts) => parts.len() == 0,
            Payload::Body(body) => self.ended || body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Payload::Spliced(parts) => SizeHint::with_exact(parts.as_slice().iter().map(|part| part.len() as u64).sum()),
            Payload::Body(_) if self.shed.is_some() => SizeHint::default(),
            Payload::Body(body) => body.size_hint(),
        }
    }
}
