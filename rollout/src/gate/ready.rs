//! Ready at the live color's size: every replica that is wanted says so, and all are one build.

use std::time::{Duration, Instant};

use super::{Context, Finding, either};

/// How long a replica may be in trouble before that is taken to be its fault.
const TROUBLE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn ask(context: &Context<'_>) -> Finding {
    either(wait(context).await)
}

async fn wait(context: &Context<'_>) -> Result<Finding, Finding> {
    let begun = Instant::now();
    let mut trouble_since = None;
    loop {
        let seen = context.observe().await?;
        let slot = seen.slot(context.color);
        let (ready, wanted) = (slot.ready(), context.replicas as usize);
        if ready >= wanted && wanted > 0 {
            let Some(build) = slot.build() else {
                return Err(Finding::failed(format!("the replicas of {} are of different builds", context.color)));
            };
            let words = format!("{ready} of {} of {} ready, build {build}", crate::count(wanted, "replica"), context.color);
            return Ok(Finding::passed(words).with("build", build));
        }
        (context.progress)(&format!("{ready} of {wanted} replicas are ready"));
        match &slot.trouble {
            Some(trouble) => {
                let since: Instant = *trouble_since.get_or_insert_with(Instant::now);
                if since.elapsed() > TROUBLE {
                    return Err(Finding::failed(format!("{} does not come up: {trouble}", context.color)));
                }
            }
            None => trouble_since = None,
        }
        if begun.elapsed() > context.limits.ready_within {
            let waits = waits_for(context, &slot.replicas).await;
            let words = format!("{ready} of {wanted} replicas are ready after {:.0?}{waits}", begun.elapsed());
            return Err(Finding::failed(words));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the first one that is not ready says it waits for.
async fn waits_for(context: &Context<'_>, replicas: &[crate::driver::Replica]) -> String {
    let Some(replica) = replicas.iter().find(|replica| !replica.ready) else { return String::new() };
    let address = format!("http://{}/ready", replica.operations);
    let Ok(answer) = context.http.get(&address, Duration::from_secs(2)).await else { return String::new() };
    let said = answer.json();
    let names = said["waitingFor"].as_array().into_iter().flatten();
    let names: Vec<_> = names
        .map(|finding| {
            let problem = finding["problem"].as_str().unwrap_or_default();
            format!("{} ({problem})", finding["name"].as_str().unwrap_or_default())
        })
        .collect();
    if names.is_empty() { String::new() } else { format!("; {} waits for {}", replica.name, names.join(", ")) }
}
