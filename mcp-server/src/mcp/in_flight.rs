//! The requests of sessions that are in flight in this process, by the ids that their clients gave them. Only a cancellation
//! looks here: it names a request by an id that several may have, and means the newest.
//!
//! A call on the fast path is entered when it first waits, so that one that does not wait costs nothing.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use super::request_id::{internal, normalized};

/// The requests in flight.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// By a keyed hash of session and id, and the order in which they came.
    requests: Mutex<BTreeMap<Position, Entry>>,
    hasher: RandomState,
    sequence: AtomicU64,
}

type Position = (u64, u64);

#[derive(Debug)]
enum Entry {
    /// On the fast path.
    Call { waker: Waker, is_cancelled: bool },
    /// In a service of rmcp's, under this id.
    Service { internal: Arc<str>, is_cancelled: bool },
}

/// What a cancellation reached.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// A call on the fast path, which ends by itself.
    Call,
    /// A request that a service of rmcp's has under this id.
    Service(Arc<str>),
}

/// A request that a service of rmcp's has. It is in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct ServiceRequest {
    in_flight: Arc<InFlight>,
    position: Position,
    internal: Arc<str>,
}

/// Resolves when the client cancels a call on the fast path.
#[derive(Debug)]
pub(crate) struct Cancelled<'a> {
    in_flight: &'a InFlight,
    session: &'a str,
    id: &'a str,
    position: Option<Position>,
}

// === impl InFlight ===

impl InFlight {
    /// Enters a request that is about to be handed to rmcp.
    pub(crate) fn enter(self: &Arc<Self>, session: &str, id: &str) -> ServiceRequest {
        let position = self.next(session, id);
        let internal: Arc<str> = internal(position.1, id).into();
        self.lock().insert(position, Entry::Service { internal: internal.clone(), is_cancelled: false });
        ServiceRequest { in_flight: self.clone(), position, internal }
    }

    /// Waits until the client cancels a call on the fast path.
    pub(crate) fn cancelled<'a>(&'a self, session: &'a str, id: &'a str) -> Cancelled<'a> {
        Cancelled { in_flight: self, session, id, position: None }
    }

    /// Cancels the newest request of the session with this id that is not cancelled yet.
    pub(crate) fn cancel(&self, session: &str, id: &str) -> Option<Reached> {
        let key = self.key(session, id);
        let mut requests = self.lock();
        for (_, entry) in requests.range_mut((key, 0)..=(key, u64::MAX)).rev() {
            match entry {
                Entry::Call { waker, is_cancelled } if !*is_cancelled => {
                    *is_cancelled = true;
                    waker.wake_by_ref();
                    return Some(Reached::Call);
                }
                Entry::Service { internal, is_cancelled } if !*is_cancelled => {
                    *is_cancelled = true;
                    return Some(Reached::Service(internal.clone()));
                }
                Entry::Call { .. } | Entry::Service { .. } => {}
            }
        }
        None
    }

    fn next(&self, session: &str, id: &str) -> Position {
        (self.key(session, id), self.sequence.fetch_add(1, Ordering::Relaxed))
    }

    fn key(&self, session: &str, id: &str) -> u64 {
        self.hasher.hash_one((session, normalized(id)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Position, Entry>> {
        // Every change above is whole before anything in it can panic.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl ServiceRequest ===

impl ServiceRequest {
    /// The number that makes its id unique.
    pub(crate) fn sequence(&self) -> u64 {
        self.position.1
    }

    /// The id that rmcp knows it by.
    pub(crate) fn internal(&self) -> &str {
        &self.internal
    }

    /// Whether its client has cancelled it.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self.in_flight.lock().get(&self.position), Some(Entry::Service { is_cancelled: true, .. }))
    }
}

impl Drop for ServiceRequest {
    fn drop(&mut self) {
        self.in_flight.lock().remove(&self.position);
    }
}

// === impl Cancelled ===

impl Future for Cancelled<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let position = *this.position.get_or_insert_with(|| this.in_flight.next(this.session, this.id));
        let mut requests = this.in_flight.lock();
        let entry =
            requests.entry(position).or_insert_with(|| Entry::Call { waker: context.waker().clone(), is_cancelled: false });
        let Entry::Call { waker, is_cancelled } = entry else { return Poll::Pending };
        waker.clone_from(context.waker());
        if *is_cancelled { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if let Some(position) = self.position {
            self.in_flight.lock().remove(&position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_cancelled(call: &mut Pin<&mut Cancelled<'_>>) -> bool {
        call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_cancellation_reaches_the_newest_request_with_that_id_in_that_session() {
        let in_flight = Arc::new(InFlight::default());
        let older = in_flight.enter("a", "1");
        let mut newer = std::pin::pin!(in_flight.cancelled("a", "1"));
        assert!(!is_cancelled(&mut newer));
        for (session, id) in [("b", "1"), ("a", "2"), ("a", r#""1""#)] {
            assert_eq!(in_flight.cancel(session, id), None, "{session} {id}");
        }
        assert_eq!(in_flight.cancel("a", "1.0"), Some(Reached::Call));
        assert!(is_cancelled(&mut newer) && !older.is_cancelled());
        assert_eq!(in_flight.cancel("a", "1"), Some(Reached::Service(older.internal().into())));
        assert!(older.is_cancelled());
        assert_eq!(in_flight.cancel("a", "1"), None, "both are cancelled");
    }

    #[test]
    fn what_has_ended_is_not_kept() {
        let in_flight = Arc::new(InFlight::default());
        let request = in_flight.enter("a", "1");
        {
            let mut waiting = std::pin::pin!(in_flight.cancelled("a", "1"));
            assert_eq!(in_flight.lock().len(), 1, "a call that never waits is not entered");
            assert!(!is_cancelled(&mut waiting));
            assert_eq!(in_flight.lock().len(), 2);
        }
        drop(request);
        assert!(in_flight.lock().is_empty());
    }
}
