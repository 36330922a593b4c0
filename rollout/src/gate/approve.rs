//! A person's yes: `rollout approve` writes it into the journal, from wherever that person is.

use std::time::{Duration, Instant};

use super::{Context, Finding};

const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn ask(context: &Context<'_>) -> Finding {
    let (Some(journal), Some(id)) = (context.journal, context.rollout) else {
        return Finding::failed("there is no rollout to approve");
    };
    let begun = Instant::now();
    loop {
        match journal.entry(id).await {
            Ok(Some(entry)) if entry.state != "open" => return Finding::failed(format!("the rollout is {}", entry.state)),
            Ok(Some(entry)) => {
                if let Some(by) = entry.approved_by {
                    return Finding::passed(format!("approved by {by}")).with("approved by", by);
                }
            }
            Ok(None) => return Finding::failed("the rollout is not in the journal"),
            // A person takes an hour, and a database may be away for a minute of it.
            Err(failure) => tracing::warn!("the journal: {}", crate::chain(&failure)),
        }
        let within = context.limits.approve_within;
        if begun.elapsed() > within {
            return Finding::failed(format!("nobody said yes within {within:?}"));
        }
        (context.progress)("waits for `rollout approve`");
        tokio::time::sleep(LOOK).await;
    }
}
