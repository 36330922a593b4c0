//! A release that can be told to be bad, for watching how a rollout finds out. It keeps a database, has the tools `echo` and
//! `note` and one widget, and is good unless FAULT says otherwise:
//!
//! - `none`, or nothing: a good release,
//! - `unready`: it never becomes ready,
//! - `smoke`: `echo` always fails,
//! - `contract`: `note` is gone, and `echo` wants an argument that it did not want before,
//! - `load`: `echo` answers one call after the other, 25 ms each: fast alone and slow under load,
//! - `bake`: every third `echo` fails, once the file exists that FAULT_WHEN names,
//! - `crash`: the process ends with status 3 before it serves.
//!
//! ```sh
//! DATABASE_URL=postgresql://… FAULT=smoke cargo run --example faulty
//! ```

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcp_server::{
    App, Config, MIGRATIONS, Tool, ToolError,
    bg_runtime::{
        Database,
        storage::{Control, Replica},
    },
    extract::{Parameters, State},
    telemetry::Telemetry,
    widgets::Widget,
};
use tokio::sync::Mutex;

/// What is wrong with this release.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    Unready,
    Smoke,
    Contract,
    Load,
    /// From when on: the file that must exist.
    Bake(PathBuf),
    Crash,
}

#[derive(Clone)]
struct Faulty {
    fault: Fault,
    /// Whose turn it is under `load`.
    turn: Arc<Mutex<()>>,
    /// Echoes under `bake` since its file exists.
    echoes: Arc<AtomicU64>,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Said {
    /// What to say again.
    word: String,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Note {
    /// What to note.
    text: String,
}

/// How long an `echo` takes under `load`.
const TURN: Duration = Duration::from_millis(25);

static WIDGET: Widget = Widget::new(
    "faulty",
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Faulty</title>\n</head>\n<body>\n<main>\n\
     <h1>Faulty</h1>\n<p>Here.</p>\n</main>\n</body>\n</html>\n",
)
.title("Faulty");

async fn echo(State(release): State<Faulty>) -> Result<&'static str, ToolError> {
    match &release.fault {
        Fault::Smoke => return Err(ToolError::internal("this release was told to fail at every echo")),
        Fault::Load => {
            let _turn = release.turn.lock().await;
            tokio::time::sleep(TURN).await;
        }
        Fault::Bake(file) => {
            let has_begun = tokio::fs::try_exists(file).await.map_err(ToolError::internal)?;
            if has_begun && release.echoes.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                return Err(ToolError::internal("this release was told to fail at every third echo"));
            }
        }
        Fault::Nothing | Fault::Unready | Fault::Contract | Fault::Crash => {}
    }
    Ok("here")
}

async fn echo_word(Parameters(said): Parameters<Said>) -> String {
    format!("here: {}", said.word)
}

async fn note(Parameters(note): Parameters<Note>) -> String {
    format!("Noted: {}", note.text)
}

#[tokio::main]
async fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    let fault = Fault::read()?;
    if fault == Fault::Crash {
        crash();
    }
    let config = Config::from_environment()?;
    let telemetry = Telemetry::install(&config.telemetry, &config.release)?;
    let database = Database::open(config.database).await?;
    let control = Control::new(database.clone(), Replica::new(config.release.color, &*config.release.version, MIGRATIONS));
    let state = Faulty { fault: fault.clone(), turn: Arc::default(), echoes: Arc::default() };
    let app = App::new(config.release, state)
        .name("faulty")
        .database(database)
        .migrations(MIGRATIONS)
        .control(control)
        .widget(&WIDGET)
        .telemetry(telemetry);
    let app = if fault == Fault::Contract {
        app.tool(Tool::new("echo", echo_word).describe("Says a word again.").read_only().widget(&WIDGET))
    } else {
        app.tool(Tool::new("echo", echo).describe("Answers that it is here.").read_only().widget(&WIDGET))
            .tool(Tool::new("note", note).describe("Notes a text.").additive())
    };
    let app = if fault == Fault::Unready {
        app.ready_when("upstream", || async { Err::<(), _>("the upstream does not answer") })
    } else {
        app
    };
    Ok(app.serve(config.http).await)
}

// === impl Fault ===

impl Fault {
    fn read() -> Result<Self, String> {
        Ok(match told("FAULT").as_deref() {
            None | Some("none") => Self::Nothing,
            Some("unready") => Self::Unready,
            Some("smoke") => Self::Smoke,
            Some("contract") => Self::Contract,
            Some("load") => Self::Load,
            Some("bake") => Self::Bake(told("FAULT_WHEN").ok_or("FAULT=bake needs FAULT_WHEN, the name of a file")?.into()),
            Some("crash") => Self::Crash,
            Some(word) => {
                return Err(format!("FAULT=`{word}`: say none, unready, smoke, contract, load, bake or crash"));
            }
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "what an example is told is not configuration of the framework")]
fn told(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[expect(clippy::print_stderr, reason = "a release that dies this early has no log yet")]
fn crash() -> ! {
    eprintln!("the config file is missing");
    std::process::exit(3)
}
