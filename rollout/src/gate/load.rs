//! Load on the new color directly, before a client meets it: the live color's rate times a factor, bounded in rate, number
//! and time. Calls are begun when they are due, whether or not those before have been answered, and their time counts from
//! then: a color that falls behind cannot hide it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Context, Finding, either,
    mcp::{self, Client},
};
use crate::http::Http;

/// No more than this at once: a color that does not answer is not asked for ever.
const AT_ONCE: usize = 256;

pub(super) async fn ask(context: &Context<'_>) -> Finding {
    either(load(context).await)
}

async fn load(context: &Context<'_>) -> Result<Finding, Finding> {
    let replicas = context.replicas().await?;
    let tools = Client { http: context.http, address: &replicas[0].address }.list("tools/list", "tools").await;
    let tools = tools.map_err(Finding::failed)?;
    let probes = mcp::probes(&context.limits.probes, &tools);
    let Some((tool, arguments)) = probes.first().cloned() else {
        let words = "no tool is known that only reads: name one with --probe 'TOOL={…}', or leave this gate out with --skip load";
        return Err(Finding::failed(words));
    };
    let limits = context.limits;
    let (least, most) = (limits.load_rate.0.max(0.1), limits.load_rate.1.max(0.1));
    let rate = (context.live_rate * limits.load_factor).max(least).min(most);
    let calls = (rate * limits.load_for.as_secs_f64()).ceil().max(1.0) as usize;
    let (http, open) = (Http::keeping_connections().bearing(context.limits.token.as_ref()), Arc::new(AtomicUsize::new(0)));
    let params = Arc::new(json!({ "name": tool, "arguments": arguments }));
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    // Those that are late are made up for: that is what a queue of clients does.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asked = JoinSet::new();
    let mut turned_away = 0;
    for number in 0..calls {
        let due = ticks.tick().await;
        if open.load(Ordering::Relaxed) >= AT_ONCE {
            turned_away += 1;
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let address = replicas[number % replicas.len()].address.clone();
        let (http, open, params) = (http.clone(), open.clone(), params.clone());
        asked.spawn(async move {
            let result = Client { http: &http, address: &address }.ask("tools/call", &params).await;
            open.fetch_sub(1, Ordering::Relaxed);
            let result = result.and_then(|result| if result["isError"] == true { Err("a tool's error".into()) } else { Ok(()) });
            (Instant::now() - due, result.err())
        });
        if number % 25 == 0 {
            (context.progress)(&format!("{number} of {calls} calls of {tool} at {rate:.0} per second"));
        }
    }
    let mut took = Vec::with_capacity(calls);
    let mut problems = Vec::new();
    while let Some(ended) = asked.join_next().await {
        match ended {
            Ok((time, None)) => took.push(time),
            Ok((_, Some(problem))) => problems.push(problem),
            Err(failure) => problems.push(failure.to_string()),
        }
    }
    took.sort_unstable();
    let quantile = |share: f64| took.get(((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1))).copied();
    let (p50, p99) = (quantile(0.5).unwrap_or_default(), quantile(0.99).unwrap_or_default());
    let failed = problems.len() + turned_away;
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let words = format!("{calls} calls of {tool} at {rate:.0} per second: p50 {}, p99 {}, {failed} failed", ms(p50), ms(p99));
    let mut finding = Finding::passed(words)
        .with("rate", format!("{rate:.0} per second (live: {:.1})", context.live_rate))
        .with("p50", ms(p50))
        .with("p99", ms(p99))
        .with("failed", failed.to_string());
    if turned_away > 0 {
        finding = finding.with("not begun", format!("{turned_away}: {AT_ONCE} were in flight"));
    }
    if let Some(first) = problems.first() {
        finding = finding.with("first failure", first.clone());
    }
    if failed as f64 > calls as f64 * limits.load_errors {
        finding.passed = false;
        let first = problems.first().map_or_else(String::new, |first| format!(" ({first})"));
        finding.words = format!("{failed} of {calls} calls failed under load{first}");
    } else if p99 > limits.load_p99 {
        finding.passed = false;
        finding.words =
            format!("slow under load: p99 {} at {rate:.0} calls per second, the limit is {:?}", ms(p99), limits.load_p99);
    }
    if finding.passed { Ok(finding) } else { Err(finding) }
}
