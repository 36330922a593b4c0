//! `contract` and `widget`: what clients hold on to for days, as an operator sees it.

use std::process::ExitCode;

use bg_runtime::{
    Database,
    contract::{Change, Contract as Promise, is_breaking},
};
use clap::{Args, Subcommand};
use mcp_server::{Config, appointments, error::Chain, published};
use serde::Serialize;

use super::{complain, print, reached_database, with_config, with_database};

/// `contract`
#[derive(Debug, Args)]
#[command(after_help = "A contract is named by a file, by a build whose contract is kept in the database (2.2.0+8f3a1c, see \
`contract list`), or by the word `this`. Exit codes of `diff`: 0 nothing breaks, 1 something does, 64 there is no such contract, \
70 no database.")]
pub(crate) struct Contract {
    #[command(subcommand)]
    verb: Option<ContractVerb>,
}

#[derive(Debug, Subcommand)]
enum ContractVerb {
    /// Print this build's contract as JSON. The default.
    Show,
    /// The builds that have run on this database.
    List {
        /// Print them as JSON, contracts included.
        #[arg(long)]
        json: bool,
    },
    /// Say what a client that holds one contract meets where another is served, and what after going back.
    Diff {
        /// What clients hold.
        held: String,
        /// What is served.
        #[arg(default_value = "this")]
        served: String,
        /// Print the changes as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// `widget`
#[derive(Debug, Args)]
pub(crate) struct Widget {
    #[command(subcommand)]
    verb: WidgetVerb,
}

#[derive(Debug, Subcommand)]
enum WidgetVerb {
    /// Every widget that some build has published.
    List {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take one back. Conversations that show it show an error from then on; what a running build has itself stays.
    Withdraw {
        /// Its address, as `widget list` prints it.
        address: String,
    },
}

/// What two contracts have otherwise.
#[derive(Debug, Serialize)]
struct Diff {
    /// For clients that hold the first, where the second is served.
    forward: Vec<Change>,
    /// For clients that hold the second, where the first is served.
    back: Vec<Change>,
    breaking: bool,
}

pub(crate) fn contract(contract: Contract) -> ExitCode {
    match contract.verb.unwrap_or(ContractVerb::Show) {
        ContractVerb::Show => with_config(async |_| match appointments::contract().await {
            Ok(contract) => print(&serde_json::to_string_pretty(&contract).expect("a contract serializes")),
            Err(failure) => complain(&Chain(&failure), 70),
        }),
        ContractVerb::List { json } => with_database(async |database| {
            let kept = published::contracts(database).await.map_err(|failure| complain(&Chain(&failure), 1))?;
            if json {
                return Ok(print(&serde_json::to_string(&kept).expect("contracts serialize")));
            }
            let line = |kept: &published::KeptContract| {
                let (tools, widgets) = (kept.contract.tools.len(), kept.contract.widgets.len());
                format!("{}  {}  {:5}  {tools} tools, {widgets} widgets", kept.taken_at, kept.build, kept.color)
            };
            Ok(print(&lines(&kept, line, "no build has run on this database")))
        }),
        ContractVerb::Diff { held, served, json } => with_config(async |config| match diff(&config, &held, &served).await {
            Ok(diff) if json => {
                print(&serde_json::to_string(&diff).expect("changes serialize"));
                ExitCode::from(u8::from(diff.breaking))
            }
            Ok(diff) => {
                print(&in_words(&diff, &held, &served));
                ExitCode::from(u8::from(diff.breaking))
            }
            Err(code) => code,
        }),
    }
}

pub(crate) fn widget(widget: Widget) -> ExitCode {
    with_database(async |database| {
        let failed = |failure| complain(&Chain(&failure), 1);
        Ok(match widget.verb {
            WidgetVerb::List { json } => {
                let widgets = published::widgets(database).await.map_err(failed)?;
                if json {
                    return Ok(print(&serde_json::to_string(&widgets).expect("widgets serialize")));
                }
                let line = |widget: &published::PublishedWidget| {
                    format!("{}  {}  {} KB, by {}", widget.published_at, widget.address, widget.bytes / 1024, widget.published_by)
                };
                print(&lines(&widgets, line, "no widget is published in this database"))
            }
            WidgetVerb::Withdraw { address } => match published::withdraw(database, &address).await.map_err(failed)? {
                true => print(&format!("withdrew {address}; a build that has it publishes it again when it starts")),
                false => complain(&format!("no widget is published at {address}; `widget list` has them all"), 1),
            },
        })
    })
}

async fn diff(config: &Config, held: &str, served: &str) -> Result<Diff, ExitCode> {
    let is_file = |name: &str| std::path::Path::new(name).is_file();
    let needs_database = [held, served].into_iter().any(|name| name != "this" && !is_file(name));
    let database = if needs_database { Some(reached_database(config).await?) } else { None };
    let found = find(database.as_ref(), held, served).await;
    if let Some(database) = database {
        let _ = database.close().await;
    }
    let (held, served, readable) = found?;
    // Without a database to ask, both are taken to run on one: what was published there stays readable.
    let is_readable = |address: &str| readable.as_ref().is_none_or(|readable| readable.iter().any(|other| other == address));
    let (forward, back) = (held.compare(&served, is_readable), served.compare(&held, is_readable));
    Ok(Diff { breaking: is_breaking(&forward), forward, back })
}

/// Both contracts, and the addresses that can be read in the database if there is one.
async fn find(
    database: Option<&Database>,
    held: &str,
    served: &str,
) -> Result<(Promise, Promise, Option<Vec<String>>), ExitCode> {
    let failed = |failure| complain(&Chain(&failure), 1);
    let (kept, readable) = match database {
        Some(database) => {
            let widgets = published::widgets(database).await.map_err(failed)?;
            let readable = widgets.into_iter().map(|widget| widget.address).collect();
            (published::contracts(database).await.map_err(failed)?, Some(readable))
        }
        None => (Vec::new(), None),
    };
    let mut found = Vec::with_capacity(2);
    for name in [held, served] {
        found.push(if name == "this" {
            appointments::contract().await.map_err(failed)?
        } else if let Ok(text) = std::fs::read_to_string(name) {
            let words = |wrong| complain(&format!("{name} is not a contract: {wrong}"), mcp_server::config::EXIT_CODE);
            serde_json::from_str(&text).map_err(words)?
        } else {
            let kept = kept.iter().find(|kept| kept.build == name).map(|kept| kept.contract.clone());
            let unknown = || {
                let words = format!("there is neither a file nor a kept contract named {name}; `contract list` has the builds");
                complain(&words, mcp_server::config::EXIT_CODE)
            };
            kept.ok_or_else(unknown)?
        });
    }
    let served = found.pop().expect("two were found");
    Ok((found.pop().expect("two were found"), served, readable))
}

fn in_words(diff: &Diff, held: &str, served: &str) -> String {
    let words = |changes: &[Change], holding: &str, served: &str| {
        let heading = format!("Clients that hold {holding}, where {served} is served:");
        let lines: Vec<_> = match changes {
            [] => vec!["  nothing changes".to_owned()],
            changes => changes.iter().map(|change| format!("  {change}")).collect(),
        };
        format!("{heading}\n{}", lines.join("\n"))
    };
    format!("{}\n\n{}", words(&diff.forward, held, served), words(&diff.back, served, held))
}

fn lines<T>(things: &[T], line: impl Fn(&T) -> String, none: &str) -> String {
    if things.is_empty() { none.to_owned() } else { things.iter().map(line).collect::<Vec<_>>().join("\n") }
}
