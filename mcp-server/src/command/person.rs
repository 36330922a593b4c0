//! `person`: what is stored for one person, printed or erased.

use std::io::{BufRead, IsTerminal, Write as _};
use std::process::ExitCode;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use mcp_server::{
    Config, appointments,
    bg_runtime::{Database, database::DatabaseError},
    error::Chain,
    person::{self, FRAMEWORK, PersonalData, Rows},
};
use serde_json::{Map, Value, json};

use super::{complain, print, reached_database, with_config};

/// `person`
#[derive(Debug, Args)]
pub(crate) struct Person {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print everything that is stored for a person: one row of JSON a line, with its table.
    Export {
        /// The person: the subject of their access tokens (`sub`), or the name in `userId`.
        // An empty shell variable would name everybody whose rows name nobody.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        user: String,
        /// Print one JSON document with all tables instead.
        #[arg(long)]
        json: bool,
    },
    /// Erase everything that is stored for a person, in one transaction, and end their sessions on every replica.
    #[command(
        after_help = "It prints first what it will erase, and asks. Revoke the person's access at the authorization server \
before: what a call in flight writes is not erased. Rows of the audit log stay, without the person's name and without what was \
changed. Backups and the log of the process are not touched."
    )]
    Erase {
        /// The person: the subject of their access tokens (`sub`), or the name in `userId`.
        // An empty shell variable would name everybody whose rows name nobody.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        user: String,
        /// Erase without asking.
        #[arg(long)]
        yes: bool,
        /// Print what was erased as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn person(person: Person) -> ExitCode {
    with_config(async |config| {
        let database = match reached_database(&config).await {
            Ok(database) => database,
            Err(code) => return code,
        };
        let data = [appointments::PERSONAL_DATA, FRAMEWORK].concat();
        let code = match &person.verb {
            Verb::Export { user, json } => export(&database, &data, &config, user, *json).await,
            Verb::Erase { user, yes, json } => erase(&database, &data, &config, user, (*yes, *json)).await,
        };
        let _ = database.close().await;
        code.unwrap_or_else(|failure| complain(&Chain(&failure), 1))
    })
}

async fn export(
    database: &Database,
    data: &[PersonalData],
    config: &Config,
    user: &str,
    as_document: bool,
) -> Result<ExitCode, DatabaseError> {
    let tables = person::export(database, data, user, &config.release).await?;
    if as_document {
        let tables: Map<_, _> = tables.into_iter().map(|(table, rows)| (table.to_owned(), json!(rows))).collect();
        return Ok(print(&json!({ "person": user, "tables": tables })));
    }
    for (table, rows) in &tables {
        for row in rows {
            print(&json!({ "table": table, "row": row }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn erase(
    database: &Database,
    data: &[PersonalData],
    config: &Config,
    user: &str,
    (yes, as_json): (bool, bool),
) -> Result<ExitCode, DatabaseError> {
    if !yes {
        let found = person::count(database, data, user).await?;
        if found.iter().all(|rows| rows.count == 0) {
            return Ok(print(&format!("nothing is stored for `{user}`")));
        }
        ask(&format!("this will be erased for `{user}`:\n{}", listed(&found)));
        if !std::io::stdin().is_terminal() {
            return Ok(complain(&"nothing was erased: confirm with --yes", 1));
        }
        ask("type the name again to erase it: ");
        let mut typed = String::new();
        let read = std::io::stdin().lock().read_line(&mut typed);
        if read.is_err() || typed.trim_end_matches(['\r', '\n']) != user {
            return Ok(complain(&"nothing was erased: that is another name", 1));
        }
    }
    let erased = person::erase(database, data, user, &config.release).await?;
    if as_json {
        let tables: Map<_, _> = erased.iter().map(|rows| (rows.table.to_owned(), Value::from(rows.count))).collect();
        return Ok(print(&json!({ "person": user, "erased": tables })));
    }
    Ok(print(&format!("erased for `{user}`:\n{}", listed(&erased).trim_end())))
}

/// One table a line, those without rows left out.
fn listed(tables: &[Rows]) -> String {
    let line = |rows: &Rows| {
        let kept = if rows.is_anonymized { "  (kept without the name)" } else { "" };
        let noun = if rows.count == 1 { "row" } else { "rows" };
        format!("{:>8} {noun:<4} of {}{kept}\n", rows.count, rows.table)
    };
    tables.iter().filter(|rows| rows.count > 0).map(line).collect()
}

/// Writes to standard error, so that what is printed stays the result alone.
fn ask(text: &str) {
    let mut out = std::io::stderr().lock();
    // Nobody is left to read it otherwise.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
