//! The appointments server: what it can be told to do. `serve` is what it does when nobody says.

// A third of a call's instructions were the system allocator's; mimalloc takes a fifth off the whole.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An MCP server that searches and books appointments, and knows that it is one of two colors.
///
/// Everything is configured by environment variables; `mcp-server config` shows them all, with their reasons.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 calls were cut off or the command failed, 64 the configuration is wrong, 70 it could not start."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve MCP on /mcp until SIGTERM. The default.
    Serve,
    /// Read an iCalendar file into a user's appointments.
    Import(command::Import),
    /// Move the database from one release's shape to the next one's, and back.
    Migrate(command::migrate::Migrate),
    /// Switch a tool off, or on for a share of its callers, without a deploy.
    Flag(command::migrate::Flag),
    /// Print what this build promises its clients, or compare it with what another one does.
    Contract(command::contract::Contract),
    /// List the widgets that hosts can read, or take one back.
    Widget(command::contract::Widget),
    /// Print or erase everything that is stored for one person.
    Person(command::person::Person),
    /// Print what is configured, with defaults and reasons; secrets hidden.
    Config,
    /// Ask a running server for its health, as a container's health check.
    Health(command::Health),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => command::serve(),
        Command::Import(import) => command::import(import),
        Command::Migrate(migrate) => command::migrate::migrate(migrate),
        Command::Flag(flag) => command::migrate::flag(flag),
        Command::Contract(contract) => command::contract::contract(contract),
        Command::Widget(widget) => command::contract::widget(widget),
        Command::Person(person) => command::person::person(person),
        Command::Config => command::config(),
        Command::Health(health) => command::health(&health),
    }
}
