//! What each command does. The only place that ends the process, prints to a person, or installs a global.

pub(crate) mod contract;
pub(crate) mod migrate;
pub(crate) mod person;

use std::{
    fmt::Display,
    io::{IsTerminal, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use bg_runtime::{
    Database,
    database::{DatabaseConfig, Pooler},
    storage::{Control, Replica, backfill::Progress, migration},
};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::{Timestamp, ToSpan};
use mcp_server::{
    Config,
    appointments::{self, AppState, Appointments, MIGRATIONS, import},
    config,
    error::Chain,
    telemetry::Telemetry,
};

/// How far into the future a series without an end is imported when nobody says.
const HORIZON_YEARS: i64 = 2;

/// How long a command waits for the database to answer at all.
const REACHED_WITHIN: Duration = Duration::from_secs(10);

/// `import`
#[derive(Debug, Args)]
#[command(after_help = "Importing the same file twice changes nothing. Events that are gone from a series are removed, \
cancelled ones are marked; events of other files are left alone.")]
pub(crate) struct Import {
    /// The calendar: a .ics file, or - for standard input.
    file: PathBuf,
    /// Whose appointments they are.
    #[arg(long)]
    user: String,
    /// The zone of times that say none (an IANA name), when the calendar names none either.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Import series without an end up to this date.
    #[arg(long, value_name = "DATE", help = "Import series without an end up to this date [default: in two years]")]
    until: Option<jiff::civil::Date>,
    /// Say what would change and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// `health`
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Where the server listens, `address:port`. Without it, where LISTEN or PORT say.
    #[arg(long)]
    address: Option<SocketAddr>,
}

pub(crate) fn serve() -> ExitCode {
    with_config(async |config| {
        let telemetry = match Telemetry::install(&config.telemetry, &config.release) {
            Ok(telemetry) => telemetry,
            Err(failure) => return complain(&failure, config::EXIT_CODE),
        };
        let database = match Database::open(config.database).await {
            Ok(database) => database,
            Err(failure) => return complain(&failure, 70),
        };
        tracing::info!("the database is {}", database.place());
        let replica = Replica::new(config.release.color, config.release.version.to_string(), MIGRATIONS);
        let control = Control::new(database.clone(), replica);
        let mut state = AppState::new(&database, &control, config.time_zone);
        state.appointments = state.appointments.foreign_users(config.foreign_users);
        let mut app = appointments::app(config.release, state).database(database).control(control).telemetry(telemetry);
        if !config.migrate {
            app = app.migrated_elsewhere();
        }
        app.serve(config.http).await
    })
}

pub(crate) fn import(import: Import) -> ExitCode {
    with_config(async |config| {
        let zone = match import.time_zone.as_deref().map(appointments::time_zone) {
            None => config.time_zone.clone(),
            Some(Some(zone)) => zone,
            Some(None) => {
                return complain(&format!("no IANA zone is named `{}`", import.time_zone.unwrap_or_default()), config::EXIT_CODE);
            }
        };
        let until = match import.until {
            Some(date) => date.to_zoned(zone.clone()).map(|zoned| zoned.timestamp()),
            // From midnight, so that a day's imports agree.
            None => Timestamp::now()
                .to_zoned(zone.clone())
                .checked_add(HORIZON_YEARS.years())
                .and_then(|zoned| zoned.start_of_day())
                .map(|zoned| zoned.timestamp()),
        };
        let until = match until {
            Ok(until) => until,
            Err(failure) => return complain(&failure, config::EXIT_CODE),
        };
        let bytes = if import.file.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        } else {
            std::fs::read(&import.file)
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(failure) => return complain(&format!("cannot read {}: {failure}", import.file.display()), 1),
        };
        let database = match ready_database(&config).await {
            Ok(database) => database,
            Err(code) => return code,
        };
        let appointments = Appointments::new(database.clone(), config.time_zone.clone());
        let bar = Bar::new();
        let outcome = import::import(&appointments, bytes, &import.user, zone, until, import.dry_run, &bar).await;
        bar.0.finish_and_clear();
        let _ = database.close().await;
        match outcome {
            Ok(imported) if import.json => print(&serde_json::to_string(&imported).expect("counts serialize")),
            Ok(imported) => print(&imported),
            Err(failure) => complain(&Chain(&failure), 1),
        }
    })
}

pub(crate) fn config() -> ExitCode {
    match Config::from_environment() {
        Ok(config) => print(&config.show().trim_end()),
        Err(wrong) => complain(&wrong, config::EXIT_CODE),
    }
}

/// Plain sockets: this runs every few seconds in a container, and a runtime would cost more than the question.
pub(crate) fn health(health: &Health) -> ExitCode {
    let address = match health.address {
        Some(address) => address,
        None => match Config::from_environment() {
            Ok(config) => config.http.listen,
            Err(wrong) => return complain(&wrong, config::EXIT_CODE),
        },
    };
    // A server that listens everywhere listens here.
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    let address = SocketAddr::new(ip, address.port());
    let ask = || -> std::io::Result<String> {
        let limit = Duration::from_secs(3);
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(format!("GET /health HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => print(&answer.split("\r\n\r\n").nth(1).unwrap_or_default()),
        Ok(answer) => complain(&format!("{address} answers `{}`", answer.lines().next().unwrap_or_default()), 1),
        Err(failure) => complain(&format!("{address} does not answer: {failure}"), 1),
    }
}

/// The database, reached and in the shape this build needs.
async fn ready_database(config: &Config) -> Result<Database, ExitCode> {
    let database = reached_database(config).await?;
    if config.migrate
        && let Err(failure) = migration::apply(&database, MIGRATIONS, Duration::from_secs(300)).await
    {
        let _ = database.close().await;
        return Err(complain(&Chain(&failure), 70));
    }
    Ok(database)
}

/// The database, once it has answered: a person who typed a command wants to hear now that it is away.
async fn reached_database(config: &Config) -> Result<Database, ExitCode> {
    let database = Database::open(config.database.clone()).await.map_err(|failure| complain(&Chain(&failure), 70))?;
    match database.check(REACHED_WITHIN).await {
        Ok(_) => Ok(database),
        Err(failure) => {
            let _ = database.close().await;
            Err(complain(&Chain(&failure), 70))
        }
    }
}

fn with_config(run: impl AsyncFnOnce(Config) -> ExitCode) -> ExitCode {
    let config = match Config::from_environment() {
        Ok(config) => config,
        Err(wrong) => return complain(&wrong, config::EXIT_CODE),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(config)),
        Err(failure) => complain(&format!("no runtime can be started: {failure}"), 70),
    }
}

/// Runs a command on the database, once that has answered.
fn with_database(run: impl AsyncFnOnce(&Database) -> Result<ExitCode, ExitCode>) -> ExitCode {
    with_config(async |config| on_database(&config, run).await)
}

/// Runs a command on the database as its owner, once that has answered. The command is told which user serves, if that is
/// another one.
fn with_owner(run: impl AsyncFnOnce(&Database, Option<&str>) -> Result<ExitCode, ExitCode>) -> ExitCode {
    with_config(async |mut config| {
        let mut serves = None;
        if let Some(url) = config.migrate_url.take() {
            serves = config.database.user();
            config.database = DatabaseConfig { url: Some(url), direct_url: None, pooler: Pooler::Direct, ..config.database };
        }
        let serves = serves.filter(|user| config.database.user().as_ref() != Some(user));
        on_database(&config, async |database| run(database, serves.as_deref()).await).await
    })
}

async fn on_database(config: &Config, run: impl AsyncFnOnce(&Database) -> Result<ExitCode, ExitCode>) -> ExitCode {
    let database = match reached_database(config).await {
        Ok(database) => database,
        Err(code) => return code,
    };
    let code = run(&database).await.unwrap_or_else(|code| code);
    let _ = database.close().await;
    code
}

#[expect(clippy::print_stdout, reason = "a command's result goes to standard output")]
fn print(words: &impl Display) -> ExitCode {
    println!("{words}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "a command's failure goes to standard error")]
fn complain(words: &impl Display, code: u8) -> ExitCode {
    eprintln!("mcp-server: {words}");
    ExitCode::from(code)
}

/// Progress on a terminal; nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}");
        bar.set_style(style.expect("the template names fields that there are"));
        Self(bar)
    }
}

impl Progress for Bar {
    fn doing(&self, what: &str, of: u64) {
        self.0.set_message(what.to_owned());
        self.0.set_length(of);
    }

    fn done(&self, so_far: u64) {
        // A table grows while it is filled, and its count is an estimate anyway.
        if self.0.length().is_some_and(|length| length < so_far) {
            self.0.set_length(so_far);
        }
        self.0.set_position(so_far);
    }

    fn waits(&self, why: &str) {
        self.0.set_message(if why.is_empty() { "goes on".to_owned() } else { format!("waits: {why}") });
    }
}
