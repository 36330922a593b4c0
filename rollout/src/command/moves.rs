//! `switch`, `rollback`, `abort` and `retire`: traffic that moves, and a color that goes.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use bg_runtime::Color;
use clap::Args;
use rollout::{
    chain,
    console::span,
    driver::{Driver, Observation},
    execute::{End, Settings},
    http::Http,
    journal::{Entry, Journal, JournalError, Lease},
    plan::{Goal, Manner},
    report::Report,
};
use serde_json::json;

use super::{
    Common, JOURNAL_WITHIN, REFUSED, Stop,
    deploy::{Tell, print_plan},
    ended,
};

/// `switch`
#[derive(Clone, Debug, Args)]
pub(crate) struct Switch {
    /// Which color. Without it, the one that is not live.
    to: Option<Color>,
    /// Go on in spite of what stands in the way.
    #[arg(long)]
    force: bool,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    tell: Tell,
}

/// `rollback` and `abort`
#[derive(Clone, Debug, Args)]
pub(crate) struct Rollback {
    /// To which color. Without it, the one that had the traffic before.
    to: Option<Color>,
    /// Why, for the journal and for alerts.
    #[arg(long)]
    reason: Option<String>,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    tell: Tell,
}

/// `retire`
#[derive(Clone, Debug, Args)]
pub(crate) struct Retire {
    /// Which color. Without it, the one that is not live.
    color: Option<Color>,
    /// For so long after the switch the old color is kept, because going back to it is instant.
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    warm: u64,
    /// Wait until that is over, and not refuse.
    #[arg(long)]
    wait: bool,
    /// How long to wait for what holds on to it; then it is stopped all the same.
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    max_age: u64,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    tell: Tell,
}

/// How often a waiting command looks whether the lease is free.
const LOOK: Duration = Duration::from_millis(250);

/// Takes the lease, waits for whoever has it, and lets nobody before move anything any more.
pub(super) async fn take(
    common: &Common,
    driver: &dyn Driver,
    journal: &Journal,
    seen: &Observation,
    wait: Duration,
) -> Result<Lease, Stop> {
    let begun = Instant::now();
    loop {
        match journal.take(&common.by, seen.epoch, false).await {
            Err(JournalError::Held(held)) if begun.elapsed() < wait => {
                tracing::debug!("{} is at it", held.holder);
                tokio::time::sleep(LOOK).await;
            }
            taken => {
                let lease = taken?;
                if let Err(failure) = driver.lock(&common.by, false).await {
                    lease.release().await;
                    return Err(failure.into());
                }
                driver.fence(lease.epoch()).await?;
                return Ok(lease);
            }
        }
    }
}

/// Gives up what was taken.
pub(super) async fn let_go(driver: &dyn Driver, lease: Lease) {
    driver.unlock().await;
    lease.release().await;
}

/// Begins a rollout in the journal, or goes on with the one that is open when it is the same.
async fn begin(journal: &Journal, entry: Entry) -> Result<Entry, JournalError> {
    match journal.begin(&entry).await {
        Err(JournalError::Open(id)) => match journal.open_entry().await? {
            Some(open) if (&open.goal, open.from, open.to) == (&entry.goal, entry.from, entry.to) => Ok(open),
            _ => Err(JournalError::Open(id)),
        },
        begun => begun.map(|()| entry),
    }
}

/// Whether a plan may be begun; a dry run prints it.
fn may_begin(common: &Common, goal: &Goal, seen: &Observation, dry_run: bool, force: bool) -> Result<bool, Stop> {
    if dry_run {
        return if print_plan(common, goal, &Manner::default(), seen, None) {
            Ok(false)
        } else {
            Err(Stop(String::new(), REFUSED))
        };
    }
    let obstacles = rollout::plan::plan(goal, &Manner::default(), seen, &[]).obstacles;
    if obstacles.is_empty() || force { Ok(true) } else { Err(Stop(obstacles.join("\n       "), REFUSED)) }
}

