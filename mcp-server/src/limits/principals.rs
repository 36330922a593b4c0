//! What each principal has in flight. Who has nothing in flight is not known here.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Limit, PrincipalLimits};

/// What they all have in flight.
pub(crate) struct Principals {
    limits: PrincipalLimits,
    busy: Mutex<HashMap<Arc<str>, Busy>>,
}

/// What one of them has in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Busy {
    calls: usize,
    streams: usize,
    /// Bytes of responses that wait for their reader.
    unread: usize,
}

/// One call, or one stream, of a principal; or the calls of a batch. Dropping it is the end of it.
pub(crate) struct Turn {
    of: Arc<Principals>,
    who: Arc<str>,
    is_stream: bool,
    count: usize,
}

// === impl Principals ===

impl Principals {
    pub(crate) fn new(limits: PrincipalLimits) -> Self {
        Self { limits, busy: Mutex::default() }
    }

    /// Begins so many calls or streams, unless there are too many, or responses to them that nobody reads.
    pub(crate) fn begin(self: &Arc<Self>, who: &Arc<str>, is_stream: bool, count: usize) -> Result<Turn, Limit> {
        let mut all = self.lock();
        let busy = all.get(who).copied().unwrap_or_default();
        self.allow(busy, is_stream, count)?;
        if self.limits.unread > 0 && busy.unread >= self.limits.unread {
            return Err(Limit::UnreadOfPrincipal);
        }
        *all.entry(who.clone()).or_default().of(is_stream) += count;
        Ok(Turn { of: self.clone(), who: who.clone(), is_stream, count })
    }

    fn allow(&self, mut busy: Busy, is_stream: bool, count: usize) -> Result<(), Limit> {
        let (most, limit) = match is_stream {
            false => (self.limits.calls, Limit::CallsOfPrincipal),
            true => (self.limits.streams, Limit::StreamsOfPrincipal),
        };
        if most > 0 && busy.of(is_stream).saturating_add(count) > most { Err(limit) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Busy>> {
        // Every change is whole before anything in it can panic.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Busy ===

impl Busy {
    fn of(&mut self, is_stream: bool) -> &mut usize {
        if is_stream { &mut self.streams } else { &mut self.calls }
    }
}

// === impl Turn ===

impl Turn {
    /// Turns a call into a stream, when its answer shows that it has no end of its own, unless there are too many.
    pub(crate) fn become_stream(&mut self) -> Result<(), Limit> {
        let mut all = self.of.lock();
        let Some(busy) = all.get_mut(&self.who).filter(|_| !self.is_stream) else { return Ok(()) };
        self.of.allow(*busy, true, self.count)?;
        busy.calls -= self.count;
        busy.streams += self.count;
        self.is_stream = true;
        Ok(())
    }

    /// Takes the calls of another turn of the same principal over, so that they end together.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        if Arc::ptr_eq(&self.who, &other.who) || self.who == other.who {
            self.count += std::mem::take(&mut other.count);
        }
    }

    /// Counts bytes of a response that wait for their reader.
    pub(super) fn add_unread(&self, bytes: usize) {
        if let Some(busy) = self.of.lock().get_mut(&self.who) {
            busy.unread += bytes;
        }
    }

    pub(super) fn remove_unread(&self, bytes: usize) {
        if let Some(busy) = self.of.lock().get_mut(&self.who) {
            busy.unread = busy.unread.saturating_sub(bytes);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        let Some(busy) = all.get_mut(&self.who) else { return };
        *busy.of(self.is_stream) -= self.count;
        if *busy == Busy::default() {
            all.remove(&self.who);
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("is_stream", &self.is_stream).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_has_in_flight_is_nothing_to_another_and_is_forgotten_when_it_ends() {
        let limits = PrincipalLimits { calls: 2, streams: 1, ..PrincipalLimits::default() };
        let principals = Arc::new(Principals::new(limits));
        let (ada, bob): (Arc<str>, Arc<str>) = ("ada".into(), "bob".into());
        let mut first = principals.begin(&ada, false, 1).unwrap();
        let second = principals.begin(&ada, false, 1).unwrap();
        assert_eq!(principals.begin(&ada, false, 1).unwrap_err(), Limit::CallsOfPrincipal);
        let his = principals.begin(&bob, false, 1).unwrap();
        assert_eq!(first.become_stream(), Ok(()));
        assert_eq!(first.become_stream(), Ok(()), "it is one already");
        assert_eq!(principals.begin(&ada, true, 1).unwrap_err(), Limit::StreamsOfPrincipal);
        let mut third = principals.begin(&ada, false, 1).unwrap();
        assert_eq!(third.become_stream(), Err(Limit::StreamsOfPrincipal));
        drop(first);
        assert_eq!(third.become_stream(), Ok(()));
        drop((second, third, his));
        assert!(principals.lock().is_empty());
    }

    #[test]
    fn the_messages_of_a_batch_are_calls_until_their_batch_is_answered() {
        let principals = Arc::new(Principals::new(PrincipalLimits { calls: 4, ..PrincipalLimits::default() }));
        let ada: Arc<str> = "ada".into();
        let mut turn = principals.begin(&ada, false, 1).unwrap();
        assert_eq!(principals.begin(&ada, false, 4).unwrap_err(), Limit::CallsOfPrincipal);
        turn.absorb(principals.begin(&ada, false, 3).unwrap());
        assert_eq!(principals.begin(&ada, false, 1).unwrap_err(), Limit::CallsOfPrincipal);
        drop(turn);
        assert!(principals.lock().is_empty());
    }
}
