//! An application for watching a deploy: what its clients hold on to outlives the process it began in.
//!
//! - `tell` says that it has begun, and answers once the process has got SIGUSR1; making it again does no harm,
//! - `act` does the same, and may not be made again.
//!
//! ```sh
//! DATABASE_URL=postgresql://… RELEASE_COLOR=blue cargo run --example lasting
//! ```

use mcp_server::{
    App, Config, MIGRATIONS, Tool,
    bg_runtime::{
        Database,
        storage::{Control, Replica},
    },
    extract::{Parameters, Peer, Release, State},
    telemetry::Telemetry,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Number {
    n: u32,
}

#[derive(Clone)]
struct Gate(watch::Sender<bool>);

impl axum::extract::FromRef<Gate> for watch::Receiver<bool> {
    fn from_ref(gate: &Gate) -> Self {
        gate.0.subscribe()
    }
}

async fn tell(
    State(mut gate): State<watch::Receiver<bool>>,
    Parameters(number): Parameters<Number>,
    peer: Peer,
    release: Release,
) -> String {
    peer.progress(1.0, 2.0, "begun").await;
    // An error means that nobody is left who could open the gate, and then there is nothing to wait for.
    let _ = gate.wait_for(|open| *open).await;
    peer.progress(2.0, 2.0, "told").await;
    format!("told {} by {}", number.n, release.color)
}

#[tokio::main]
async fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    let config = Config::from_environment()?;
    let telemetry = Telemetry::install(&config.telemetry, &config.release)?;
    let gate = Gate(watch::Sender::new(false));
    let mut opened = signal(SignalKind::user_defined1())?;
    tokio::spawn({
        let gate = gate.clone();
        async move {
            opened.recv().await;
            gate.0.send_replace(true);
        }
    });
    let database = Database::open(config.database).await?;
    let control = Control::new(database.clone(), Replica::new(config.release.color, &*config.release.version, MIGRATIONS));
    Ok(App::new(config.release, gate)
        .database(database)
        .migrations(MIGRATIONS)
        .control(control)
        .tool(Tool::new("tell", tell).describe("Answers when told to.").read_only())
        .tool(Tool::new("act", tell).describe("Acts when told to.").additive())
        .telemetry(telemetry)
        .serve(config.http)
        .await)
}
