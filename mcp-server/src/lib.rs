//! An MCP server framework that knows it is one of two colors.
//!
//! An application adds tools; the framework gives it the protocol (every MCP revision from 2024-11-05 to 2026-07-28), health,
//! sessions, and a departure that loses no call.
//!
//! ```no_run
//! use mcp_server::{App, HttpConfig, Tool, extract::Parameters};
//! use bg_runtime::{Color, Release};
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Greeting {
//!     /// Whom to greet.
//!     name: String,
//! }
//!
//! async fn greet(Parameters(greeting): Parameters<Greeting>) -> String {
//!     format!("Hello, {}!", greeting.name)
//! }
//!
//! # async fn main_() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
//! let release = Release::new(Color::Blue, "1.0.0", "dev")?;
//! let greet = Tool::new("greet", greet).describe("Greets somebody by name.").read_only();
//! Ok(App::new(release, ()).tool(greet).serve(HttpConfig::default()).await)
//! # }
//! ```

pub mod answers;
pub mod app;
pub mod appointments;
pub mod audit;
pub mod authentication;
pub mod config;
pub mod conversation;
pub mod conversations;
pub mod drainage;
pub mod error;
pub mod extract;
pub mod limits;
pub mod person;
pub mod pins;
pub mod prompt;
pub mod published;
pub mod reply;
pub mod request_state;
pub mod resource;
pub mod row_security;
pub mod sessions;
pub mod telemetry;
pub mod testing;
pub mod tool;

mod arguments;
mod batch;
mod contract;
mod http;
mod mcp;
mod schema;

/// The tables of what the framework keeps: conversations, sessions, first answers. An application's own migrations stand beside them,
/// in the order of their numbers; the framework takes 0002 to 0099.
pub const MIGRATIONS: &[bg_runtime::storage::migration::Migration] = &[
    conversations::MIGRATIONS[0],
    conversations::MIGRATIONS[1],
    sessions::MIGRATION,
    answers::MIGRATION,
    pins::MIGRATION,
    published::MIGRATION,
    row_security::MIGRATION,
    audit::MIGRATION,
    row_security::BY_OWNER,
];

pub use app::{App, Running, StartError};
pub use bg_runtime;
pub use config::{Config, HttpConfig};
pub use error::ToolError;
pub use reply::Reply;
pub use rmcp;
pub use tool::Tool;
pub use widgets;
