//! Tools that talk to the client while they work: progress and log lines, and, up to 2025-11-25, questions to its model and
//! its person. From 2026-07-28 on questions are results: see `inputs.rs`.
#![expect(deprecated, reason = "sampling and logging are deprecated with 2026-07-28, and older clients still use them")]

use std::time::Duration;

use mcp_server::{
    Tool, ToolError,
    extract::{Parameters, Peer},
    rmcp::model::{ClientCapabilities, CreateMessageRequestParams, ElicitRequestParams, LoggingLevel, SamplingMessage},
};
use serde_json::{Value, json};

use crate::Everything;

/// How long a step of pretended work takes: long enough for a client to see the steps one by one.
const STEP: Duration = Duration::from_millis(50);

pub(crate) fn tools() -> Vec<Tool<Everything>> {
    vec![
        Tool::new("test_tool_with_logging", logging).describe("Writes three lines into the client's log.").read_only(),
        Tool::new("test_logging_tool", logging).describe("Writes lines into the log of a client that wants them.").read_only(),
        Tool::new("test_tool_with_progress", progress).describe("Says how far it is, three times.").read_only(),
        Tool::new("test_reconnection", waits).describe("Answers after a while, on a stream that can be resumed.").read_only(),
        Tool::new("test_sampling", sampling).describe("Asks the client's model.").read_only(),
        Tool::new("test_missing_capability", needs_sampling).describe("Refuses clients that cannot sample.").read_only(),
        Tool::new("test_elicitation", elicitation)
            .describe("Asks the person at the client for a name and an address.")
            .read_only(),
        Tool::new("test_elicitation_sep1034_defaults", elicitation_with_defaults)
            .describe("Asks the person with answers filled in.")
            .read_only(),
        Tool::new("test_elicitation_sep1330_enums", elicitation_with_choices)
            .describe("Lets the person choose, in every way there is.")
            .read_only(),
    ]
}

async fn logging(peer: Peer) -> &'static str {
    peer.log(LoggingLevel::Info, "Tool execution started").await;
    tokio::time::sleep(STEP).await;
    peer.log(LoggingLevel::Info, "Tool processing data").await;
    tokio::time::sleep(STEP).await;
    peer.log(LoggingLevel::Info, "Tool execution completed").await;
    "Tool with logging executed successfully"
}

async fn progress(peer: Peer) -> &'static str {
    peer.progress(0.0, 100.0, "started").await;
    tokio::time::sleep(STEP).await;
    peer.progress(50.0, 100.0, "halfway").await;
    tokio::time::sleep(STEP).await;
    peer.progress(100.0, 100.0, "done").await;
    "Tool with progress executed successfully"
}

async fn waits(_peer: Peer) -> &'static str {
    tokio::time::sleep(STEP).await;
    "Reconnection test completed"
}

async fn needs_sampling(peer: Peer) -> Result<&'static str, ToolError> {
    peer.requires(ClientCapabilities::builder().enable_sampling().build())?;
    Ok("this client can sample")
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Prompt {
    /// What to ask the model.
    prompt: String,
}

async fn sampling(peer: Peer, Parameters(Prompt { prompt }): Parameters<Prompt>) -> Result<String, ToolError> {
    let request = CreateMessageRequestParams::new(vec![SamplingMessage::user_text(prompt)], 100);
    let answer = peer.peer.create_message(request).await;
    let answer = answer.map_err(|error| ToolError::caller(format!("the client did not sample: {error}")))?;
    let text = answer.message.content.first().and_then(|content| content.as_text());
    Ok(format!("LLM response: {}", text.map_or("no text", |text| &text.text)))
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Message {
    /// What to ask the person.
    message: String,
}

async fn elicitation(peer: Peer, Parameters(Message { message }): Parameters<Message>) -> Result<String, ToolError> {
    let form = json!({
        "type": "object",
        "properties": {
            "username": { "type": "string", "description": "User's response" },
            "email": { "type": "string", "description": "User's email address" },
        },
        "required": ["username", "email"],
    });
    ask(&peer, &message, form).await.map(|answer| format!("User response: {answer}"))
}

async fn elicitation_with_defaults(peer: Peer) -> Result<String, ToolError> {
    let form = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "default": "John Doe" },
            "age": { "type": "integer", "default": 30 },
            "score": { "type": "number", "default": 95.5 },
            "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
            "verified": { "type": "boolean", "default": true },
        },
    });
    ask(&peer, "Is this right?", form).await.map(|answer| format!("Elicitation completed: {answer}"))
}

async fn elicitation_with_choices(peer: Peer) -> Result<String, ToolError> {
    let titled = |word: &str| {
        let choice =
            |number: u8, ordinal: &str| json!({ "const": format!("value{number}"), "title": format!("{ordinal} {word}") });
        json!([choice(1, "First"), choice(2, "Second"), choice(3, "Third")])
    };
    let options = json!(["option1", "option2", "option3"]);
    let form = json!({
        "type": "object",
        "properties": {
            "untitledSingle": { "type": "string", "enum": options },
            "titledSingle": { "type": "string", "oneOf": titled("Option") },
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": { "type": "array", "items": { "type": "string", "enum": options } },
            "titledMulti": { "type": "array", "items": { "anyOf": titled("Choice") } },
        },
    });
    ask(&peer, "What do you choose?", form).await.map(|answer| format!("Elicitation completed: {answer}"))
}

async fn ask(peer: &Peer, message: &str, form: Value) -> Result<String, ToolError> {
    let form = ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: message.to_owned(),
        requested_schema: serde_json::from_value(form).map_err(ToolError::internal)?,
    };
    let answer = peer.peer.create_elicitation(form).await;
    let answer = answer.map_err(|error| ToolError::caller(format!("the client did not ask its person: {error}")))?;
    Ok(format!("action={:?}, content={}", answer.action, answer.content.unwrap_or_default()))
}
