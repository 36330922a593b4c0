//! `rollout`: what an operator types. So far: the front door of the local platform.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use bg_runtime::Color;
use clap::{Args, Parser, Subcommand};
use rollout::front::{Front, FrontConfig, Routing};

/// Moves the traffic between two colors.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 done, 2 it was told something that cannot be, 70 it could not start.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Open one address in front of two colors, of which one is live.
    Front(FrontArguments),
}

/// `front`
#[derive(Debug, Args)]
#[command(after_help = "\
Switch:            curl -X POST http://127.0.0.1:3080/live/green
Test the idle one: curl -H 'release-color: green' http://127.0.0.1:3000/health
Look:              curl http://127.0.0.1:3080/routing

A door that is started again goes on with the routing in --state; --live, --blue and --green are for its first life.")]
struct FrontArguments {
    /// Where clients come in.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Where operators come in. Who reaches it moves the traffic.
    #[arg(long, default_value = "127.0.0.1:3080")]
    operations_listen: SocketAddr,
    /// Where the routing is kept.
    #[arg(long, value_name = "FILE", default_value = "front.json")]
    state: PathBuf,
    /// The color that answers whoever names none.
    #[arg(long, default_value = "blue")]
    live: Color,
    /// Where blue is.
    #[arg(long, value_name = "ADDRESS")]
    blue: Option<SocketAddr>,
    /// Where green is.
    #[arg(long, value_name = "ADDRESS")]
    green: Option<SocketAddr>,
    /// The longest that a request waits while the door is held, or while nobody can be reached, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    patience: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Command::Front(arguments) = Arguments::parse().command;
    match front(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure:#}");
            ExitCode::from(70)
        }
    }
}

async fn front(arguments: FrontArguments) -> anyhow::Result<()> {
    let config = FrontConfig {
        listen: arguments.listen,
        operations_listen: arguments.operations_listen,
        state: arguments.state,
        patience: Duration::from_millis(arguments.patience),
    };
    let first = Routing { live: arguments.live, blue: arguments.blue, green: arguments.green };
    let front = Front::open(config, first).await?;
    tracing::info!("the front door listens on http://{}, operations on http://{}", front.address(), front.operations_address());
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let mut terminate = terminate.context("SIGTERM cannot be heard")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
