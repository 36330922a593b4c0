//! One connection: what it is served with, and when it is given up.
//!
//! hyper's own header timeout sets a timer for each request and counts the wait for the next one too, so it cannot be both
//! short against slow headers and long for a balancer's idle connections. This watch ticks once in a while and looks at how many
//! requests are being answered, when bytes last came, and how each response gets on whose bytes wait for their reader.
//!
//! hyper does not poll a body whose HTTP/2 stream has no window, so no body can end itself: its bytes report here when they are
//! handed to hyper and when they leave (see [`super::body`]).

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use crate::limits::{Limits, Turn, UnreadBytes};

/// How long a connection may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the rest of a request's headers, once its first byte has come. Also for the first request's first byte.
    pub(crate) headers: Duration,
    /// For the next request. Longer than the idle timeout of any balancer in front (an ALB's is 60 s), or the balancer sends
    /// into a connection that is being closed and answers 502.
    pub(crate) idle: Duration,
    /// For a client to read: so long it may take not a byte, or fewer than [`SLOWEST_READER`] allows.
    pub(crate) write: Duration,
}

/// The lowest rate at which a response may be read for longer than [`Patience::write`], in bytes a second: below what the
/// slowest mobile network gives, and more than a client sends that wants to keep a response for ever.
const SLOWEST_READER: u64 = 1024;

/// For how long a response makes no progress before it is given up for requests for which there is no room. A response to a
/// client that reads is in the kernel's buffers at once.
const STALLED_AFTER: Duration = Duration::from_millis(100);

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
    /// Whether it speaks HTTP/2: bytes that come between its requests need not be a request's.
    is_http2: AtomicBool,
    /// The number of the next request.
    next: AtomicU32,
    /// The responses of which bytes wait for their reader.
    unread: Mutex<Vec<Unread>>,
}

/// A response of which bytes wait for their reader.
#[derive(Debug)]
struct Unread {
    /// The number of its request.
    number: u32,
    /// How many bytes wait.
    bytes: usize,
    /// Microseconds after birth up to which its reader has been fast enough: each byte it takes moves this on by its share of
    /// [`SLOWEST_READER`], never beyond now. A byte now and then therefore keeps a response no longer than none.
    kept_up: u64,
}

/// A request being answered.
pub(crate) struct Answering {
    watch: Arc<Watch>,
    number: u32,
    /// As what it is counted.
    counted: Option<Counted>,
}

/// As what a request is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// A request to `/mcp`.
    Call,
    /// A request to any other path.
    Other,
}

