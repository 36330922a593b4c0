//! One connection: what it is served with, and when it is given up.
//!
//! hyper's own header timeout sets a timer for each request and counts the wait for the next one too, so it cannot be both
//! short against slow headers and long for a balancer's idle connections. This watch ticks once in a while and looks at two
//! numbers: how many requests are being answered, and when bytes last came.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

use crate::limits::Limits;

/// How long a connection may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the rest of a request's headers, once its first byte has come. Also for the first request's first byte.
    pub(crate) headers: Duration,
    /// For the next request. Longer than the idle timeout of any balancer in front (an ALB's is 60 s), or the balancer sends
    /// into a connection that is being closed and answers 502.
    pub(crate) idle: Duration,
    /// For a client to read, when not a byte more could be written to it.
    pub(crate) write: Duration,
}

/// What is known of a connection, shared between its reads, its requests and its watch.
pub(crate) struct Watch {
    born: Instant,
    peer: IpAddr,
    limits: Arc<Limits>,
    /// Whether it is one more than there may be.
    is_extra: bool,
    is_given_up: AtomicBool,
    given_up: Notify,
    /// Requests being answered.
    answering: AtomicU32,
    /// Whether there ever was one.
    asked: AtomicBool,
    /// Milliseconds after birth at which the current request's first byte came; 0 between requests.
    asking_since: AtomicU64,
    /// Milliseconds after birth at which the last answer was done.
    quiet_since: AtomicU64,
    /// Milliseconds after birth since when not a byte could be written; 0 while it can, or there is none to write.
    stuck_since: AtomicU64,
}

/// A request being answered.
pub(crate) struct Answering {
    watch: Arc<Watch>,
    /// Whether it counts as a call.
    is_call: bool,
}

/// A TCP stream that notes when a request begins to come in.
pub(crate) struct Watched {
    stream: TcpStream,
    watch: Arc<Watch>,
}

impl Watch {
    pub(crate) fn new(peer: IpAddr, is_extra: bool, limits: Arc<Limits>) -> Arc<Self> {
        Arc::new(Self {
            born: Instant::now(),
            peer,
            limits,
            is_extra,
            is_given_up: AtomicBool::new(false),
            given_up: Notify::new(),
            answering: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            asking_since: AtomicU64::new(1),
            quiet_since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
        })
    }

    /// Whom it is with.
    pub(crate) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether it is one more than there may be: it is answered once, and not by every door.
    pub(crate) fn is_extra(&self) -> bool {
        self.is_extra
    }

    /// How little it would be missed, least first: whether it ever asked something, and since when it has not. Nothing while a
    /// request is being answered, or comes in on a connection that had one before.
    pub(crate) fn idle(&self) -> Option<(bool, Instant)> {
        let has_asked = self.has_asked();
        let is_asking = has_asked && self.asking_since.load(Ordering::Relaxed) > 0;
        if is_asking || self.answering.load(Ordering::Relaxed) > 0 || self.is_given_up() {
            return None;
        }
        let since = if has_asked { self.quiet_since.load(Ordering::Relaxed) } else { 0 };
        Some((has_asked, self.born + Duration::from_millis(since)))
    }

    /// Has it closed, for somebody else's sake.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
        self.given_up.notify_one();
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// Resolves when it is to be closed.
    pub(crate) async fn given_up(&self) {
        self.given_up.notified().await;
    }

    /// The headers are complete: the request is being answered until the guard is dropped.
    pub(crate) fn answering(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        self.asking_since.store(0, Ordering::Relaxed);
        Answering { watch: self.clone(), is_call: false }
    }

    /// Whether a request has ever come in whole.
    pub(crate) fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether the connection has used up our patience.
    pub(crate) fn is_over(&self, patience: &Patience) -> bool {
        let since = |millis: u64| self.now().saturating_sub(millis);
        let stuck = self.stuck_since.load(Ordering::Relaxed);
        if stuck > 0 && since(stuck) > millis(patience.write) {
            return true;
        }
        if self.answering.load(Ordering::Relaxed) > 0 {
            return false;
        }
        match self.asking_since.load(Ordering::Relaxed) {
            0 => since(self.quiet_since.load(Ordering::Relaxed)) > millis(patience.idle),
            asking => since(asking) > millis(patience.headers),
        }
    }

    fn heard(&self) {
        if self.answering.load(Ordering::Relaxed) == 0 && self.asking_since.load(Ordering::Relaxed) == 0 {
            self.asking_since.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    /// Somebody tried to write: some of it went, or nothing could.
    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if written.is_ready() {
            // Looked at before it is written: nearly always there is nothing to change.
            if self.stuck_since.load(Ordering::Relaxed) > 0 {
                self.stuck_since.store(0, Ordering::Relaxed);
            }
        } else if self.stuck_since.load(Ordering::Relaxed) == 0 {
            self.stuck_since.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        millis(self.born.elapsed())
    }
}

impl Answering {
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Counts the request as a call until the guard is dropped.
    pub(crate) fn count_as_call(&mut self) {
        if !std::mem::replace(&mut self.is_call, true) {
            self.watch.limits.begin_call();
        }
    }

    /// Counts it no longer: it is refused, and its refusal is no work.
    pub(crate) fn uncount(&mut self) {
        if std::mem::take(&mut self.is_call) {
            self.watch.limits.end_call();
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.uncount();
        if self.watch.answering.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.watch.quiet_since.store(self.watch.now(), Ordering::Relaxed);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Watched {
    pub(crate) fn new(stream: TcpStream, watch: Arc<Watch>) -> Self {
        Self { stream, watch }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.watch.heard();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.watch.wrote(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.watch.wrote(&written);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LimitsConfig, tests::limits};

    fn patience(headers: u64, idle: u64) -> Patience {
        Patience { headers: Duration::from_millis(headers), idle: Duration::from_millis(idle), write: Duration::from_millis(5) }
    }

    fn new() -> Arc<Watch> {
        Watch::new([127, 0, 0, 1].into(), false, Arc::new(limits(LimitsConfig::default()).0))
    }

    fn passed(watch: &Watch, millis: u64) {
        while watch.now() < millis {
            std::thread::yield_now();
        }
    }

    #[test]
    fn slow_headers_end_a_connection_and_a_slow_answer_does_not() {
        let watch = new();
        passed(&watch, 5);
        assert!(watch.is_over(&patience(1, 1000)), "the first request's headers never came");
        let answering = watch.answering();
        assert!(!watch.is_over(&patience(0, 0)), "it is our turn");
        drop(answering);
        assert!(!watch.is_over(&patience(0, 1000)), "idle is not slow");
        passed(&watch, 10);
        assert!(watch.is_over(&patience(1000, 1)), "idle for too long");
        watch.heard();
        assert!(!watch.is_over(&patience(1000, 0)), "a request is coming in");
    }

    #[test]
    fn who_does_not_read_ends_a_connection_and_a_stream_without_a_word_does_not() {
        let watch = new();
        let _answering = watch.answering();
        passed(&watch, 10);
        assert!(!watch.is_over(&patience(0, 0)), "nothing is to be written");
        watch.wrote(&Poll::Pending);
        assert!(!watch.is_over(&patience(0, 0)));
        passed(&watch, 20);
        assert!(watch.is_over(&patience(0, 0)), "not a byte more in 10 ms");
        watch.wrote(&Poll::Ready(Ok(1)));
        assert!(!watch.is_over(&patience(0, 0)), "a byte is enough");
    }
}
