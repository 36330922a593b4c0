//! Reading a request's body: all of it, within its limits of size and time, and within what all bodies may take together.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bg_runtime::lifecycle::Stage;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};

use super::{super::envelope, Answer, Door, error};
use crate::{
    http::body::json,
    limits::{BodyBytes, Limit},
};

/// A body that is not there by then is on its way and no call yet: it takes no call's place.
const ARRIVED_WITHIN: Duration = Duration::from_millis(100);

/// How long after the beginning of the drain a body may still arrive. Its call has not begun, so its client may send it again
/// elsewhere, and a client that never finishes must not hold the process for as long as [`BodyLimits`](super::BodyLimits) say.
const DRAIN_BODY_TIMEOUT: Duration = Duration::from_secs(2);

impl Door {
    /// Reads a body whole. What it takes is counted in `room`, for as long as the caller keeps that.
    pub(super) async fn read<B>(&self, headers: &HeaderMap, body: B, room: &mut BodyBytes<'_>) -> Result<Bytes, Answer>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let too_large = || {
            let words = format!("the body is larger than {} bytes", self.body.most);
            json(StatusCode::PAYLOAD_TOO_LARGE, error(None, envelope::INVALID_REQUEST, &words))
        };
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > self.body.most) {
            return Err(too_large());
        }
        let mut reading = std::pin::pin!(Limited::new(Counted { body, room }, self.body.most).collect());
        let read = match tokio::time::timeout(ARRIVED_WITHIN, reading.as_mut()).await {
            Ok(read) => Some(read),
            Err(_) => {
                let Some(_arriving) = self.limits.arriving() else { return Err(self.limits.shed()) };
                tokio::select! {
                    biased;
                    read = tokio::time::timeout(self.body.within, reading) => read.ok(),
                    () = self.drains_for(DRAIN_BODY_TIMEOUT) => None,
                }
            }
        };
        match read {
            Some(Ok(body)) => Ok(body.to_bytes()),
            Some(Err(failure)) if failure.is::<http_body_util::LengthLimitError>() => Err(too_large()),
            Some(Err(failure)) if failure.is::<NoRoom>() => Err(self.limits.refuse((Limit::Bodies, 1), None)),
            Some(Err(_)) => Err(json(StatusCode::BAD_REQUEST, error(None, envelope::PARSE_ERROR, "the body ended early"))),
            None => Err(json(StatusCode::REQUEST_TIMEOUT, error(None, envelope::PARSE_ERROR, "the body did not arrive in time"))),
        }
    }

    /// Resolves this long after the process began to drain.
    async fn drains_for(&self, time: Duration) {
        self.server.lifecycle.wait_for(|status| status.stage >= Stage::Draining).await;
        tokio::time::sleep(time).await;
    }
}

/// A body that counts its bytes as they come, and ends when there is no room for them.
struct Counted<'a, 'l, B> {
    body: B,
    room: &'a mut BodyBytes<'l>,
}

/// Large bodies take as much memory as they may.
#[derive(Debug, thiserror::Error)]
#[error("there is no room for the body")]
struct NoRoom;

impl<B> http_body::Body for Counted<'_, '_, B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && !self.room.add(frame.data_ref().map_or(0, Bytes::len))
        {
            return Poll::Ready(Some(Err(NoRoom.into())));
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
