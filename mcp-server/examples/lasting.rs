//! An application for watching a deploy: what its clients hold on to outlives the process it began in.
//!
//! - `tell` says that it has begun, and answers once the process has got SIGUSR1; making it again does no harm,
//! - `act` does the same, and may not be made again,
//! - `add` adds to what its conversation remembers, and says by what handle the conversation is found again,
//! - `order` does so and keeps the conversation on the build it began on, until `pay`; version 3 takes no orders,
//! - `inquire` asks for a name while it works, as clients up to 2025-11-25 can be asked,
//! - `ask` asks for a name, and greets whoever has it,
//! - `change` changes what the resource `lasting://board` says, and logs that it did,
//! - `draw` is drawn by a widget, another one in each color.
//!
//! ```sh
//! DATABASE_URL=postgresql://… RELEASE_COLOR=blue cargo run --example lasting
//! ```
#![expect(deprecated, reason = "logging is deprecated with 2026-07-28, and older clients still use it")]

use axum::extract::FromRef;
use mcp_server::{
    App, Config, MIGRATIONS, Reply, Tool, ToolError,
    bg_runtime::{
        Color, Database,
        storage::{Control, Replica},
    },
    conversation::{Conversation, ConversationState, Handle},
    conversations::Conversations,
    extract::{Inputs, Parameters, Peer, Release, State},
    resource::{Changes, Resource},
    rmcp::model::{
        CallToolResponse, CallToolResult, ContentBlock, ElicitRequestParams, InputRequiredResult, LoggingLevel, ResourceContents,
    },
    telemetry::Telemetry,
    widgets::Widget,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

#[derive(Clone)]
struct Lasting {
    gate: watch::Sender<bool>,
    conversations: Conversations,
    board: Changes,
}

impl FromRef<Lasting> for Changes {
    fn from_ref(lasting: &Lasting) -> Self {
        lasting.board.clone()
    }
}

impl FromRef<Lasting> for watch::Receiver<bool> {
    fn from_ref(lasting: &Lasting) -> Self {
        lasting.gate.subscribe()
    }
}

impl FromRef<Lasting> for Conversations {
    fn from_ref(lasting: &Lasting) -> Self {
        lasting.conversations.clone()
    }
}

#[derive(Deserialize, schemars::JsonSchema)]
struct Number {
    n: u32,
}

async fn tell(
    State(mut gate): State<watch::Receiver<bool>>,
    Parameters(number): Parameters<Number>,
    peer: Peer,
    release: Release,
) -> String {
    peer.progress(1.0, 2.0, "begun").await;
    // An error means that nobody is left who could open the gate, and then there is nothing to wait for.
    let _ = gate.wait_for(|open| *open).await;
    peer.progress(2.0, 2.0, "told").await;
    format!("told {} by {}", number.n, release.color)
}

#[derive(Deserialize, schemars::JsonSchema)]
struct Thing {
    /// What to add.
    thing: String,
    conversation: Option<Handle>,
}

#[derive(Default, Serialize, Deserialize)]
struct Basket {
    #[serde(default)]
    things: Vec<String>,
}

impl ConversationState for Basket {}

#[derive(Serialize, schemars::JsonSchema)]
struct Added {
    things: Vec<String>,
    color: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<Handle>,
}

async fn add(
    Parameters(thing): Parameters<Thing>,
    basket: Conversation<Basket>,
    release: Release,
) -> Result<Reply<Added>, ToolError> {
    let _ = thing.conversation;
    let things = basket
        .update(|basket| {
            basket.things.push(thing.thing.clone());
            basket.set_widget("basket", &basket.things.len());
            basket.things.clone()
        })
        .await?;
    let text = format!("{} things", things.len());
    Ok(Reply::new(Added { things, color: release.color.to_string(), conversation: basket.handle().cloned() }, text))
}

fn form() -> serde_json::Value {
    json!({ "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] })
}

async fn inquire(peer: Peer, release: Release) -> Result<String, ToolError> {
    let question = ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: "What is your name?".to_owned(),
        requested_schema: serde_json::from_value(form()).map_err(ToolError::internal)?,
    };
    let answer = peer.peer.create_elicitation(question).await.map_err(ToolError::internal)?;
    let name = answer.content.unwrap_or_default()["name"].as_str().unwrap_or("nobody").to_owned();
    Ok(format!("Hello, {name}: asked and greeted by {}.", release.color))
}

async fn ask(inputs: Inputs, release: Release) -> Result<CallToolResponse, ToolError> {
    let asked_by: Option<String> = inputs.open()?;
    let name = inputs.responses.get("name").and_then(|answer| answer["content"]["name"].as_str());
    if let (Some(asked_by), Some(name)) = (asked_by, name) {
        let words = format!("Hello, {name}: asked by {asked_by}, greeted by {}.", release.color);
        return Ok(CallToolResult::success(vec![ContentBlock::text(words)]).into());
    }
    let form = form();
    let question = json!({ "name": { "method": "elicitation/create", "params": {
        "mode": "form", "message": "What is your name?", "requestedSchema": form,
    } } });
    let question = serde_json::from_value(question).map_err(ToolError::internal)?;
    Ok(InputRequiredResult::new(Some(question), Some(inputs.seal(&release.color.to_string())?)).into())
}

const BOARD: &str = "lasting://board";

async fn change(State(board): State<Changes>, peer: Peer, release: Release) -> &'static str {
    board.updated(BOARD);
    peer.log(LoggingLevel::Debug, format!("changed by {}", release.color)).await;
    "changed"
}

async fn draw(release: Release) -> String {
    format!("drawn by {}", release.color)
}

static BLUE: Widget = Widget::new("lasting", "<!doctype html><title>Blue</title><p>Blue</p>");
static GREEN: Widget = Widget::new("lasting", "<!doctype html><title>Green</title><p>Green</p>");

#[tokio::main]
async fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    let config = Config::from_environment()?;
    let telemetry = Telemetry::install(&config.telemetry, &config.release)?;
    let gate = watch::Sender::new(false);
    let mut opened = signal(SignalKind::user_defined1())?;
    tokio::spawn({
        let gate = gate.clone();
        async move {
            opened.recv().await;
            gate.send_replace(true);
        }
    });
    let database = Database::open(config.database).await?;
    let control = Control::new(database.clone(), Replica::new(config.release.color, &*config.release.version, MIGRATIONS));
    let conversations = Conversations::new(database.clone(), control.clone());
    let widget = if config.release.color == Color::Blue { &BLUE } else { &GREEN };
    let board = Changes::new();
    let order = Tool::new("order", add).describe("Adds to an order.").additive().pinned_until("paid");
    let order = (!config.release.version.starts_with("3.")).then_some(order);
    let app = App::new(config.release, Lasting { gate, conversations, board: board.clone() })
        .database(database)
        .migrations(MIGRATIONS)
        .control(control)
        .logging()
        .subscriptions(board)
        .tool(Tool::new("tell", tell).describe("Answers when told to.").read_only())
        .tool(Tool::new("act", tell).describe("Acts when told to.").additive())
        .tool(Tool::new("add", add).describe("Adds to a basket.").additive())
        .tool(Tool::new("pay", add).describe("Pays for an order.").additive().reaches("paid"))
        .tool(Tool::new("inquire", inquire).describe("Asks for a name.").read_only())
        .tool(Tool::new("ask", ask).describe("Asks for a name.").read_only())
        .tool(Tool::new("change", change).describe("Changes the board.").additive())
        .resource(Resource::new(BOARD, "Board", async |read| Ok::<_, ToolError>(ResourceContents::text("A board.", read.uri))))
        .tool(Tool::new("draw", draw).describe("Draws.").read_only().widget(widget))
        .widget(widget)
        .telemetry(telemetry);
    Ok(order.into_iter().fold(app, App::tool).serve(config.http).await)
}
