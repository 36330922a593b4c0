//! How many connections there are, so that file descriptors do not run out.
//!
//! What must stay true: whoever keeps a connection without using it makes room for whoever comes, and a probe is answered even
//! when there is no room to be made.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::connection::Watch;
use crate::limits::{Limit, Limits, address::place, tally::Tally};

/// All connections of a listener.
pub(crate) struct Connections {
    limits: Arc<Limits>,
    most: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    all: HashMap<u64, Arc<Watch>>,
    of_place: Tally<IpAddr>,
    /// Those that were given up and are still there.
    going: usize,
    /// When stalled responses were last looked for.
    searched: Option<Instant>,
}

/// One connection. Dropping it is its end.
pub(crate) struct Entered {
    connections: Arc<Connections>,
    number: u64,
    watch: Arc<Watch>,
}

/// Connections beyond the bound, for probes: each is answered once, and `/mcp` is not among what it may ask.
const EXTRA: usize = 64;
/// How many connections with stalled responses are given up at once. Each has at most 32 of them.
const STALLED_AT_ONCE: usize = 16;
/// How often stalled responses are looked for: all connections are gone through.
const SEARCHED_EVERY: Duration = Duration::from_millis(10);
/// Which share of the bound is given up at once, so that a full house does not look for room at each knock.
const SURPLUS: usize = 32;

// === impl Connections ===

impl Connections {
    /// At most so many; 0 is no limit.
    pub(crate) fn new(most: usize, limits: Arc<Limits>) -> Arc<Self> {
        Arc::new(Self { limits, most, open: Mutex::default() })
    }

    /// Lets a connection in, unless there is no room at all.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Entered> {
        let mut open = self.lock();
        if self.limits.has_too_many_connections(peer, open.of_place.of(&place(peer))) {
            drop(open);
            self.limits.note(Limit::ConnectionsOfAddress);
            return None;
        }
        let mut is_extra = false;
        if self.most > 0 && open.all.len() >= self.most + open.going {
            open.give_up((self.most / SURPLUS).max(1));
            is_extra = open.all.len() >= self.most + open.going;
            if is_extra {
                self.limits.note(Limit::Connections);
                if open.all.len() >= self.most + open.going + EXTRA {
                    return None;
                }
            }
        }
        let watch = Watch::new(peer, is_extra, self.limits.clone());
        let number = open.next;
        open.next += 1;
        open.all.insert(number, watch.clone());
        open.of_place.add(place(peer));
        Some(Entered { connections: self.clone(), number, watch })
    }

    /// Gives up connections whose clients do not read responses, those that have stalled the longest first; those that would lose
    /// a call in flight by it come last. Returns whether there may be room soon.
    pub(crate) fn give_up_stalled(&self) -> bool {
        let mut open = self.lock();
        if open.searched.is_some_and(|searched| searched.elapsed() < SEARCHED_EVERY) {
            return open.going > 0;
        }
        open.searched = Some(Instant::now());
        let mut stalled: Vec<_> = open
            .all
            .values()
            .filter(|watch| !watch.is_given_up())
            .filter_map(|watch| watch.stalled().map(|(is_all, since)| ((!is_all, since), watch.clone())))
            .collect();
        stalled.sort_unstable_by_key(|(order, _)| *order);
        for (_, watch) in stalled.into_iter().take(STALLED_AT_ONCE) {
            watch.give_up();
            open.going += 1;
        }
        open.going > 0
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Every change is whole before anything in it can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Open ===

impl Open {
    /// Gives up connections that nobody uses: those that never asked anything first, then those that are idle the longest.
    fn give_up(&mut self, count: usize) {
        let mut idle: Vec<_> = self.all.values().filter_map(|watch| Some((watch.idle()?, watch))).collect();
        idle.sort_unstable_by_key(|(idle, _)| *idle);
        for (_, watch) in idle.into_iter().take(count) {
            watch.give_up();
            self.going += 1;
        }
    }
}

// === impl Entered ===

impl Entered {
    pub(crate) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.all.remove(&self.number);
        if self.watch.is_given_up() {
            open.going -= 1;
        }
        open.of_place.remove(&place(self.watch.peer()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LimitsConfig, tests::limits};

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 2));

    fn connections(most: usize, of_address: usize) -> Arc<Connections> {
        let config = LimitsConfig { connections: most, connections_of_address: of_address, ..LimitsConfig::default() };
        Connections::new(most, Arc::new(limits(config).0))
    }

    #[test]
    fn who_does_nothing_makes_room_and_who_is_answered_stays() {
        let connections = connections(3, 0);
        let mut all: Vec<_> = (0..3).map(|_| connections.enter(PEER).unwrap()).collect();
        let first = all[0].watch().answering();
        drop(all[1].watch().answering());
        let next = connections.enter(PEER).unwrap();
        assert!(!next.watch().is_extra(), "there was room to be made");
        let gone: Vec<_> = all.iter().map(|entered| entered.watch().is_given_up()).collect();
        assert_eq!(gone, [false, false, true], "the one that never asked");
        all.remove(2);
        assert_eq!(connections.lock().going, 0);
        let another = connections.enter(PEER).unwrap();
        assert!(all[1].watch().is_given_up() || next.watch().is_given_up());
        drop((first, another));
    }

    #[test]
    fn a_probe_comes_in_where_nobody_makes_room_and_a_flood_does_not() {
        let connections = connections(2, 0);
        let all: Vec<_> = (0..2).map(|_| connections.enter(PEER).unwrap()).collect();
        let _busy: Vec<_> = all.iter().map(|entered| entered.watch().answering()).collect();
        let extra: Vec<_> = std::iter::from_fn(|| {
            let entered = connections.enter(PEER)?;
            let answering = entered.watch().answering();
            Some((entered, answering))
        })
        .collect();
        assert_eq!(extra.len(), EXTRA);
        assert!(extra.iter().all(|(entered, _)| entered.watch().is_extra()));
        drop((extra, all));
        assert!(connections.lock().all.is_empty() && connections.lock().of_place.len() == 0);
    }

    #[test]
    fn an_address_has_so_many_and_another_one_its_own() {
        let connections = connections(0, 2);
        let all: Vec<_> = (0..2).map(|_| connections.enter(PEER).unwrap()).collect();
        assert!(connections.enter(PEER).is_none());
        assert!(connections.enter(OTHER).is_some());
        drop(all);
        assert!(connections.enter(PEER).is_some());
    }

    #[test]
    fn responses_that_nobody_reads_make_room_and_a_call_in_flight_is_spared_if_it_can_be() {
        let connections = connections(0, 0);
        let (reads, mixed, stalls) =
            (connections.enter(PEER).unwrap(), connections.enter(PEER).unwrap(), connections.enter(PEER).unwrap());
        assert!(!connections.give_up_stalled());
        let _reading = reads.watch().answering();
        let (_call, other) = (mixed.watch().answering(), mixed.watch().answering());
        let answering = stalls.watch().answering();
        other.offered(10);
        answering.offered(10);
        while mixed.watch().stalled().is_none() || stalls.watch().stalled().is_none() {
            std::thread::yield_now();
        }
        // Stalled responses are looked for now and then.
        while !connections.give_up_stalled() {
            std::thread::yield_now();
        }
        let given_up = [&reads, &mixed, &stalls].map(|entered| entered.watch().is_given_up());
        assert_eq!(given_up, [false, true, true]);
        let order = [mixed.watch(), stalls.watch()].map(|watch| watch.stalled().map(|(is_all, _)| is_all));
        assert_eq!(order, [Some(false), Some(true)]);
    }
}
