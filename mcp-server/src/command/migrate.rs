//! `migrate` and `flag`: the operator's hand on what both colors share. Each verb can be said twice, says what it did, and
//! says what may come next.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use bg_runtime::{
    Database,
    storage::{
        Coordinator, Phase,
        backfill::Pace,
        coordinator::{self, CoordinatorError},
        phase::RULES,
        status::{self, MigrationStatus, Status},
        validator::{ValidateOptions, Verdict},
    },
};
use clap::{Args, Subcommand};
use mcp_server::{appointments::MIGRATIONS, error::Chain};
use serde::Serialize;
use tokio::time::Instant;

use super::{Bar, complain, print, with_owner};

/// How long a verb waits for its turn: another one, or a replica that is just starting.
const TURN: Duration = Duration::from_secs(30);
/// How long an expand may take: an index on a large table is a matter of minutes.
const EXPAND: Duration = Duration::from_secs(3600);
/// How long a move waits for the replicas to say that they act on it.
const ACKNOWLEDGE: Duration = Duration::from_secs(10);

/// `migrate`
#[derive(Debug, Args)]
#[command(
    after_help = "In order: expand, deploy the new release, backfill, validate, advance (read_new: traffic may move), retire \
the old release, advance (fenced), contract. `back` undoes the last step, at any time before contract; no write is lost either \
way. Exit codes: 0 done or already done, 1 refused or not valid, 70 no database."
)]
pub(crate) struct Migrate {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Who does it, for the log.
    #[arg(long, global = true, default_value = "operator", value_name = "NAME")]
    by: String,
    /// Print the outcome as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Where every migration stands, and which replicas live. The default.
    Status,
    /// What may come next, and what stands in its way. Changes nothing.
    Plan {
        #[command(flatten)]
        which: Which,
        /// Print the SQL that the declaration of a migration generates, and ask no database.
        #[arg(long, requires = "migration")]
        sql: bool,
    },
    /// Add what this build needs, in a way that the release before does not notice.
    Expand {
        /// Make the generated parts (columns, functions, trigger) of an applied migration anew.
        #[arg(long, value_name = "MIGRATION")]
        again: Option<String>,
    },
    /// Let a user that owns nothing read and write rows, and no more. `expand` does it for the user of DATABASE_URL where
    /// DATABASE_MIGRATE_URL names another one.
    Grant {
        /// The user that serves.
        #[arg(long, value_name = "USER")]
        to: String,
    },
    /// Fill the rows from before the expand, page by page. Goes on where it was stopped.
    Backfill {
        #[command(flatten)]
        which: Which,
        /// How long a page may take, which is how long a writer may wait for a row.
        #[arg(long, default_value_t = 50, value_name = "MILLISECONDS")]
        page_ms: u64,
        /// The share of the time left to others.
        #[arg(long, default_value_t = 10, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=99))]
        rest: u32,
        /// Wait while a PostgreSQL replica is further behind than this.
        #[arg(long, default_value_t = 10, value_name = "SECONDS")]
        max_lag: u64,
    },
    /// Compare both shapes row by row, and prove it. Exit code 0 only for a valid verdict.
    Validate {
        #[command(flatten)]
        which: Which,
        /// Leave out the CHECK constraint that keeps it proven until the contract. It costs each write some microseconds.
        #[arg(long)]
        without_proof: bool,
    },
    /// Move to the next phase, once nothing stands in its way.
    Advance {
        #[command(flatten)]
        which: Which,
    },
    /// Move back.
    Back {
        #[command(flatten)]
        which: Which,
        /// From the phase expand: drop the new columns, and what only they say.
        #[arg(long)]
        undo: bool,
    },
    /// Drop the old columns, for good. There is no way back.
    Contract {
        #[command(flatten)]
        which: Which,
        /// Say that this is meant.
        #[arg(long)]
        drop_old_columns: bool,
        /// Where to write what is dropped, as SQL for psql.
        #[arg(long, value_name = "FILE")]
        dump: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The migration. Not needed while only one is under way.
    migration: Option<String>,
}

/// `flag`
#[derive(Debug, Args)]
#[command(
    after_help = "The flag of a tool is tool.NAME: `flag set tool.book_appointment 0` switches it off on every replica within \
a moment, `25` lets a quarter of the callers in, `flag forget` lets everybody in again."
)]
pub(crate) struct Flag {
    #[command(subcommand)]
    verb: FlagVerb,
    /// Who does it.
    #[arg(long, global = true, default_value = "operator", value_name = "NAME")]
    by: String,
}

