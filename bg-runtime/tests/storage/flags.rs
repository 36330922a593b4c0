//! A flag reaches every replica without a deploy.

use crate::home::{LONG, within};
use crate::sessions::{NAME, Releases, phase};

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_is_heard_of_shared_out_and_forgotten() {
    within(LONG, async {
        let releases = Releases::with_rows(0).await;
        let (coordinator, control) = (releases.coordinator().await, &releases.control);
        let principals: Vec<_> = (0..1000).map(|number| format!("principal {number}")).collect();
        let inside = || -> Vec<&str> {
            principals.iter().map(String::as_str).filter(|principal| control.allows("tool.book", principal)).collect()
        };
        assert_eq!((control.flag("tool.book"), inside().len()), (None, 1000));

        let mut before: Vec<&str> = Vec::new();
        for percent in [0, 30, 60, 100] {
            coordinator.set_flag("tool.book", Some(percent)).await.unwrap();
            control.wait_for(|snapshot| snapshot.flags.percent("tool.book") == Some(percent)).await;
            let now = inside();
            assert!(now.len().abs_diff(usize::from(percent) * 10) < 60, "{percent} percent let in {}", now.len());
            assert!(before.iter().all(|principal| now.contains(principal)), "who was in was put out");
            assert!(control.allows("tool.search", "ada"));
            before = now;
        }
        coordinator.set_flag("tool.book", Some(0)).await.unwrap();
        control.wait_for(|snapshot| snapshot.flags.percent("tool.book") == Some(0)).await;
        coordinator.set_flag("tool.book", None).await.unwrap();
        control.wait_for(|snapshot| snapshot.flags.percent("tool.book").is_none()).await;
        assert_eq!(inside().len(), 1000);

        // A share that is none leaves the coordinator as able as before.
        assert!(coordinator.set_flag("tool.book", Some(101)).await.is_err());
        assert!(phase(&coordinator).await > bg_runtime::storage::Phase::Idle, "{NAME}");
        coordinator.set_flag("tool.book", Some(100)).await.unwrap();
        drop(coordinator);
        releases.close().await;
    })
    .await;
}
