//! So many a second of each of them, whoever they are: governor's buckets, in a room that is bounded.

use std::{
    hash::Hash,
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed, keyed::HashMapStateStore},
};

/// A bucket for each key. One that is full again is forgotten.
pub(crate) struct Rates<K: Hash + Eq + Clone, C: Clock = MonotonicClock> {
    of_each: RateLimiter<K, HashMapStateStore<K>, C, NoOpMiddleware<C::Instant>>,
    /// The one bucket of all, while there are too many keys.
    of_all: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    is_crowded: AtomicBool,
    taken: AtomicU32,
    clock: C,
}

/// So many keys have buckets at once, some 100 bytes each.
const MOST: usize = 100_000;
/// How often full buckets are looked for: so many takings apart, which is also how far over the bound it may go.
const SWEPT_EVERY: u32 = 1024;

/// So many in so much time, and so many at once.
pub(crate) fn quota(rate: u32, burst: u32, each: Duration) -> Option<Quota> {
    let rate = NonZeroU32::new(rate)?;
    let burst = NonZeroU32::new(burst).unwrap_or(rate);
    Some(Quota::with_period(each / rate.get())?.allow_burst(burst))
}

// === impl Rates ===

impl<K: Hash + Eq + Clone> Rates<K> {
    pub(crate) fn new(quota: Quota) -> Self {
        Self::with_clock(quota, MonotonicClock)
    }
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Rates<K, C> {
    fn with_clock(quota: Quota, clock: C) -> Self {
        Self {
            of_each: RateLimiter::hashmap_with_clock(quota, clock.clone()),
            of_all: RateLimiter::direct_with_clock(quota, clock.clone()),
            is_crowded: AtomicBool::new(false),
            taken: AtomicU32::new(0),
            clock,
        }
    }

    /// Takes so many out of the bucket of this key; or says in how many seconds, rounded up, that may be done. More than a
    /// bucket holds is never there.
    pub(crate) fn take(&self, key: &K, count: u32) -> Result<(), u64> {
        let Some(count) = NonZeroU32::new(count) else { return Ok(()) };
        if self.taken.fetch_add(1, Ordering::Relaxed) % SWEPT_EVERY == SWEPT_EVERY - 1 {
            self.of_each.retain_recent();
            let is_crowded = self.of_each.len() >= MOST;
            if is_crowded != self.is_crowded.swap(is_crowded, Ordering::Relaxed) && !is_crowded {
                self.of_each.shrink_to_fit();
            }
        }
        let taken = match self.is_crowded.load(Ordering::Relaxed) {
            false => self.of_each.check_key_n(key, count),
            true => self.of_all.check_n(count),
        };
        match taken {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(seconds(until.wait_time_from(self.clock.now()))),
            Err(_) => Err(1),
        }
    }

    /// How many keys have a bucket.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.of_each.len()
    }
}

fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rates(rate: u32, burst: u32) -> (Rates<u32, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Rates::with_clock(quota(rate, burst, Duration::from_secs(1)).unwrap(), clock.clone()), clock)
    }

    #[test]
    fn a_bucket_is_one_keys_and_fills_again() {
        let (rates, clock) = rates(10, 20);
        assert!((0..20).all(|_| rates.take(&1, 1).is_ok()));
        assert_eq!(rates.take(&1, 1), Err(1));
        assert_eq!(rates.take(&1, 15), Err(2), "1.5 seconds are rounded up");
        assert_eq!(rates.take(&2, 20), Ok(()), "another one's is full");
        clock.advance(Duration::from_millis(100));
        assert_eq!((rates.take(&1, 1), rates.take(&1, 1)), (Ok(()), Err(1)));
        assert_eq!(rates.take(&3, 21), Err(1), "more than it holds");
    }

    #[test]
    fn no_number_of_keys_takes_more_than_bounded_room() {
        let (rates, clock) = rates(1, 1);
        let most = MOST as u32 + 2 * SWEPT_EVERY;
        let refused = (0..3 * most).filter(|key| rates.take(key, 1).is_err()).count();
        assert!(rates.count() <= MOST + SWEPT_EVERY as usize, "{}", rates.count());
        assert!(refused > most as usize, "who comes when it is full shares one bucket");
        clock.advance(Duration::from_secs(2));
        for key in 0..SWEPT_EVERY {
            let _ = rates.take(&key, 1);
        }
        assert!(rates.count() <= SWEPT_EVERY as usize, "full buckets are forgotten");
        assert_eq!(rates.take(&u32::MAX, 1), Ok(()), "and everybody has their own again");
    }

    #[test]
    fn a_rate_of_zero_is_none() {
        assert!(quota(0, 7, Duration::from_secs(1)).is_none());
        assert_eq!(quota(5, 0, Duration::from_secs(1)).unwrap().burst_size().get(), 5);
    }
}