#[derive(Debug, Subcommand)]
enum FlagVerb {
    /// The flags that were set.
    List,
    /// Let a share of the callers in.
    Set {
        /// The flag, such as tool.book_appointment.
        name: String,
        /// 0 is off, 100 is on.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
    },
    /// Let everybody in, as if it had never been set.
    Forget {
        /// The flag.
        name: String,
    },
}

/// What a verb did.
#[derive(Debug, Serialize)]
struct Outcome {
    /// What was done, in words.
    did: String,
    /// Whether it went as it should.
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    /// Where everything stands now.
    status: Status,
}

pub(crate) fn migrate(migrate: Migrate) -> ExitCode {
    if let Some(Verb::Plan { which: Which { migration: Some(name) }, sql: true }) = &migrate.verb {
        let dual = MIGRATIONS.iter().filter_map(|migration| migration.dual_write).find(|dual| dual.migration == name);
        return match dual {
            Some(dual) => print(&dual.expand_sql("public").trim_end()),
            None => complain(&format!("{name} is no migration with phases"), 1),
        };
    }
    with_owner(async |database, serves| {
        let json = migrate.json;
        let outcome = run(database, migrate, serves).await.map_err(|failure| complain(&Chain(&*failure), 1))?;
        if json {
            print(&serde_json::to_string(&outcome).expect("an outcome serializes"));
        } else {
            print(&outcome.did);
        }
        Ok(if outcome.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

pub(crate) fn flag(flag: Flag) -> ExitCode {
    with_owner(async |database, _| {
        let done = set_flag(database, &flag).await.map_err(|failure| complain(&Chain(&failure), 1))?;
        Ok(print(&done))
    })
}

async fn set_flag(database: &Database, flag: &Flag) -> Result<String, CoordinatorError> {
    let coordinator = Coordinator::take(database, MIGRATIONS, &flag.by, TURN).await?;
    let words = match &flag.verb {
        FlagVerb::List => {
            let flags = coordinator.flags().await?;
            if flags.is_empty() {
                return Ok("no flag is set: everything is on".to_owned());
            }
            let line = |flag: &coordinator::FlagStatus| format!("{}  {} %  (by {})", flag.name, flag.percent, flag.changed_by);
            return Ok(flags.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
        FlagVerb::Set { name, percent } => {
            coordinator.set_flag(name, Some(*percent)).await?;
            format!("{name} lets {percent} % of the callers in")
        }
        FlagVerb::Forget { name } => {
            coordinator.set_flag(name, None).await?;
            format!("{name} is forgotten: it lets everybody in")
        }
    };
    Ok(format!("{words}; {}", acknowledged(&coordinator).await?))
}

async fn run(database: &Database, migrate: Migrate, serves: Option<&str>) -> Result<Outcome, Box<dyn std::error::Error>> {
    let verb = migrate.verb.unwrap_or(Verb::Status);
    let which = match &verb {
        Verb::Status | Verb::Plan { .. } => {
            let status = status::status(database, MIGRATIONS).await?;
            let did = match &verb {
                Verb::Plan { which, .. } => planned(&status, &choose(&status, which)?),
                _ => described(&status),
            };
            return Ok(Outcome { did, ok: true, verdict: None, status });
        }
        Verb::Expand { .. } | Verb::Grant { .. } => None,
        Verb::Backfill { which, .. }
        | Verb::Validate { which, .. }
        | Verb::Advance { which }
        | Verb::Back { which, .. }
        | Verb::Contract { which, .. } => Some(which),
    };
    let mut coordinator = Coordinator::take(database, MIGRATIONS, &migrate.by, TURN).await?;
    let name = match which {
        Some(which) => choose(&coordinator.status().await?, which)?,
        None => String::new(),
    };
    let bar = Bar::new();
    let mut verdict = None;
    let mut did = match verb {
        Verb::Status | Verb::Plan { .. } => unreachable!("answered above"),
        Verb::Expand { again: Some(name) } => {
            coordinator.expand_again(&name, Instant::now() + EXPAND).await?;
            format!("made the generated parts of {name} anew")
        }
        Verb::Expand { again: None } => {
            let applied = coordinator.expand(Instant::now() + EXPAND).await?;
            let lines: Vec<_> = applied.iter().map(|step| format!("applied {} in {:.0?}", step.name, step.took)).collect();
            let mut words = if lines.is_empty() {
                "nothing to do: everything this build needs is there".to_owned()
            } else {
                lines.join("\n")
            };
            if let Some(user) = serves {
                coordinator.grant(user).await?;
                let _ = write!(words, "\n{user} may read and write rows, and no more");
            }
            words
        }
        Verb::Grant { to } => {
            coordinator.grant(&to).await?;
            format!("{to} may read and write rows, and no more")
        }
        Verb::Backfill { page_ms, rest, max_lag, .. } => {
            let pace = Pace {
                page: Duration::from_millis(page_ms),
                rest_percent: rest,
                lag: Duration::from_secs(max_lag),
                ..Pace::default()
            };
            let begun = Instant::now();
            let filled = coordinator.backfill(&name, &pace, &bar).await?;
            let took = begun.elapsed();
            format!("filled {} of {} rows of {name} in {took:.1?}", filled.changed, filled.rows)
        }
        Verb::Validate { without_proof, .. } => {
            let found = coordinator.validate(&name, ValidateOptions { without_proof }, &bar).await?;
            let words = judged(&found);
            verdict = Some(found);
            words
        }
        Verb::Advance { .. } => {
            let phase = coordinator.advance(&name).await?;
            format!("{name} is in phase {phase}; {}", acknowledged(&coordinator).await?)
        }
        Verb::Back { undo, .. } => {
            let phase = coordinator.back(&name, undo).await?;
            format!("{name} is back in phase {phase}; {}", acknowledged(&coordinator).await?)
        }
        Verb::Contract { drop_old_columns, dump, .. } => {
            if !drop_old_columns {
                return Err("the contract drops the old columns for good: add --drop-old-columns to mean it".into());
            }
            // Before anything is dropped, and never over a dump that is already there.
            let mut file = tokio::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&dump)
                .await
                .map_err(|failure| format!("cannot write {}: {failure}; nothing was dropped", dump.display()))?;
            let rows = coordinator.dump(&name, &mut file).await?;
            file.sync_all().await.map_err(CoordinatorError::Dump)?;
            coordinator.contract(&name).await?;
            format!("dumped {rows} rows to {}; {name} is contracted; {}", dump.display(), acknowledged(&coordinator).await?)
        }
    };
    bar.0.finish_and_clear();
    let status = coordinator.status().await?;
    for migration in &status.migrations {
        if let Some(next) = next_words(migration) {
            let _ = write!(did, "\nnext: {next}");
        }
    }
    let ok = verdict.as_ref().is_none_or(|verdict| verdict.valid);
    Ok(Outcome { did, ok, verdict, status })
}

/// The migration that was named, or the only one that is under way.
fn choose(status: &Status, which: &Which) -> Result<String, Box<dyn std::error::Error>> {
    if let Some(name) = &which.migration {
        return Ok(name.clone());
    }
    let open: Vec<_> = status
        .migrations
        .iter()
        .filter(|migration| migration.known && migration.phase.is_some_and(|phase| phase < Phase::Contract))
        .map(|migration| migration.name.clone())
        .collect();
    match &open[..] {
        [one] => Ok(one.clone()),
        [] => Err("no migration is under way".into()),
        many => Err(format!("name the migration: {}", many.join(", ")).into()),
    }
}

async fn acknowledged(coordinator: &Coordinator) -> Result<String, CoordinatorError> {
    let begun = Instant::now();
    let behind = coordinator.wait_for_replicas(ACKNOWLEDGE).await?;
    if behind.is_empty() {
        let count = coordinator.status().await?.replicas.len();
        return Ok(format!("{count} live replicas act on it ({:.0?})", begun.elapsed()));
    }
    let list: Vec<_> = behind.iter().map(|replica| format!("{} {}", replica.color, replica.instance)).collect();
    Ok(format!("not yet acted on by: {}", list.join(", ")))
}

fn described(status: &Status) -> String {
    let mut words = format!("epoch {}\n\nmigrations", status.epoch);
    for migration in &status.migrations {
        let state = match (migration.applied, migration.phase) {
            (false, _) => "not applied".to_owned(),
            (true, None) => "applied".to_owned(),
            (true, Some(phase)) => format!("phase {phase}"),
        };
        let unknown = if migration.known { "" } else { "  (a newer build's)" };
        let _ = write!(words, "\n  {}  {state}{unknown}", migration.name);
        if let Some(filled) = migration.backfill {
            let done = if migration.backfilled { "done" } else { "under way" };
            let _ = write!(words, "\n      backfill {done}: {} rows passed, {} filled", filled.rows, filled.changed);
        }
        if let Some(verdict) = &migration.verdict {
            let word = if verdict.valid { "valid" } else { "NOT VALID" };
            let _ = write!(words, "\n      last verdict: {word}, {} rows", verdict.rows);
        }
        if let Some(next) = next_words(migration) {
            let _ = write!(words, "\n      next: {next}");
        }
    }
    let _ = write!(words, "\n\nlive replicas");
    if status.replicas.is_empty() {
        words.push_str("\n  none");
    }
    for replica in &status.replicas {
        let behind = if replica.epoch_seen < status.epoch { "  behind" } else { "" };
        let _ =
            write!(words, "\n  {} {} {}  epoch {}{behind}", replica.color, replica.version, replica.instance, replica.epoch_seen);
    }
    words
}

fn planned(status: &Status, name: &str) -> String {
    let Some(migration) = status.migrations.iter().find(|migration| migration.name == name) else {
        return format!("there is no migration {name}");
    };
    let now = migration.phase.unwrap_or(Phase::Idle);
    let mut words = format!("{name}\n");
    for rule in RULES {
        let mark = if rule.phase == now { "→" } else { " " };
        let writes = match (rule.old_writes, rule.new_writes) {
            (true, true) => "both",
            (true, false) => "old",
            _ => "new",
        };
        let reads = format!("{:?}", rule.reads).to_lowercase();
        let phase = rule.phase.word();
        let _ = write!(words, "\n{mark} {phase:<9} writes {writes:<5} reads {reads:<5} enter when {}", rule.enter);
        if rule.phase == now {
            for obstacle in &migration.obstacles {
                let _ = write!(words, "\n            in the way: {obstacle}");
            }
        }
    }
    if let Some(next) = next_words(migration) {
        let _ = write!(words, "\n\nnext: {next}");
    }
    if let Some(back) = migration.back {
        let undo = if back == Phase::Idle { " --undo" } else { "" };
        let _ = write!(words, "\nback: `migrate back{undo}` leads to {back}");
    }
    words
}

fn next_words(migration: &MigrationStatus) -> Option<String> {
    if !migration.known {
        return None;
    }
    if !migration.applied {
        return Some(format!("`migrate expand` applies {}", migration.name));
    }
    let verb = match migration.next? {
        Phase::Idle | Phase::Expand => return None,
        Phase::Dual => "`migrate advance`",
        Phase::Fenced => "`migrate advance` refuses writes of the old shape from then on, when the old release is retired",
        Phase::Backfill => "`migrate backfill`, once the new release runs",
        Phase::Validate if migration.backfilled => "`migrate validate`",
        Phase::Validate => "`migrate backfill`",
        Phase::ReadNew if migration.obstacles.is_empty() => "`migrate advance`: then traffic may move to the new release",
        Phase::ReadNew => "`migrate validate`",
        Phase::Contract => "`migrate contract --drop-old-columns --dump FILE`, when going back is no longer wanted",
    };
    let mut words = verb.to_owned();
    for obstacle in &migration.obstacles {
        let _ = write!(words, "\n        first: {obstacle}");
    }
    Some(words)
}

fn judged(verdict: &Verdict) -> String {
    let word = if verdict.valid { "valid" } else { "NOT VALID" };
    let mut words = format!("{}: {word}, {} rows compared", verdict.migration, verdict.rows);
    for check in &verdict.checks {
        let mark = if check.passed { "ok  " } else { "FAIL" };
        let _ = write!(words, "\n  {mark} {}", check.name);
        if !check.passed {
            let _ = write!(words, ": {} wrong: {}\n       {}", check.wrong, check.samples.join(", "), check.advice);
        }
    }
    words
}
