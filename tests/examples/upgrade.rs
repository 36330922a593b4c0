//! The upgrade of a running installation from an older build, as its operator makes it: blue is the old build, with data, sessions
//! and streams under load; this build is deployed as green, rolled back, and deployed again. Nothing may be lost or doubled.
//!
//! ```sh
//! ./dev upgrade
//! ```
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use tests::{
    load::{Load, Mix},
    local::Local,
    server::binary,
    witness::Witness,
};

/// The clients that call while the builds change.
const MIX: Mix = Mix { sessions: 3, stateless: 2, writers: 2, streams: 4, widgets: 1 };
/// Answered calls between two steps.
const BETWEEN: u64 = 500;
/// Of this platform: slow runners are no fault of the new build.
const DEPLOY: [&str; 10] =
    ["--env", "RELEASE_VERSION=2.0.0", "--load-for", "1", "--latency", "5000", "--load-p99", "5000", "--bake", "5"];

/// Who operates the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    /// The old build of `rollout` starts the platform and is then replaced by the new one, before anything is deployed.
    Replaced,
    /// The old build of `rollout` does everything.
    Old,
}

/// What an upgrade did to its clients.
#[derive(Debug, Default)]
struct Figures {
    lines: Vec<String>,
    /// What was lost, doubled or wrong, described.
    losses: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(old) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: upgrade DIRECTORY, which has `mcp-server` and `rollout` of the old build");
        return ExitCode::from(64);
    };
    let mut lost = false;
    for tool in [Tool::Replaced, Tool::Old] {
        // A check that panics is a loss as well.
        match tokio::spawn(upgrade(old.clone(), tool)).await {
            Ok(figures) => {
                println!("\n== {tool:?} tool: the figures");
                for line in &figures.lines {
                    println!("{line}");
                }
                for loss in &figures.losses {
                    println!("LOST: {loss}");
                }
                lost |= !figures.losses.is_empty();
            }
            Err(failure) => {
                println!("LOST: {tool:?} tool: the upgrade did not come to its end: {failure}");
                lost = true;
            }
        }
    }
    println!("\n{}", if lost { "The upgrade LOSES something." } else { "Nothing lost, nothing doubled." });
    ExitCode::from(u8::from(lost))
}

async fn upgrade(old: PathBuf, tool: Tool) -> Figures {
    let (old_server, old_tool, new_server) = (old.join("mcp-server"), old.join("rollout"), binary("mcp-server"));
    let mut figures = Figures::default();
    step(tool, "the old build starts as blue, behind the old tool's proxy");
    let mut local = Local::up_by(old_tool, &old_server, &[("RELEASE_VERSION", "1.0.0")], 2).await;
    step(tool, "a calendar, bookings, conversations, and clients that stay");
    let mut witness = Witness::arrive(local.address(), &old_server, &local.state().join("database")).await;
    let rows_before = rows(&local).await;
    if tool == Tool::Replaced {
        step(tool, "the new tool takes the platform over, while blue runs on");
        local.replace_tool(binary("rollout")).await;
        witness.check("after the tool was replaced").await;
    }

    let load = Load::start(local.address(), MIX).await;
    load.more(BETWEEN).await;
    let image = new_server.display().to_string();
    let mut deploy: Vec<&str> = ["deploy", &*image].into_iter().chain(DEPLOY).collect();
    if tool == Tool::Old {
        // What counts as a break is the tool's own knowledge: only the new one knows of what this build describes differently.
        deploy.extend(["--skip", "contract"]);
    }
    for (name, arguments) in [("deploy", &*deploy), ("rollback", &["rollback"]), ("deploy again", &*deploy)] {
        step(tool, name);
        let begun = Instant::now();
        let ended = local.rollout(arguments).await;
        let took = begun.elapsed();
        if ended.code != Some(0) {
            figures.losses.push(format!("{name}: exit {:?}: {} {}", ended.code, ended.last()["reason"], ended.stderr));
            break;
        }
        load.more(BETWEEN).await;
        witness.check(&format!("after: {name}")).await;
        figures.lines.push(format!("{name}: {:.2} s, then answered by {}", took.as_secs_f64(), answered_by(&load)));
    }
    let outcome = load.stop().await;
    let rows_after = rows(&local).await;
    let report = witness.leave().await;

    let mut took: Vec<Duration> = outcome.calls.iter().map(|call| call.took).collect();
    took.sort_unstable();
    let p99 = took.get((took.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
    let sessions = u64::try_from(MIX.sessions + MIX.streams).unwrap_or(u64::MAX);
    figures.lines.push(format!(
        "under load: {} calls (p99 {:.1} ms), {} bookings, {} sessions, {} streams opened, {} errors",
        outcome.calls.len(),
        p99.as_secs_f64() * 1e3,
        outcome.booked.len(),
        outcome.sessions_begun,
        outcome.streams_opened,
        outcome.errors.len(),
    ));
    figures.lines.push(format!(
        "kept from before: {} imported appointments, {} bookings, {} conversations, {} sessions, {} real clients, {} calls",
        report.imported, report.bookings, report.conversations, report.sessions, report.clients, report.calls,
    ));
    figures.lines.extend(report.warnings.iter().map(|warning| format!("warning of a client: {warning}")));
    figures.losses.extend(report.losses);
    figures.losses.extend(outcome.errors.iter().cloned());
    if outcome.sessions_begun != sessions {
        figures.losses.push(format!("{} sessions were opened by {sessions} clients", outcome.sessions_begun));
    }
    let (acknowledged, stored) = (outcome.booked.len(), rows_after - rows_before);
    let distinct = outcome.booked.iter().collect::<std::collections::HashSet<_>>().len();
    figures.lines.push(format!("bookings: {acknowledged} acknowledged, {stored} stored"));
    if stored != acknowledged || distinct != acknowledged {
        figures.losses.push(format!("bookings: {acknowledged} acknowledged ({distinct} distinct), {stored} stored"));
    }
    figures
}

async fn rows(local: &Local) -> usize {
    local.query("SELECT count(*) FROM appointments").await.parse().expect("a count is a number")
}

fn answered_by(load: &Load) -> String {
    load.last_color().map_or_else(|| "nobody".to_owned(), |color| color.to_string())
}

fn step(tool: Tool, words: &str) {
    println!("\n== {tool:?} tool: {words}");
}
