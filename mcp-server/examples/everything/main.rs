//! An application that does everything the protocol can: every kind of content, prompts, resources, and tools that talk to
//! the client while they work. It holds what the official conformance suite calls for, under the names it calls for.
//!
//! ```sh
//! cargo run --example everything
//! npx @modelcontextprotocol/conformance server --url http://127.0.0.1:3000/mcp
//! ```

mod content;
mod conversation;
mod inputs;
mod prompts;
mod resources;

use std::sync::{Arc, atomic::AtomicU64};

use mcp_server::{App, Config, resource::Changes, telemetry::Telemetry};

/// What the tools share.
#[derive(Clone)]
struct Everything {
    /// How often the watched resource was changed.
    watched: Arc<AtomicU64>,
    changes: Changes,
}

/// A tiny picture and a tiny silence, as the protocol wants bytes: in base64.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC";
const SILENCE: &str = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA==";

#[tokio::main]
async fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    let config = Config::from_environment()?;
    let telemetry = Telemetry::install(&config.telemetry, &config.release)?;
    let everything = Everything { watched: Arc::default(), changes: Changes::new() };

    let app = App::new(config.release, everything.clone())
        .name("everything")
        .title("Everything")
        .instructions("Shows everything the protocol can do. There is nothing useful here.")
        .telemetry(telemetry)
        .logging()
        .subscriptions(everything.changes.clone());
    let app = content::tools().into_iter().fold(app, App::tool);
    let app = conversation::tools().into_iter().fold(app, App::tool);
    let app = inputs::tools().into_iter().fold(app, App::tool);
    let app = app.tool(resources::update_tool());
    let app = resources::resources(&everything).into_iter().fold(app, App::resource);
    let app = app.resource_template(resources::template());
    let app = prompts::prompts().into_iter().fold(app, App::prompt);
    Ok(app.serve(config.http).await)
}
