//! Bodies on their way out. [`Held`] keeps the admission of its request until its last byte is out, which is what makes a
//! drain wait for streams and not only for headers.
//!
//! hyper takes a body's bytes long before it can send them, and does not ask for more while the client reads nothing. So the
//! bytes themselves hold the admission: a [`Piece`] reports each byte that leaves, and dropping the last one ends the response.

use std::{
    mem,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use bg_runtime::lifecycle::Admission;
use bytes::{Buf, Bytes};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::connection::Answering;
use crate::limits::{Turn, UnreadBytes};

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

    /// How many bytes it has that are memory of its own; 0 of one that is coming.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Spliced(parts) => parts.as_slice().iter().map(Bytes::len).sum(),
            Self::Body(_) => 0,
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

/// Says of a stream that its client reads everything on it as a message, so that it ends without saying when to come again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndsSilently;

/// The largest piece of a body, in bytes. An ordinary answer is one piece.
const PIECE: usize = 64 * 1024;

/// The body of an answer, and the admission that lasts as long as it does.
pub(crate) struct Held {
    payload: Payload,
    /// What is left of a large frame of a stream.
    rest: Bytes,
    /// Set on streams without an end of their own: resolves when connections are to be given up.
    shed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Set where the token runs out that a stream was opened with.
    over: Option<Pin<Box<Sleep>>>,
    /// Whether a stream that is ended says when to come again.
    says_goodbye: bool,
    ended: bool,
    guards: Guards,
    /// Counts the bytes of a large payload, or of the frame that `rest` belongs to.
    unread: Option<Arc<UnreadBytes>>,
}

/// Some bytes of an answer, which hold its admission until they have left or are dropped.
pub(crate) struct Piece {
    bytes: Bytes,
    guards: Guards,
    _unread: Option<Arc<UnreadBytes>>,
}

/// When the caller's token is none any more. It comes with a stream, in its extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until(pub(crate) Instant);

/// What lasts as long as an answer does: its place in the drain's count, its connection's turn, and its principal's.
pub(crate) struct Lasting {
    _admission: Option<Admission>,
    answering: Answering,
    turn: Option<Arc<Turn>>,
}

/// Who holds it: nobody, whoever is last, or several pieces of one answer.
enum Guards {
    None,
    Alone(Lasting),
    Shared(Arc<Lasting>),
}

// === impl Lasting ===

impl Lasting {
    pub(crate) fn new(admission: Option<Admission>, answering: Answering, turn: Option<Arc<Turn>>) -> Self {
        Self { _admission: admission, answering, turn }
    }
}

// === impl Guards ===

impl Guards {
    /// The same guards for a further piece.
    fn share(&mut self) -> Self {
        match mem::replace(self, Self::None) {
            Self::None => Self::None,
            Self::Alone(lasting) => {
                let shared = Arc::new(lasting);
                *self = Self::Shared(shared.clone());
                Self::Shared(shared)
            }
            Self::Shared(shared) => {
                *self = Self::Shared(shared.clone());
                Self::Shared(shared)
            }
        }
    }

    fn lasting(&self) -> Option<&Lasting> {
        match self {
            Self::None => None,
            Self::Alone(lasting) => Some(lasting),
            Self::Shared(lasting) => Some(lasting),
        }
    }
}

// === impl Held ===

impl Held {
    pub(crate) fn new(payload: Payload, lasting: Lasting) -> Self {
        let length = payload.len();
        lasting.answering.offered(length);
        let unread = lasting.answering.unread(length, lasting.turn.as_ref());
        let guards = Guards::Alone(lasting);
        Self { payload, rest: Bytes::new(), shed: None, over: None, says_goodbye: true, ended: false, guards, unread }
    }

    /// A stream that ends, cleanly, when `shed` does and it is idle; and at this moment in any case.
    pub(crate) fn until(
        payload: Payload,
        lasting: Lasting,
        shed: impl Future<Output = ()> + Send + 'static,
        over: Option<Until>,
        silently: Option<EndsSilently>,
    ) -> Self {
        let over = over.map(|Until(moment)| Box::pin(tokio::time::sleep_until(moment.into())));
        Self { shed: Some(Box::pin(shed)), over, says_goodbye: silently.is_none(), ..Self::new(payload, lasting) }
    }

    /// Ends a stream before it ends by itself.
    fn end(&mut self) -> Poll<Option<Result<Frame<Piece>, axum::Error>>> {
        self.ended = true;
        Poll::Ready(self.says_goodbye.then(|| Ok(Frame::data(self.frame(GOODBYE)))))
    }

    /// A piece of a payload that is there. The last one takes the guards with it.
    fn piece(&mut self, bytes: Bytes, is_last: bool) -> Piece {
        self.ended |= is_last;
        let guards = if is_last { mem::replace(&mut self.guards, Guards::None) } else { self.guards.share() };
        Piece { bytes, guards, _unread: self.unread.clone() }
    }

    /// The next piece of a large frame.
    fn next_of_frame(&mut self) -> Piece {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE));
        let unread = if self.rest.is_empty() { self.unread.take() } else { self.unread.clone() };
        Piece { bytes, guards: self.guards.share(), _unread: unread }
    }

    /// A frame of a stream, or its first piece. Its bytes wait for their reader from here on.
    fn frame(&mut self, bytes: Bytes) -> Piece {
        if let Some(Lasting { answering, turn, .. }) = self.guards.lasting() {
            answering.offered(bytes.len());
            self.unread = answering.unread(bytes.len(), turn.as_ref());
        }
        self.rest = bytes;
        self.next_of_frame()
    }
}

