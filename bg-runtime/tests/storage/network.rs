//! A network that breaks or goes silent costs time, and no write that was acknowledged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bg_runtime::storage::Phase;

use self::chaos::{Network, Proxy};
use crate::home::{Home, LONG, within};
use crate::sessions::{Load, NAME, Pen, Releases, impatient, migrated, phase};

#[expect(unreachable_pub, reason = "shared with another crate")]
#[path = "../../../tests/support/chaos.rs"]
mod chaos;

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_stalled_and_restored_costs_no_acknowledged_write() {
    within(2 * LONG, async {
        let home = Home::new();
        let operator = migrated(&home, 30).await;
        let proxy = Proxy::start(home.directory.join("socket/.s.PGSQL.5432"), Network::Open).await;
        let releases = Releases::join(home, operator, impatient(proxy.url())).await;
        let mut coordinator = releases.coordinator().await;
        let pens = vec![
            Pen::Blue(releases.blue.clone()),
            Pen::Unaware(releases.before.clone()),
            Pen::Green(releases.green.clone()),
            Pen::Green(releases.green.clone()),
        ];
        let all = [0, 1, 2, 3];
        let load = Load::start(30, pens, i64::MAX);
        for network in [Network::Cut, Network::Stalled, Network::Cut, Network::Stalled] {
            load.more("everybody writes", &all, |tally| &tally.acknowledged, 50).await;
            proxy.set(network);
            load.more("everybody is told", &all, |tally| &tally.retried, 2).await;
            // What the replicas cannot hear of now.
            let moved = match phase(&coordinator).await {
                Phase::Dual => coordinator.back(NAME, false).await.unwrap(),
                _ => coordinator.advance(NAME).await.unwrap(),
            };
            proxy.set(Network::Open);
            let heard = releases.control.wait_for(|snapshot| snapshot.phase(NAME) == moved);
            tokio::time::timeout(Duration::from_secs(8), heard).await.expect("the phase is heard of once the network is back");
        }
        load.more("everybody writes", &all, |tally| &tally.acknowledged, 50).await;
        for tally in load.tallies() {
            let longest = tally.longest_ms.load(Ordering::SeqCst);
            // A read and a write, each of which may wait for a place, a new connection and an answer.
            assert!(longest < 10_000, "somebody waited {longest} ms");
        }
        load.stop().await.check(&releases.operator).await;
        for database in [&releases.before, &releases.during] {
            let status = database.status();
            assert!(status.open <= status.pool_size && status.waiting == 0, "{status:?}");
        }
        drop(coordinator);
        releases.close().await;
    })
    .await;
}
