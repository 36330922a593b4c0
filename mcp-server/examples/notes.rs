//! An application that writes, and writes once: `add_note` adds a note however often the same call is made, even when the
//! process died before the answer left. It answers only once the process has got SIGUSR1, so that there is a moment to
//! watch that.
//!
//! ```sh
//! DATABASE_URL=postgresql://… cargo run --example notes
//! ```

use axum::extract::FromRef;
use mcp_server::{
    App, Config, MIGRATIONS, Reply, Tool,
    answers::{Begun, Once},
    bg_runtime::{
        Database,
        database::{DatabaseError, Type},
        storage::{Control, Replica, migration::Migration},
    },
    extract::{Parameters, State},
    telemetry::Telemetry,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct NewNote {
    /// What to remember.
    text: String,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Note {
    id: i64,
    text: String,
}

#[derive(Clone)]
struct Notes {
    database: Database,
    gate: watch::Receiver<bool>,
}

impl FromRef<Notes> for Database {
    fn from_ref(notes: &Notes) -> Self {
        notes.database.clone()
    }
}

impl FromRef<Notes> for watch::Receiver<bool> {
    fn from_ref(notes: &Notes) -> Self {
        notes.gate.clone()
    }
}

async fn add_note(
    State(database): State<Database>,
    State(mut gate): State<watch::Receiver<bool>>,
    Parameters(note): Parameters<NewNote>,
    once: Once,
) -> Result<Reply<Note>, DatabaseError> {
    let mut connection = database.get().await?;
    let reply = match once.begin(&mut connection).await? {
        Begun::Before(reply) => reply,
        Begun::First(act) => {
            let insert = "INSERT INTO notes (text) VALUES ($1) RETURNING id";
            let row = act.transaction().query_opt(insert, &[(&note.text, Type::TEXT)]).await?;
            let id = row.map_or(0, |row| row.get(0));
            let reply = act.answer(Reply::new(Note { id, text: note.text }, format!("Noted as {id}."))).await?;
            // An error means that nobody is left who could open the gate, and then there is nothing to wait for.
            let _ = gate.wait_for(|open| *open).await;
            reply
        }
    };
    Ok(reply)
}

const NOTES: Migration =
    Migration::new("0100_notes", "CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL)");

#[tokio::main]
async fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    let config = Config::from_environment()?;
    let telemetry = Telemetry::install(&config.telemetry, &config.release)?;
    let (open, gate) = watch::channel(false);
    let mut opened = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        opened.recv().await;
        open.send_replace(true);
        open.closed().await;
    });
    let migrations: &'static [Migration] = [MIGRATIONS, &[NOTES]].concat().leak();
    let database = Database::open(config.database).await?;
    let control = Control::new(database.clone(), Replica::new(config.release.color, &*config.release.version, migrations));
    Ok(App::new(config.release, Notes { database: database.clone(), gate })
        .database(database)
        .migrations(migrations)
        .control(control)
        .tool(Tool::new("add_note", add_note).describe("Remembers a text.").additive())
        .telemetry(telemetry)
        .serve(config.http)
        .await)
}
