//! `rollout`: what an operator types. The table of contents.

mod command;

use std::{process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Ships a build as the idle color, proves it, moves all traffic to it in an instant, watches, and goes back by itself when it
/// is worse.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
On this machine:   rollout local up target/debug/mcp-server
                   rollout deploy target/debug/mcp-server --env RELEASE_VERSION=2.0.0
                   rollout rollback

Exit codes: 0 done; 1 it failed, and the color that was live never stopped serving; 2 wrong usage; 3 rolled back; 4 refused,
nothing was begun; 69 the platform or the journal cannot be reached; 70 a platform or a door that cannot open; 75 somebody else is at it; 130 interrupted, and the same
command goes on with it."
)]
struct Arguments {
    #[command(flatten)]
    common: command::Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What is live, what runs, who is at it. The place to begin at three in the morning.
    Status,
    /// What a deploy would do, and what stands in its way. Changes nothing.
    Plan(command::Deploy),
    /// Run a build as the idle color, prove it, switch, watch, and go back if it is worse. Goes on where it was stopped.
    Deploy(command::Deploy),
    /// Ask the idle color what clients ask, directly.
    Smoke(command::AskGate),
    /// Ask one gate of a deploy by itself.
    Gate(command::AskNamedGate),
    /// Let all traffic go to the other color, which is there already.
    Switch(command::Switch),
    /// Let all traffic go back to the color before, whatever state everything is in, and whoever is at it.
    Rollback(command::Rollback),
    /// Stop the color that gets no traffic, once nothing holds on to it.
    Retire(command::Retire),
    /// End the rollout that is not finished: the traffic goes back, and what it started is stopped.
    Abort(command::Rollback),
    /// Say yes to the deploy that waits for a person.
    Approve,
    /// The last rollouts, and where their reports are.
    History(command::History),
    /// Take the lease away from a rollout that is stuck. It stops by itself when it notices.
    Unlock,
    /// The local platform: two colors as processes on this machine, behind one address.
    Local(command::Local),
    /// The front door alone: one address in front of two servers that you run yourself.
    Front(command::Front),
}

#[tokio::main]
async fn main() -> ExitCode {
    let commanded = Instant::now();
    let Arguments { common, command } = Arguments::parse();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(common.paints_errors());
    // It calls an error what is tried again: a pod that does not answer yet.
    let targets = Targets::new().with_default(common.level(&command)).with_target("kube_client", common.level_of_others());
    log.with_max_level(tracing::Level::TRACE).finish().with(targets).init();
    match command {
        Command::Status => command::status(common).await,
        Command::Plan(deploy) => command::plan(common, deploy).await,
        Command::Deploy(deploy) => command::deploy(common, deploy, commanded).await,
        Command::Smoke(ask) => command::ask(common, rollout::gate::Gate::Smoke, ask).await,
        Command::Gate(named) => command::ask(common, named.gate, named.ask).await,
        Command::Switch(switch) => command::switch(common, switch, commanded).await,
        Command::Rollback(back) => command::rollback(common, back, commanded, false).await,
        Command::Retire(retire) => command::retire(common, retire, commanded).await,
        Command::Abort(back) => command::rollback(common, back, commanded, true).await,
        Command::Approve => command::approve(common).await,
        Command::History(history) => command::history(common, history).await,
        Command::Unlock => command::unlock(common).await,
        Command::Local(local) => command::local(common, local).await,
        Command::Front(front) => command::front(front).await,
    }
}