pub(crate) async fn switch(common: Common, switch: Switch, commanded: Instant) -> ExitCode {
    let run = async {
        let http = Http::new();
        let driver = common.driver(&http).await?;
        let (journal, seen) = tokio::join!(common.journal(), driver.observe());
        let (journal, seen) = (journal?, seen?);
        let to = switch.to.or_else(|| seen.live().map(Color::other));
        let Some(to) = to else {
            let words = "both colors get traffic: say which one is to get all of it, `rollout switch blue` or `green`";
            return Err(Stop(words.to_owned(), REFUSED));
        };
        let goal = Goal::Switch { to, back: false, stop: false };
        if !may_begin(&common, &goal, &seen, switch.dry_run, switch.force)? {
            return Ok(None);
        }
        let lease = take(&common, &*driver, &journal, &seen, Duration::ZERO).await?;
        let entry = begin(&journal, common.entry(&goal, &seen)).await?;
        let settings = Settings { force: switch.force, ..common.settings(&switch.tell) };
        let held = Some((journal, lease));
        Ok(Some(common.run(&goal, entry, driver, http, held, settings, &switch.tell, &seen, commanded).await))
    };
    ended(&common, run.await)
}

pub(crate) async fn rollback(common: Common, back: Rollback, commanded: Instant, is_abort: bool) -> ExitCode {
    ended(&common, begin_rollback(&common, &back, commanded, is_abort).await)
}

async fn begin_rollback(
    common: &Common,
    back: &Rollback,
    commanded: Instant,
    is_abort: bool,
) -> Result<Option<(End, Report)>, Stop> {
    let http = Http::new();
    let driver = common.driver(&http).await?;
    let console = common.console();
    let seen = driver.observe().await?;
    // Whatever the journal does, it is not in the way: going back is for when everything else goes wrong.
    let asked = tokio::time::timeout(JOURNAL_WITHIN, async {
        let journal = common.journal().await?;
        // Whoever is at it has to let go: that is what going back from any state means.
        let lease = if back.dry_run { None } else { Some(journal.take(&common.by, seen.epoch, true).await?) };
        // Read once nobody else acts.
        let open = journal.open_entry().await?;
        Ok::<_, Stop>((journal, lease, open))
    });
    let (journal, lease, open) = match asked.await {
        Ok(Ok((journal, lease, open))) => (Some(journal), lease, open),
        Ok(Err(Stop(words, _))) => {
            console.warn(&format!("{words}: it goes on without a journal and without a lease"));
            (None, None, None)
        }
        Err(_) => {
            console.warn("the journal does not answer: it goes on without it and without a lease");
            (None, None, None)
        }
    };
    let unleased = lease.as_ref().map_or(seen.epoch.saturating_add(1), Lease::epoch);
    if !back.dry_run {
        // A lock that cannot be had is no more in the way than the journal.
        if let Err(failure) = driver.lock(&common.by, true).await {
            console.warn(&format!("{}: it goes on without the platform's lock", chain(&failure)));
        }
        // Who was at it moves nothing from now on, wherever it is in what it does.
        driver.fence(unleased).await?;
    }
    let seen = driver.observe().await?;
    if is_abort && open.is_none() {
        let words = "no rollout is open, so there is nothing to abort; `rollout status` says what is live";
        return Err(Stop(words.to_owned(), REFUSED));
    }
    let did = if is_abort { "aborted it" } else { "went back" };
    let reason = rollout::plain(&back.reason.clone().unwrap_or_else(|| format!("{} {did}", common.by)));
    let to = match (&back.to, &open) {
        (Some(to), _) => Some(*to),
        (None, Some(open)) if open.goal == "rollback" => Some(open.to),
        (None, Some(open)) if open.goal != "retire" => Some(open.from),
        (None, Some(_)) if is_abort => seen.live(),
        _ => seen.before,
    };
    // A retire moves no traffic, and a rollback of one neither: it is over, and that is all.
    if let (Some(open), Some(journal), true) = (&open, &journal, is_abort && !back.dry_run)
        && open.goal == "retire"
    {
        let _ = tokio::time::timeout(JOURNAL_WITHIN, journal.end(&open.id, "aborted", Some(&reason), None)).await;
        console.ends(&json!({ "outcome": "done", "aborted": open.id }), &format!("{} is aborted", open.id), true);
        return Ok(None);
    }
    let Some(to) = to else {
        let live = seen.live().map_or_else(|| "both colors get traffic".to_owned(), |live| format!("{live} is live"));
        let words = format!(
            "{live}, and nothing is known that it was switched from: say which color is to get all traffic, `rollout rollback \
             blue` or `green`"
        );
        return Err(Stop(words, REFUSED));
    };
    let started = open.as_ref().filter(|open| open.goal == "deploy" && open.to == to.other());
    let stop = started.is_some_and(|open| seen.slot(open.to).image == open.image && open.image.is_some());
    let goal = Goal::Switch { to, back: true, stop };
    let stays = seen.share(to) == 100;
    // Where the traffic is already there, nobody has to be ready to take it.
    if !may_begin(common, &goal, &seen, back.dry_run, stays)? {
        return Ok(None);
    }
    let entry = common.entry(&goal, &seen);
    let held = match (journal, lease) {
        (Some(journal), Some(lease)) => {
            let written = tokio::time::timeout(JOURNAL_WITHIN, async {
                if let Some(open) = open.as_ref().filter(|open| open.goal != "rollback" || open.to != to) {
                    journal.end(&open.id, "aborted", Some(&reason), None).await?;
                }
                begin(&journal, entry.clone()).await
            });
            match written.await {
                Ok(Ok(begun)) => Some((journal, lease, begun)),
                Ok(Err(failure)) => {
                    console.warn(&format!("{}: it goes on without a journal", chain(&failure)));
                    None
                }
                Err(_) => {
                    console.warn("the journal does not answer: it goes on without it");
                    None
                }
            }
        }
        _ => None,
    };
    let (held, entry) = match held {
        Some((journal, lease, begun)) => (Some((journal, lease)), begun),
        None => (None, entry),
    };
    let seen = Observation { epoch: unleased, ..seen };
    let settings = Settings { force: true, ..common.settings(&back.tell) };
    Ok(Some(common.run(&goal, entry, driver, http, held, settings, &back.tell, &seen, commanded).await))
}

