//! The smallest application: one tool. Run it and ask:
//!
//! ```sh
//! cargo run --example hello
//! curl -d '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"greet","arguments":{"name":"Ada"}}}' \
//!   -H 'content-type: application/json' http://127.0.0.1:3000/mcp
//! ```

use mcp_server::{App, Config, Tool, extract::Parameters, telemetry::Telemetry};

/// Whom to greet.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Greeting {
    /// The name of a person.
    name: String,
}

async fn greet(Parameters(greeting): Parameters<Greeting>) -> String {
    format!("Hello, {}!", greeting.name)
}

#[tokio::main]
async fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    let config = Config::from_environment()?;
    let telemetry = Telemetry::install(&config.telemetry, &config.release)?;
    let greet = Tool::new("greet", greet).describe("Greets somebody by name.").read_only();
    Ok(App::new(config.release, ()).tool(greet).telemetry(telemetry).serve(config.http).await)
}
