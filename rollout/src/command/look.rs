//! `status`, `history`, `smoke`, `gate`, `approve` and `unlock`: looking, and the word of a person.

use std::{process::ExitCode, time::Duration};

use bg_runtime::Color;
use clap::Args;
use rollout::{
    console::{Console, span},
    driver::Slot,
    gate::{self, Gate},
    http::Http,
};
use serde_json::json;

use super::{Common, FAILED, JOURNAL_WITHIN, REFUSED, Stop, deploy::Gates};

/// `smoke`
#[derive(Clone, Debug, Args)]
pub(crate) struct AskGate {
    /// Which color. Without it, the idle one.
    #[arg(long)]
    color: Option<Color>,
    #[command(flatten)]
    gates: Gates,
}

/// `gate`
#[derive(Clone, Debug, Args)]
pub(crate) struct AskNamedGate {
    /// migrate, ready, smoke, contract, validate, load or approve.
    pub(crate) gate: Gate,
    #[command(flatten)]
    pub(crate) ask: AskGate,
}

/// `history`
#[derive(Clone, Debug, Args)]
pub(crate) struct History {
    /// How many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..))]
    most: i64,
}

pub(crate) async fn status(common: Common) -> ExitCode {
    let run = async {
        let driver = common.driver(&Http::new()).await?;
        let seen = driver.observe().await?;
        let journal = tokio::time::timeout(JOURNAL_WITHIN, common.journal()).await;
        let (held, open, step, problem) = match journal {
            Ok(Ok(journal)) => {
                let open = journal.open_entry().await?;
                let steps = match &open {
                    Some(open) => journal.steps(&open.id).await?,
                    None => Vec::new(),
                };
                (journal.held().await?, open, steps.into_iter().next_back(), None)
            }
            Ok(Err(Stop(words, _))) => (None, None, None, Some(words)),
            Err(_) => (None, None, None, Some("the journal does not answer".to_owned())),
        };
        let console = common.console();
        if common.json {
            let value = json!({ "platform": driver.platform(), "entrance": driver.entrance(), "live": seen.live(),
                "seen": seen, "lease": held, "open": open, "step": step, "problem": problem });
            console.ends(&value, "", true);
            return Ok::<_, Stop>(());
        }
        let live = seen.live().map_or_else(|| format!("{} % go to green", seen.green_percent), |live| format!("{live} is live"));
        console.say(&format!("{live} at {}", driver.entrance()));
        for color in [Color::Blue, Color::Green] {
            say_slot(&console, color, seen.slot(color), seen.share(color));
        }
        for color in [Color::Blue, Color::Green] {
            if seen.share(color) > 0 && seen.slot(color).ready() == 0 {
                console.say(&format!("\n{} % OF THE TRAFFIC GO TO {color}, AND NO REPLICA OF IT IS READY", seen.share(color)));
            }
        }
        if let Some(open) = open {
            let at = step.map_or_else(String::new, |step| format!(", at `{}` ({})", step.step, step.state));
            let what = open.image.as_ref().map_or_else(String::new, |image| {
                let names: Vec<_> = image.environment.keys().map(|name| format!(" --env {name}=…")).collect();
                format!(" {}{}", image.name, names.concat())
            });
            console.say(&format!("\nnot finished{at}: `rollout {}{what}` by {} ({})", open.goal, open.by, open.id));
            match &held {
                Some(held) => console.say(&format!("  {} is at it, for {} s more unless it goes on", held.holder, held.seconds)),
                None => console.say("  NOBODY IS AT IT: that command goes on with it, `rollout abort` ends it"),
            }
            if open.approved_by.is_none() && at.contains("`approve`") {
                console.say("  it waits for a person: `rollout approve`");
            }
        } else if let Some(held) = held {
            console.say(&format!("\n{} is at it, for {} s more unless it goes on", held.holder, held.seconds));
        }
        if let Some(problem) = problem {
            console.say(&format!("\nTHE JOURNAL CANNOT BE READ: {problem}\n`rollout rollback` works all the same"));
        }
        Ok(())
    };
    match run.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => common.report(&stop),
    }
}

fn say_slot(console: &Console, color: Color, slot: &Slot, share: u8) {
    if slot.is_empty() {
        return console.say(&format!("\n{color}  {share} %  nothing runs"));
    }
    let image = slot.image.as_ref().map_or("nothing", |image| &image.name);
    let build = slot.build().unwrap_or("no build");
    console.say(&format!("\n{color}  {share} %  {} of {} ready  {build}\n  {image}", slot.ready(), slot.wanted));
    for replica in &slot.replicas {
        let state = match replica {
            replica if replica.leaving => "leaving",
            replica if replica.ready => "ready",
            _ => "not ready",
        };
        console.say(&format!(
            "  {:10} {state:9}  http://{}  operations http://{}",
            replica.name, replica.address, replica.operations
        ));
    }
    if let Some(trouble) = &slot.trouble {
        console.say(&format!("  trouble: {trouble}"));
    }
}

