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
}

/// One call, or one stream, of a principal. Dropping it is the end of it.
pub(crate) struct Turn {
    of: Arc<Principals>,
    who: Arc<str>,
    is_stream: bool,
}

// === impl Principals ===

impl Principals {
    pub(crate) fn new(limits: PrincipalLimits) -> Self {
        Self { limits, busy: Mutex::default() }
    }

    /// Begins a call or a stream, unless there are too many.
    pub(crate) fn begin(self: &Arc<Self>, who: &Arc<str>, is_stream: bool) -> Result<Turn, Limit> {
        let mut all = self.lock();
        let busy = all.get(who).copied().unwrap_or_default();
        self.allow(busy, is_stream)?;
        *all.entry(who.clone()).or_default().of(is_stream) += 1;
        Ok(Turn { of: self.clone(), who: who.clone(), is_stream })
    }

    fn allow(&self, mut busy: Busy, is_stream: bool) -> Result<(), Limit> {
        let (most, limit) = match is_stream {
            false => (self.limits.calls, Limit::CallsOfPrincipal),
            true => (self.limits.streams, Limit::StreamsOfPrincipal),
        };
        if most > 0 && *busy.of(is_stream) >= most { Err(limit) } else { Ok(()) }
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
        self.of.allow(*busy, true)?;
        busy.calls -= 1;
        busy.streams += 1;
        self.is_stream = true;
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        let Some(busy) = all.get_mut(&self.who) else { return };
        *busy.of(self.is_stream) -= 1;
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
        let mut first = principals.begin(&ada, false).unwrap();
        let second = principals.begin(&ada, false).unwrap();
        assert_eq!(principals.begin(&ada, false).unwrap_err(), Limit::CallsOfPrincipal);
        let his = principals.begin(&bob, false).unwrap();
        assert_eq!(first.become_stream(), Ok(()));
        assert_eq!(first.become_stream(), Ok(()), "it is one already");
        assert_eq!(principals.begin(&ada, true).unwrap_err(), Limit::StreamsOfPrincipal);
        let mut third = principals.begin(&ada, false).unwrap();
        assert_eq!(third.become_stream(), Err(Limit::StreamsOfPrincipal));
        drop(first);
        assert_eq!(third.become_stream(), Ok(()));
        drop((second, third, his));
        assert!(principals.lock().is_empty());
    }
}
