//! Limits how often one event is logged, so that a flood of requests is not a flood of log lines.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Long enough that the log of a flood stays readable, short enough that its beginning and its end can be seen.
const INTERVAL: Duration = Duration::from_secs(1);

/// When an event was last logged, in milliseconds since the owner was created, and how often it occurred since.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    logged_at: AtomicU64,
    pending: AtomicU64,
}

impl Throttle {
    /// Counts one event. Returns how many there were since the last line when another line may be logged now. `created` is
    /// when the owner was created.
    pub(crate) fn count(&self, created: Instant) -> Option<u64> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(created.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let last = self.logged_at.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= INTERVAL.as_millis() as u64;
        let is_ours = is_due && self.logged_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_ours.then(|| self.pending.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second_and_every_event_is_counted() {
        let (throttle, created) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.count(created), Some(1));
        assert!((0..99).all(|_| throttle.count(created).is_none()));
        // The same throttle a second later.
        let earlier =
            created.checked_sub(INTERVAL + Duration::from_millis(10)).expect("the clock of the machine is older than a second");
        assert_eq!(throttle.count(earlier), Some(100));
    }
}