pub(crate) async fn ask(common: Common, gate: Gate, ask: AskGate) -> ExitCode {
    let run = async {
        let http = Http::new();
        let driver = common.driver(&http).await?;
        let seen = driver.observe().await?;
        let color = ask.color.or_else(|| seen.live().map(Color::other)).unwrap_or(Color::Green);
        let needs_journal = gate == Gate::Approve || !ask.gates.published.is_empty();
        let journal = if needs_journal { Some(common.journal().await?) } else { None };
        let open = match &journal {
            Some(journal) => journal.open_entry().await?.map(|open| open.id),
            None => None,
        };
        let console = common.console();
        let progress = |words: &str| console.goes(words);
        let slot = seen.slot(color);
        let limits = ask.gates.limits(common.path.as_ref());
        let context = gate::Context {
            driver: &*driver,
            http: &http,
            journal: journal.as_ref(),
            rollout: open.as_deref(),
            color,
            image: slot.image.as_ref(),
            replicas: slot.wanted.max(1),
            live_rate: 0.0,
            limits: &limits,
            progress: &progress,
        };
        let finding = gate.ask(&context).await;
        for (label, value) in &finding.details {
            console.say(&format!("  {label}: {value}"));
        }
        let value = json!({ "gate": gate.name(), "color": color, "passed": finding.passed, "words": finding.words,
            "details": finding.details });
        let word = if finding.passed { "ok" } else { "FAIL" };
        console.ends(&value, &format!("{word} {gate}: {}", finding.words), finding.passed);
        Ok::<_, Stop>(finding.passed)
    };
    match run.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(stop) => common.report(&stop),
    }
}

pub(crate) async fn approve(common: Common) -> ExitCode {
    let run = async {
        let journal = common.journal().await?;
        let open = journal.open_entry().await?;
        let Some(open) = open else { return Err(Stop("no rollout is open, so there is nothing to approve".to_owned(), REFUSED)) };
        let steps = journal.steps(&open.id).await?;
        if !steps.iter().any(|step| step.step == Gate::Approve.name() && step.state == "begun") {
            return Err(Stop(format!("{} does not wait for a person; `rollout status` says where it is", open.id), REFUSED));
        }
        journal.approve(&common.by).await?;
        Ok::<_, Stop>(open)
    };
    match run.await {
        Ok(open) => {
            let build = open.to_build.as_deref().unwrap_or("a build that has not said its name");
            let words = format!("{} may go on: {} {build} becomes live", open.id, open.to);
            common.console().ends(&json!({ "approved": open.id }), &words, true);
            ExitCode::SUCCESS
        }
        Err(stop) => common.report(&stop),
    }
}

pub(crate) async fn unlock(common: Common) -> ExitCode {
    let run = async { Ok::<_, Stop>(common.journal().await?.unlock().await?) };
    match run.await {
        Ok(held) => {
            let words = match &held {
                Some(held) => format!("taken from {}: that rollout stops when it notices, within a few seconds", held.holder),
                None => "nobody held the lease".to_owned(),
            };
            common.console().ends(&json!({ "was": held }), &words, true);
            ExitCode::SUCCESS
        }
        Err(stop) => common.report(&stop),
    }
}

pub(crate) async fn history(common: Common, history: History) -> ExitCode {
    let run = async { Ok::<_, Stop>(common.journal().await?.history(history.most).await?) };
    let entries = match run.await {
        Ok(entries) => entries,
        Err(stop) => return common.report(&stop),
    };
    let console = common.console();
    if common.json {
        console.ends(&json!(entries), "", true);
        return ExitCode::SUCCESS;
    }
    if entries.is_empty() {
        console.say("no rollout yet");
    }
    for entry in entries {
        let at = i64::try_from(entry.began_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let at = at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
        let took =
            entry.ended_ms.map_or_else(String::new, |ended| span(Duration::from_millis(ended.saturating_sub(entry.began_ms))));
        let build = entry.to_build.as_deref().unwrap_or("");
        let color = if entry.goal == "retire" { entry.from } else { entry.to };
        let build = if entry.goal == "retire" { entry.from_build.as_deref().unwrap_or("") } else { build };
        console.say(&format!("{at}  {:8}  {:11}  {color:5}  {build}  {took}  by {}", entry.goal, entry.state, entry.by));
        let reason = entry.reason.map(|reason| format!("    why: {reason}"));
        for line in reason.into_iter().chain(entry.report.map(|report| format!("    report: {report}"))) {
            console.say(&line);
        }
    }
    ExitCode::SUCCESS
}