pub(crate) async fn retire(common: Common, retire: Retire, commanded: Instant) -> ExitCode {
    let run = async {
        let http = Http::new();
        let driver = common.driver(&http).await?;
        let (journal, seen) = (common.journal().await?, driver.observe().await?);
        let color = retire.color.or_else(|| seen.live().map(Color::other));
        let Some(color) = color else { return Err(Stop("both colors get traffic: switch first".to_owned(), REFUSED)) };
        let goal = Goal::Retire { color };
        if !may_begin(&common, &goal, &seen, retire.dry_run, false)? {
            return Ok(None);
        }
        let lease = take(&common, &*driver, &journal, &seen, Duration::ZERO).await?;
        let left = journal.warm_for(color, retire.warm).await?;
        if !left.is_zero() && !retire.wait {
            let_go(&*driver, lease).await;
            let words = format!(
                "{color} is kept warm for {} more, because going back to it is instant: --wait waits, --warm 0 does not",
                span(left)
            );
            return Err(Stop(words, REFUSED));
        }
        tokio::time::sleep(left).await;
        let entry = begin(&journal, common.entry(&goal, &seen)).await?;
        let settings = Settings { drained_within: Duration::from_secs(retire.max_age), ..common.settings(&retire.tell) };
        let held = Some((journal, lease));
        Ok(Some(common.run(&goal, entry, driver, http, held, settings, &retire.tell, &seen, commanded).await))
    };
    ended(&common, run.await)
}