impl http_body::Body for Held {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, axum::Error>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.next_of_frame()))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        // Not even what is there already is said to somebody whose token has run out. A frame holds whole events.
        if let Some(over) = &mut this.over
            && over.as_mut().poll(context).is_ready()
        {
            return this.end();
        }
        let frame = match &mut this.payload {
            Payload::Bytes(bytes) => {
                let piece = bytes.split_to(bytes.len().min(PIECE));
                let is_last = bytes.is_empty();
                if piece.is_empty() {
                    this.ended = true;
                    return Poll::Ready(None);
                }
                return Poll::Ready(Some(Ok(Frame::data(this.piece(piece, is_last)))));
            }
            Payload::Spliced(parts) => {
                let Some(piece) = next_of(parts) else {
                    this.ended = true;
                    return Poll::Ready(None);
                };
                let is_last = parts.as_slice().iter().all(Bytes::is_empty);
                return Poll::Ready(Some(Ok(Frame::data(this.piece(piece, is_last)))));
            }
            Payload::Body(body) => Pin::new(body).poll_frame(context),
        };
        // What the stream still has to say goes first; only an idle one is ended.
        if frame.is_pending()
            && let Some(shed) = &mut this.shed
            && shed.as_mut().poll(context).is_ready()
        {
            return this.end();
        }
        frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| this.frame(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Bytes(bytes) => self.ended || bytes.is_empty(),
            Payload::Spliced(parts) => self.ended || parts.as_slice().iter().all(Bytes::is_empty),
            Payload::Body(body) => self.rest.is_empty() && (self.ended || body.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Body(_) if self.shed.is_some() => SizeHint::default(),
            // While a frame is under way, what it has left is not the body's to know.
            Payload::Body(_) if !self.rest.is_empty() => SizeHint::default(),
            Payload::Body(body) => body.size_hint(),
            payload => SizeHint::with_exact(payload.len() as u64),
        }
    }
}

/// The next piece that has any bytes.
fn next_of(parts: &mut std::array::IntoIter<Bytes, 3>) -> Option<Bytes> {
    loop {
        let part = parts.as_mut_slice().first_mut()?;
        if part.len() > PIECE {
            return Some(part.split_to(PIECE));
        }
        let part = parts.next()?;
        if !part.is_empty() {
            return Some(part);
        }
    }
}

// === impl Piece ===

impl Piece {
    /// The bytes alone: the answer counts as read.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(lasting) = self.guards.lasting() {
            lasting.answering.sent(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;
    use crate::{
        http::connection::Watch,
        limits::{Limits, LimitsConfig, tests::limits},
    };

    fn held(payload: Payload) -> (Held, Arc<Watch>, Arc<Limits>) {
        let limits = Arc::new(limits(LimitsConfig { unread: 1 << 20, ..LimitsConfig::default() }).0);
        let watch = Watch::new([127, 0, 0, 1].into(), false, limits.clone());
        let lasting = Lasting::new(None, watch.answering(), None);
        (Held::new(payload, lasting), watch, limits)
    }

    async fn next(held: &mut Held) -> Option<Piece> {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *held).poll_frame(context)).await?;
        frame.unwrap().into_data().ok()
    }

    #[tokio::test]
    async fn an_answer_lasts_until_its_last_byte_has_left_and_not_until_hyper_has_taken_it() {
        let (mut body, watch, _) = held(Bytes::from_static(b"{}").into());
        let mut piece = next(&mut body).await.unwrap();
        assert!(body.is_end_stream());
        drop(body);
        assert!(watch.idle().is_none(), "it is being answered");
        piece.advance(1);
        assert!(watch.idle().is_none());
        piece.advance(1);
        drop(piece);
        assert!(watch.idle().is_some());
    }

    #[tokio::test]
    async fn a_large_answer_comes_in_pieces_and_all_of_it_counts_until_the_last_one_has_left() {
        let large = Bytes::from(vec![b'x'; 3 * PIECE + 1]);
        let spliced = [large.slice(..PIECE + 7), Bytes::new(), large.slice(PIECE + 7..)];
        let stream = Body::from(large.clone());
        for payload in [large.clone().into(), spliced.into(), Payload::Body(stream)] {
            let (mut body, watch, limits) = held(payload);
            let mut pieces = Vec::new();
            while let Some(piece) = next(&mut body).await {
                assert!(piece.len() <= PIECE && !piece.is_empty());
                pieces.push(piece);
            }
            assert!(body.is_end_stream());
            drop(body);
            assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), large.len());
            assert!(!limits.has_room_for(1 << 20));
            let last = pieces.pop();
            drop(pieces);
            assert!(!limits.has_room_for(1 << 20) && watch.idle().is_none(), "the memory is one");
            drop(last);
            assert!(limits.has_room_for(1 << 20) && watch.idle().is_some());
        }
    }

    #[tokio::test]
    async fn an_empty_answer_is_one() {
        for payload in [Bytes::new().into(), [Bytes::new(), Bytes::new(), Bytes::new()].into()] {
            let (mut body, _, _) = held(payload);
            assert!(body.is_end_stream() && body.size_hint().exact() == Some(0));
            assert!(next(&mut body).await.is_none());
        }
    }
}
