//! An application for watching departures: its calls wait until they are told to go on.
//!
//! - `wait` answers once the process has got SIGUSR1,
//! - `never` does not answer, and neither does `GET /never`, which has no deadline of its own either,
//! - `echo` answers at once,
//! - `fill` answers with so many bytes,
//! - `panics` panics.

use mcp_server::{
    App, Config, Tool,
    extract::{Parameters, State},
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

async fn wait(State(mut gate): State<watch::Receiver<bool>>, Parameters(number): Parameters<Number>) -> String {
    // An error means that nobody is left who could open the gate, and then there is nothing to wait for.
    let _ = gate.wait_for(|open| *open).await;
    format!("waited {}", number.n)
}

async fn never() -> String {
    std::future::pending().await
}

async fn echo() -> &'static str {
    "here"
}

async fn fill(Parameters(number): Parameters<Number>) -> String {
    "x".repeat(number.n as usize)
}

async fn panics() -> &'static str {
    panic!("a tool that panics")
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
    Ok(App::new(config.release, gate)
        .tool(Tool::new("wait", wait).describe("Answers when told to.").read_only())
        .tool(Tool::new("never", never).describe("Does not answer.").read_only())
        .tool(Tool::new("echo", echo).describe("Answers at once.").read_only())
        .tool(Tool::new("fill", fill).describe("Answers with so many bytes.").read_only())
        .tool(Tool::new("panics", panics).describe("Panics.").read_only())
        .routes(axum::Router::new().route("/never", axum::routing::get(never)))
        .telemetry(telemetry)
        .serve(config.http)
        .await)
}
