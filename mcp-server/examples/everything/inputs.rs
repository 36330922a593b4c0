//! Tools that need something of the client before they can answer (2026-07-28). Such a tool does not wait: it answers with
//! its questions, and is called again with the answers. What it has to remember in between it gives along, sealed, because
//! it comes back from a stranger.

use mcp_server::{
    Tool, ToolError,
    extract::{Inputs, Peer},
    rmcp::{
        ErrorData,
        model::{CallToolResponse, CallToolResult, ContentBlock, InputRequests, InputRequiredResult, JsonObject},
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::Everything;

type Answer = Result<CallToolResponse, ToolError>;

pub(crate) fn tools() -> Vec<Tool<Everything>> {
    vec![
        Tool::new("test_input_required_result_elicitation", greet).describe("Asks for a name, and greets.").read_only(),
        Tool::new("test_streaming_elicitation", greet).describe("Asks for a name, and greets.").read_only(),
        Tool::new("test_input_required_result_sampling", sample).describe("Asks the client's model.").read_only(),
        Tool::new("test_input_required_result_list_roots", list_roots).describe("Asks for the client's folders.").read_only(),
        Tool::new("test_input_required_result_request_state", confirm)
            .describe("Asks for a confirmation, and remembers that it did.")
            .read_only(),
        Tool::new("test_input_required_result_tampered_state", confirm)
            .describe("Asks for a confirmation, and notices what it did not ask.")
            .read_only(),
        Tool::new("test_input_required_result_multiple_inputs", many).describe("Asks three things at once.").read_only(),
        Tool::new("test_input_required_result_multi_round", rounds).describe("Asks one thing after another.").read_only(),
        Tool::new("test_input_required_result_capabilities", what_it_can)
            .describe("Asks only what the client can answer.")
            .read_only(),
    ]
}

async fn greet(inputs: Inputs) -> Answer {
    match form(&inputs, "user_name", "name")?.and_then(Value::as_str) {
        Some(name) => said(format!("Hello, {name}!")),
        None => asked(json!({ "user_name": question("What is your name?", "name", "string") }), None),
    }
}

async fn sample(inputs: Inputs) -> Answer {
    match inputs.responses.get("capital_question") {
        Some(message) => said(format!("The model said: {}", spoken(message))),
        None => asked(json!({ "capital_question": prompt("What is the capital of France?", 100) }), None),
    }
}

async fn list_roots(inputs: Inputs) -> Answer {
    match inputs.responses.get("client_roots").and_then(|result| result["roots"].as_array()) {
        Some(roots) => {
            let addresses: Vec<_> = roots.iter().filter_map(|root| root["uri"].as_str()).collect();
            said(format!("The client's folders: {}", addresses.join(", ")))
        }
        None => asked(json!({ "client_roots": roots() }), None),
    }
}

async fn confirm(inputs: Inputs) -> Answer {
    let Some(confirmed) = form(&inputs, "confirm", "ok")? else {
        let state = inputs.seal(&"asked")?;
        return asked(json!({ "confirm": question("Please confirm", "ok", "boolean") }), Some(state));
    };
    let state: String = remembered(&inputs)?;
    said(format!("state-ok: {state} and answered {confirmed}"))
}

async fn many(inputs: Inputs) -> Answer {
    let name = form(&inputs, "user_name", "name")?.and_then(Value::as_str);
    let (Some(name), Some(greeting), Some(_)) = (name, inputs.responses.get("greeting"), inputs.responses.get("client_roots"))
    else {
        let requests = json!({
            "user_name": question("What is your name?", "name", "string"),
            "greeting": prompt("Generate a greeting", 50),
            "client_roots": roots(),
        });
        return asked(requests, Some(inputs.seal(&"asked")?));
    };
    remembered::<String>(&inputs)?;
    said(format!("{} ({name})", spoken(greeting)))
}

/// What has been asked so far, and what was learned by it.
#[derive(Deserialize, Serialize)]
enum Round {
    Name,
    Color { name: String },
}

async fn rounds(inputs: Inputs) -> Answer {
    let text = |key, field| Ok::<_, ToolError>(form(&inputs, key, field)?.and_then(Value::as_str).map(str::to_owned));
    let last = inputs.open()?;
    let round = match last {
        None => Round::Name,
        Some(Round::Name) => text("step1", "name")?.map_or(Round::Name, |name| Round::Color { name }),
        Some(Round::Color { name }) => match text("step2", "color")? {
            Some(color) => return said(format!("{name} likes {color}.")),
            None => Round::Color { name },
        },
    };
    let request = match round {
        Round::Name => json!({ "step1": question("Step 1: What is your name?", "name", "string") }),
        Round::Color { .. } => json!({ "step2": question("Step 2: What is your favorite color?", "color", "string") }),
    };
    asked(request, Some(inputs.seal(&round)?))
}

async fn what_it_can(peer: Peer, inputs: Inputs) -> Answer {
    if !inputs.responses.is_empty() {
        return said("Thank you.");
    }
    let capabilities = peer.client_capabilities().unwrap_or_default();
    let mut requests = JsonObject::new();
    if capabilities.elicitation.is_some() {
        requests.insert("user_name".to_owned(), question("What is your name?", "name", "string"));
    }
    if capabilities.sampling.is_some() {
        requests.insert("greeting".to_owned(), prompt("Generate a greeting", 50));
    }
    if capabilities.roots.is_some() {
        requests.insert("client_roots".to_owned(), roots());
    }
    if requests.is_empty() { said("This client can answer nothing.") } else { asked(requests.into(), None) }
}

// === Questions

pub(crate) fn question(message: &str, field: &str, kind: &str) -> Value {
    let form = json!({ "type": "object", "properties": { (field): { "type": kind } }, "required": [field] });
    json!({ "method": "elicitation/create", "params": { "mode": "form", "message": message, "requestedSchema": form } })
}

fn prompt(text: &str, max_tokens: u32) -> Value {
    let message = json!({ "role": "user", "content": { "type": "text", "text": text } });
    json!({ "method": "sampling/createMessage", "params": { "messages": [message], "maxTokens": max_tokens } })
}

fn roots() -> Value {
    json!({ "method": "roots/list", "params": {} })
}

pub(crate) fn requests(requests: Value, state: Option<String>) -> Result<InputRequiredResult, ToolError> {
    let requests: InputRequests = serde_json::from_value(requests).map_err(ToolError::internal)?;
    Ok(InputRequiredResult::new(Some(requests), state))
}

fn asked(questions: Value, state: Option<String>) -> Answer {
    Ok(requests(questions, state)?.into())
}

// === Answers

/// The field of a form that was filled in; none when the form is not there or not what was asked for.
fn form<'a>(inputs: &'a Inputs, key: &str, field: &str) -> Result<Option<&'a Value>, ToolError> {
    let Some(answer) = inputs.responses.get(key) else { return Ok(None) };
    match answer["action"].as_str() {
        Some("decline" | "cancel") => Err(ToolError::caller("the person does not want to answer; go on without")),
        _ => Ok(answer["content"].get(field)),
    }
}

fn spoken(message: &Value) -> &str {
    message["content"]["text"].as_str().unwrap_or("nothing")
}

fn said(text: impl Into<String>) -> Answer {
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
}

/// What was remembered when the question was asked. Without it nobody asked.
fn remembered<T: DeserializeOwned>(inputs: &Inputs) -> Result<T, ToolError> {
    Ok(inputs.open()?.ok_or_else(|| ErrorData::invalid_params("the requestState is missing", None))?)
}
