//! Questions of a tool to a client that cannot be asked: a revision before 2026-07-28, curl, or a client that did not declare
//! the capability. The model gets a tool result that names what is missing, where a JSON-RPC error would reach only the client.

use std::fmt::Write as _;

use rmcp::{
    RoleServer,
    model::{CallToolResponse, InputRequests, InputRequiredResult, ProtocolVersion},
    service::RequestContext,
};
use serde_json::{Map, Value};

use crate::{
    error::Kind,
    extract::{Call, PeerCall},
    reply::Written,
};

/// Passes on what a tool wrote, unless it is a question and the client cannot be asked.
pub(super) fn check(written: Written, call: &Call<'_>) -> Result<Written, Kind> {
    let Written::Response(response) = &written else { return Ok(written) };
    let (CallToolResponse::InputRequired(question), Some(PeerCall { context, .. })) = (&**response, &call.peer) else {
        return Ok(written);
    };
    match obstacle(question, context) {
        Some(obstacle) => Err(Kind::Caller(message(question, obstacle).into())),
        None => Ok(written),
    }
}

/// Why the client cannot be asked; `None` when it can.
fn obstacle(question: &InputRequiredResult, context: &RequestContext<RoleServer>) -> Option<&'static str> {
    if context.protocol_version().is_none_or(|version| version < ProtocolVersion::V_2026_07_28) {
        return Some("the client speaks a revision of MCP before 2026-07-28");
    }
    let declared = serde_json::to_value(context.client_capabilities().unwrap_or_default()).unwrap_or_default();
    let is_declared = |request: &Value| {
        let capability = match request["method"].as_str() {
            Some("elicitation/create") => &declared["elicitation"],
            Some("sampling/createMessage") => &declared["sampling"],
            Some("roots/list") => &declared["roots"],
            _ => return true,
        };
        // Which modes of elicitation there are; an empty declaration means forms (MCP, elicitation, capabilities).
        let mode = request["params"]["mode"].as_str().unwrap_or("form");
        let has_mode = capability[mode].is_object() || (mode == "form" && capability.as_object().is_some_and(Map::is_empty));
        capability.is_object() && (request["method"] != "elicitation/create" || has_mode)
    };
    let all = requests(question.input_requests.as_ref()).all(|(_, request)| is_declared(&request));
    (!all).then_some("the client did not declare the capability for it")
}

/// Names each question with its fields, so that the model can ask the user itself.
fn message(question: &InputRequiredResult, obstacle: &str) -> String {
    let mut text = format!("The tool did nothing yet: it needs more information, and cannot ask for it, because {obstacle}.");
    let mut has_questions = false;
    for (name, request) in requests(question.input_requests.as_ref()) {
        if !std::mem::replace(&mut has_questions, true) {
            text.push_str("\nMissing:");
        }
        let params = &request["params"];
        let what = match request["method"].as_str() {
            Some("sampling/createMessage") => "a completion by the client's model",
            Some("roots/list") => "the client's list of root folders",
            _ => params["message"].as_str().unwrap_or("an answer of the user"),
        };
        // A name or a message is one line of what the model reads.
        let _ = write!(text, "\n- {}: {}", one_line(&name), one_line(what));
        if let Some(address) = params["url"].as_str() {
            let _ = write!(text, " At {}", one_line(address));
        }
        let fields = params["requestedSchema"]["properties"].as_object();
        let required = params["requestedSchema"]["required"].as_array();
        let described: Vec<_> = fields
            .into_iter()
            .flatten()
            .map(|(field, schema)| {
                let is_required = required.is_some_and(|required| required.iter().any(|name| name == field));
                describe(field, schema, is_required)
            })
            .collect();
        if !described.is_empty() {
            let _ = write!(text, " Fields: {}.", described.join(", "));
        }
    }
    text.push_str(if has_questions {
        "\nAsk the user for it, and call the tool again with the answers if it has arguments for them; otherwise tell the user \
         that it takes another client."
    } else {
        " Try again later, or tell the user that it takes another client."
    });
    text
}

/// One field of a form: its name, its type or the values it may have, and whether it must be there.
fn describe(field: &str, schema: &Value, is_required: bool) -> String {
    let values = schema["enum"].as_array().or_else(|| schema["items"]["enum"].as_array());
    let titled = ["oneOf", "anyOf"].iter().find_map(|keyword| schema[keyword].as_array());
    let titled = titled.or_else(|| schema["items"]["anyOf"].as_array());
    let kind = match (values, titled) {
        (Some(values), _) => format!("one of {}", Value::from(values.clone())),
        (None, Some(titled)) => format!("one of {}", titled.iter().map(|one| one["const"].clone()).collect::<Value>()),
        (None, None) => schema["type"].as_str().unwrap_or("any value").to_owned(),
    };
    let need = if is_required { "required" } else { "optional" };
    one_line(&format!("{field} ({kind}, {need})"))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn requests(requests: Option<&InputRequests>) -> impl Iterator<Item = (String, Value)> {
    let as_json = |(name, request)| (String::clone(name), serde_json::to_value(request).unwrap_or_default());
    requests.into_iter().flatten().map(as_json)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_model_reads_which_fields_are_missing() {
        let requests = json!({
            "address": { "method": "elicitation/create", "params": { "mode": "form", "message": "Where to?\nExactly.",
                "requestedSchema": { "type": "object", "required": ["street"], "properties": {
                    "street": { "type": "string" }, "floor": { "type": "integer" },
                    "size": { "type": "string", "enum": ["small", "large"] } } } } },
            "summary": { "method": "sampling/createMessage", "params": { "messages": [], "maxTokens": 9 } },
        });
        let question = InputRequiredResult::new(Some(serde_json::from_value(requests).unwrap()), None);
        let text = message(&question, "it is curl");
        assert!(
            text.starts_with("The tool did nothing yet: it needs more information, and cannot ask for it, because it is curl.")
        );
        let line = text.lines().find(|line| line.starts_with("- address: ")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.starts_with("- address: Where to? Exactly. Fields: "), "{line}");
        for field in ["street (string, required)", "floor (integer, optional)", r#"size (one of ["small","large"], optional)"#] {
            assert!(line.contains(field), "{field} is not in {line}");
        }
        assert!(text.contains("\n- summary: a completion by the client's model"), "{text}");
        let without = message(&InputRequiredResult::from_request_state("x"), "it is curl");
        assert!(without.ends_with("Try again later, or tell the user that it takes another client."), "{without}");
    }
}
