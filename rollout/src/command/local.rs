//! `local` and `front`: the processes that stay.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use bg_runtime::Color;
use clap::{Args, Subcommand};
use rollout::{
    chain,
    driver::Image,
    front::{FrontConfig, Routing},
    local::LocalConfig,
};

use super::{
    Common,
    deploy::{pair, whole},
    hidden::Hidden,
};

/// `local`
#[derive(Debug, Args)]
pub(crate) struct Local {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Open the front door, and run a program as blue behind it unless something runs already.
    #[command(after_help = "\
Ctrl-C or SIGTERM closes the door and stops both colors, each with the time it needs. kill -9 leaves the colors running.
After either the next `rollout local up` goes on with what was there, the traffic where it was.

Test the idle color: curl -H 'release-color: green' http://127.0.0.1:3000/health")]
    Up(Up),
}

#[derive(Debug, Args)]
struct Up {
    /// The program. Not needed when an earlier life left one running.
    image: Option<String>,
    /// A variable for it; again for another one.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = Hidden(pair))]
    environment: Vec<(String, String)>,
    /// How many replicas.
    #[arg(long, default_value_t = 1)]
    replicas: u32,
    /// Where clients come in.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Where `rollout` commands come in. They bring the secret in front.secret, in --state.
    #[arg(long, default_value = "127.0.0.1:3080")]
    operations_listen: SocketAddr,
    /// The longest that a request waits while the door is held, or while nobody can be reached, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    patience: u64,
}

/// `front`
#[derive(Debug, Args)]
#[command(after_help = "\
Switch:            curl -H \"authorization: Bearer $(cat front.secret)\" -X POST http://127.0.0.1:3080/live/green
Test the idle one: curl -H 'release-color: green' http://127.0.0.1:3000/health
Look:              curl http://127.0.0.1:3080/routing

The secret is made beside the file in --routing, for the account that runs this, and no other account reads it.
A door that is started again goes on with the routing in --routing; --live, --blue and --green are for its first life.")]
pub(crate) struct Front {
    /// Where clients come in.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Where operators come in, with the secret beside the file in --routing.
    #[arg(long, default_value = "127.0.0.1:3080")]
    operations_listen: SocketAddr,
    /// Where the routing is kept.
    #[arg(long, value_name = "FILE", default_value = "front.json")]
    routing: PathBuf,
    /// The color that answers whoever names none.
    #[arg(long, default_value = "blue")]
    live: Color,
    /// Where blue is; again for another replica.
    #[arg(long, value_name = "ADDRESS")]
    blue: Vec<SocketAddr>,
    /// Where green is; again for another replica.
    #[arg(long, value_name = "ADDRESS")]
    green: Vec<SocketAddr>,
    /// The longest that a request waits while the door is held, or while nobody can be reached, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    patience: u64,
}

/// It could not start.
const SOFTWARE: u8 = 70;
/// How long the first color may take.
const READY_WITHIN: Duration = Duration::from_secs(120);

pub(crate) async fn local(common: Common, local: Local) -> ExitCode {
    let Verb::Up(up) = local.verb;
    match run(&common, up).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            tracing::error!("{words}");
            ExitCode::from(SOFTWARE)
        }
    }
}

async fn run(common: &Common, up: Up) -> Result<(), String> {
    let config = LocalConfig {
        state: common.state.clone(),
        listen: up.listen,
        operations_listen: up.operations_listen,
        patience: Duration::from_millis(up.patience),
    };
    let local = rollout::local::Local::up(config).await.map_err(|failure| chain(&failure))?;
    let place = local.place();
    tracing::info!("the front door listens on http://{}, operations on http://{}", place.address, place.operations);
    if common.json {
        common.console().ends(&serde_json::json!(place), "", true);
    }
    let begin = async {
        // Where the traffic goes: an earlier life may have left it with green.
        let color = local.color();
        if local.is_empty() {
            let Some(image) = &up.image else {
                return Err("nothing runs here yet: name a program, `rollout local up target/debug/mcp-server`".to_owned());
            };
            let image = Image::new(whole(image), up.environment.iter().cloned().collect());
            local.run(color, image, up.replicas);
        } else {
            let was = local.image(color).map_or_else(String::new, |image| image.name);
            tracing::info!("goes on with what was there before: {was} as {color}");
            if up.image.is_some() {
                tracing::warn!(
                    "the program that was named is not started: `rollout deploy` does that, or begin in another --state"
                );
            }
        }
        local.ready(color, READY_WITHIN).await?;
        tracing::info!("{color} is live at http://{}/mcp", place.address);
        Ok(())
    };
    let asked_to_end = async {
        let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        match terminate {
            Ok(mut terminate) => tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            },
            Err(_) => drop(tokio::signal::ctrl_c().await),
        }
    };
    tokio::pin!(asked_to_end);
    let begun = tokio::select! {
        begun = begin => Some(begun),
        () = &mut asked_to_end => None,
    };
    let outcome = match begun {
        Some(Ok(())) => {
            asked_to_end.await;
            Ok(())
        }
        Some(Err(words)) => Err(words),
        None => Ok(()),
    };
    tracing::info!("both colors are stopped, with the time they need; the next `rollout local up` starts them as they were");
    local.down().await;
    outcome
}

pub(crate) async fn front(arguments: Front) -> ExitCode {
    let config = FrontConfig {
        listen: arguments.listen,
        operations_listen: arguments.operations_listen,
        state: arguments.routing,
        patience: Duration::from_millis(arguments.patience),
    };
    let green_percent = rollout::share::of(arguments.live, 100);
    let first = Routing { green_percent, blue: arguments.blue, green: arguments.green, ..Routing::default() };
    let front = match rollout::front::Front::open(config, first).await {
        Ok(front) => front,
        Err(failure) => {
            tracing::error!("{}", chain(&failure));
            return ExitCode::from(SOFTWARE);
        }
    };
    tracing::info!("the front door listens on http://{}, operations on http://{}", front.address(), front.operations_address());
    let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return ExitCode::from(SOFTWARE);
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    ExitCode::SUCCESS
}