/// A stream of bytes that notes when a request begins to come in.
pub(crate) struct Watched<S> {
    stream: S,
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
            is_http2: AtomicBool::new(false),
            next: AtomicU32::new(0),
            unread: Mutex::default(),
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
    /// request is being answered, unless nobody reads any of the responses, or comes in on a connection that had one before.
    pub(crate) fn idle(&self) -> Option<(bool, Instant)> {
        let has_asked = self.has_asked();
        let is_asking = has_asked && self.asking_since.load(Ordering::Relaxed) > 0;
        if is_asking || self.is_given_up() {
            return None;
        }
        if self.answering.load(Ordering::Relaxed) > 0 {
            let (is_all, since) = self.stalled()?;
            return is_all.then_some((true, since));
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
        Answering { watch: self.clone(), number: self.next.fetch_add(1, Ordering::Relaxed), counted: None }
    }

    /// Notes that it speaks HTTP/2.
    pub(crate) fn speaks_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    /// Whether it speaks HTTP/2 and only waits for a request.
    pub(crate) fn is_idle_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed) && self.answering.load(Ordering::Relaxed) == 0
    }

    /// Since when the response that has stalled the longest makes no progress, and whether all requests in flight have
    /// responses that stalled.
    pub(crate) fn stalled(&self) -> Option<(bool, Instant)> {
        let late = self.micros().saturating_sub(micros(STALLED_AFTER));
        let unread = self.unread();
        let stalled = unread.iter().map(|response| response.kept_up).filter(|kept_up| *kept_up < late);
        let (count, longest) = stalled.fold((0, u64::MAX), |(count, longest), kept_up| (count + 1, longest.min(kept_up)));
        let is_all = count >= self.answering.load(Ordering::Relaxed);
        (count > 0).then(|| (is_all, self.born + Duration::from_micros(longest)))
    }

    fn unread(&self) -> MutexGuard<'_, Vec<Unread>> {
        // Every change is whole before anything in it can panic.
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a response has been waiting for its reader for longer than that.
    fn has_unread(&self, patience: Duration) -> bool {
        let late = self.micros().saturating_sub(micros(patience));
        self.unread().iter().any(|response| response.kept_up < late)
    }

    fn micros(&self) -> u64 {
        micros(self.born.elapsed())
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
        if self.has_unread(patience.write) {
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
        // A ping or a window is no request.
        if self.is_http2.load(Ordering::Relaxed) {
            return;
        }
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

    /// Counts the request until the guard is dropped, and says how many of its kind there are with it.
    pub(crate) fn count_as(&mut self, counted: Counted) -> usize {
        self.uncount();
        self.counted = Some(counted);
        self.watch.limits.begin_request(counted)
    }

    fn uncount(&mut self) {
        if let Some(counted) = self.counted.take() {
            self.watch.limits.end_request(counted);
        }
    }

    /// Counts the bytes of a large response.
    pub(crate) fn unread(&self, bytes: usize, turn: Option<&Arc<Turn>>) -> Option<Arc<UnreadBytes>> {
        self.watch.limits.unread(bytes, turn).map(Arc::new)
    }

    /// Notes that so many bytes of the response wait for its reader.
    pub(crate) fn offered(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let now = self.watch.micros();
        let mut unread = self.watch.unread();
        match unread.iter_mut().find(|response| response.number == self.number) {
            Some(response) => response.bytes += bytes,
            None => unread.push(Unread { number: self.number, bytes, kept_up: now }),
        }
    }

    /// Notes that so many of them have left.
    pub(crate) fn sent(&self, bytes: usize) {
        let mut unread = self.watch.unread();
        let Some(place) = unread.iter().position(|response| response.number == self.number) else { return };
        let response = &mut unread[place];
        response.bytes = response.bytes.saturating_sub(bytes);
        if response.bytes == 0 {
            unread.swap_remove(place);
            return;
        }
        let taken = (bytes as u64).saturating_mul(1_000_000) / SLOWEST_READER;
        response.kept_up = response.kept_up.saturating_add(taken).min(self.watch.micros());
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.uncount();
        // Of a stream that was reset, or a connection that ended.
        self.sent(usize::MAX);
        if self.watch.answering.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.watch.quiet_since.store(self.watch.now(), Ordering::Relaxed);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { stream, watch }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.watch.heard();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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
        passed(&watch, watch.now() + 5);
        assert!(watch.is_over(&patience(1, 1000)), "the first request's headers never came");
        let answering = watch.answering();
        assert!(!watch.is_over(&patience(0, 0)), "it is our turn");
        drop(answering);
        assert!(!watch.is_over(&patience(0, 1000)), "idle is not slow");
        passed(&watch, watch.now() + 10);
        assert!(watch.is_over(&patience(1000, 1)), "idle for too long");
        watch.heard();
        assert!(!watch.is_over(&patience(1000, 0)), "a request is coming in");
    }

    #[test]
    fn who_does_not_read_ends_a_connection_and_a_stream_without_a_word_does_not() {
        let watch = new();
        let _answering = watch.answering();
        passed(&watch, watch.now() + 10);
        assert!(!watch.is_over(&patience(0, 0)), "nothing is to be written");
        watch.wrote(&Poll::Pending);
        assert!(!watch.is_over(&patience(0, 0)));
        passed(&watch, watch.now() + 20);
        assert!(watch.is_over(&patience(0, 0)), "not a byte more in 10 ms");
        watch.wrote(&Poll::Ready(Ok(1)));
        assert!(!watch.is_over(&patience(0, 0)), "a byte is enough");
    }

    #[test]
    fn a_response_that_nobody_reads_ends_a_connection_and_one_that_is_read_slowly_does_not() {
        let watch = new();
        let impatient = Patience { write: Duration::from_millis(50), ..patience(0, 0) };
        let answering = watch.answering();
        assert!(!watch.is_over(&impatient), "the tool has not answered yet");
        answering.offered(1 << 20);
        let until = watch.now() + 200;
        while watch.now() < until {
            // A byte at each poll is many, and not the rate that is asked for.
            passed(&watch, watch.now() + 5);
            answering.sent(1);
        }
        assert!(watch.is_over(&impatient), "a byte now and then is no progress");
        assert!(watch.stalled().is_some_and(|(is_all, _)| is_all));
        assert!(watch.idle().is_some(), "it makes room for others");
        answering.sent(10 * SLOWEST_READER as usize);
        assert!(!watch.is_over(&impatient), "its reader is slow and honest");
        assert!(watch.stalled().is_none());
        answering.sent(1 << 20);
        passed(&watch, watch.now() + 60);
        assert!(!watch.is_over(&impatient), "a stream with nothing to say");
        let other = watch.answering();
        other.offered(1);
        passed(&watch, watch.now() + 60);
        assert!(watch.is_over(&impatient), "each response has a clock of its own");
        drop(other);
        assert!(!watch.is_over(&impatient), "a stream that was reset is forgotten");
    }

    #[test]
    fn pings_between_http2_requests_neither_keep_a_connection_nor_end_it() {
        let watch = new();
        watch.speaks_http2();
        drop(watch.answering());
        passed(&watch, watch.now() + 10);
        watch.heard();
        passed(&watch, watch.now() + 10);
        assert!(!watch.is_over(&patience(5, 1000)), "a ping is not the beginning of a request");
        assert!(watch.is_over(&patience(1000, 5)), "nor is it one");
    }
}
