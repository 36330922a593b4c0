//! Messages that rmcp does not recognize for what they are, and what to tell their senders.
//!
//! rmcp reads a message as the first of its types that fits. A known method with wrong parameters becomes an unknown method
//! that way, so those are found here, and the wrong member is named.

use rmcp::model::{
    CallToolRequestParams, ClientJsonRpcMessage, ClientRequest, CompleteRequestParams, GetPromptRequestParams,
    InitializeRequestParams, PaginatedRequestParams, ReadResourceRequestParams, SubscribeRequestParams, UnsubscribeRequestParams,
};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::envelope::{self, Envelope};

/// Returns whether rmcp would not recognize the message for what it is. It takes a known method with parameters that do not fit
/// for an unknown method, parameters in a list for the ones with these names, and answers JSON that it cannot read at all with a
/// media type error.
pub(super) fn is_misread(envelope: &Envelope<'_>, body: &[u8], stateless: bool) -> bool {
    const KNOWN: [&str; 9] = [
        "server/discover",
        "tools/list",
        "tools/call",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "completion/complete",
    ];
    /// 2026-07-28 does not have them, whatever their parameters are.
    const REMOVED: [&str; 4] = ["initialize", "resources/subscribe", "resources/unsubscribe", "logging/setLevel"];
    let method = envelope.method.as_deref().unwrap_or_default();
    let is_known = KNOWN.contains(&method) || (!stateless && REMOVED.contains(&method));
    if envelope.params.is_some_and(|params| !envelope::is_object(params)) {
        return true;
    }
    match serde_json::from_slice::<ClientJsonRpcMessage>(body) {
        Ok(ClientJsonRpcMessage::Request(request)) => is_known && matches!(request.request, ClientRequest::CustomRequest(_)),
        Ok(_) => false,
        Err(_) => true,
    }
}

/// Describes what is wrong with the parameters of a request, and names the member that is.
pub(super) fn describe(method: &str, params: Option<&RawValue>) -> String {
    let flaw = match params {
        Some(params) if !envelope::is_object(params) => Some("`params` must be an object".to_owned()),
        _ => flaw_of(method, params.map_or("{}", RawValue::get)),
    };
    match flaw {
        Some(flaw) => format!("the parameters of `{method}` are not valid: {flaw}"),
        None => format!("the parameters of `{method}` are not valid"),
    }
}

/// Returns whether rmcp refuses this method before it asks the handler, with the bare name of the method as its message: the
/// method belongs to the other era, or to an extension that is never offered here.
pub(super) fn is_never_offered(method: &str, stateless: bool) -> bool {
    const HANDSHAKE_ONLY: [&str; 4] = ["ping", "resources/subscribe", "resources/unsubscribe", "logging/setLevel"];
    const EXTENSIONS: [&str; 6] =
        ["tasks/get", "tasks/update", "tasks/cancel", "skills/list", "skills/get", "resources/directory/read"];
    EXTENSIONS.contains(&method) || if stateless { HANDSHAKE_ONLY.contains(&method) } else { method == super::door::LISTEN }
}

fn flaw_of(method: &str, params: &str) -> Option<String> {
    #[expect(deprecated, reason = "clients up to 2025-11-25 still set it")]
    type SetLevel = rmcp::model::SetLevelRequestParams;
    match method {
        "initialize" => read::<InitializeRequestParams>(params),
        "tools/call" => read::<CallToolRequestParams>(params),
        "resources/read" => read::<ReadResourceRequestParams>(params),
        "resources/subscribe" => read::<SubscribeRequestParams>(params),
        "resources/unsubscribe" => read::<UnsubscribeRequestParams>(params),
        "prompts/get" => read::<GetPromptRequestParams>(params),
        "completion/complete" => read::<CompleteRequestParams>(params),
        "logging/setLevel" => read::<SetLevel>(params),
        "tools/list" | "resources/list" | "resources/templates/list" | "prompts/list" => read::<PaginatedRequestParams>(params),
        _ => None,
    }
}

/// Reads the parameters as rmcp does, and returns what is wrong with the first member that does not fit.
fn read<T: DeserializeOwned>(params: &str) -> Option<String> {
    let mut deserializer = serde_json::Deserializer::from_str(params);
    let error = serde_path_to_error::deserialize::<_, T>(&mut deserializer).err()?;
    let path = error.path().to_string();
    let message = envelope::without_position(error.inner());
    Some(in_words(if path == "." { "" } else { &path }, &message))
}

/// Turns a message of serde, which names types of Rust, into one for people who write JSON.
fn in_words(path: &str, message: &str) -> String {
    let subject = if path.is_empty() { "`params`".to_owned() } else { format!("`{path}`") };
    if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return if path.is_empty() { format!("`{name}` is missing") } else { format!("`{path}.{name}` is missing") };
    }
    // A list is read as the members of a struct in their order, so a list in the place of an object has a wrong length.
    let is_type = message.starts_with("invalid type: ") || message.starts_with("invalid length ");
    let Some((_, expected)) = message.split_once(", expected ").filter(|_| is_type) else {
        return if message.contains("untagged") {
            format!("{subject} has none of the forms it may have")
        } else {
            format!("{subject}: {message}")
        };
    };
    let kind = [
        ("struct", "an object"),
        ("map", "an object"),
        ("object", "an object"),
        ("string", "a string"),
        ("str", "a string"),
        ("bool", "a boolean"),
        ("sequence", "a list"),
        ("array", "a list"),
        ("integer", "an integer"),
    ];
    match kind.into_iter().find(|(word, _)| expected.contains(word)) {
        Some((_, kind)) => format!("{subject} must be {kind}"),
        None => format!("{subject} has the wrong type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_that_is_missing_or_wrong_is_named() {
        for (method, params, flaw) in [
            ("initialize", None, "`protocolVersion` is missing"),
            ("initialize", Some("[]"), "`params` must be an object"),
            (
                "initialize",
                Some(r#"{"capabilities":{},"clientInfo":{"name":"a","version":"1"}}"#),
                "`protocolVersion` is missing",
            ),
            (
                "initialize",
                Some(r#"{"protocolVersion":"2025-11-25","clientInfo":{"name":"a","version":"1"}}"#),
                "`capabilities` is missing",
            ),
            ("initialize", Some(r#"{"protocolVersion":"2025-11-25","capabilities":{}}"#), "`clientInfo` is missing"),
            (
                "initialize",
                Some(r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"a"}}"#),
                "`clientInfo.version` is missing",
            ),
            (
                "initialize",
                Some(r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"version":"1"}}"#),
                "`clientInfo.name` is missing",
            ),
            (
                "initialize",
                Some(r#"{"protocolVersion":20251125,"capabilities":{},"clientInfo":{"name":"a","version":"1"}}"#),
                "`protocolVersion` must be a string",
            ),
            (
                "initialize",
                Some(r#"{"protocolVersion":null,"capabilities":{},"clientInfo":{"name":"a","version":"1"}}"#),
                "`protocolVersion` must be a string",
            ),
            (
                "initialize",
                Some(r#"{"protocolVersion":"2025-11-25","capabilities":"all","clientInfo":{"name":"a","version":"1"}}"#),
                "`capabilities` must be an object",
            ),
            (
                "initialize",
                Some(r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":"a"}"#),
                "`clientInfo` must be an object",
            ),
            (
                "initialize",
                Some(r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":7,"version":"1"}}"#),
                "`clientInfo.name` must be a string",
            ),
            ("tools/call", Some("{}"), "`name` is missing"),
            ("tools/call", Some(r#"{"name":"a","arguments":[]}"#), "`arguments` must be an object"),
            ("resources/read", Some(r#"{"uri":1}"#), "`uri` must be a string"),
            ("prompts/get", None, "`name` is missing"),
        ] {
            let params = params.map(|params| RawValue::from_string(params.to_owned()).unwrap());
            let expected = format!("the parameters of `{method}` are not valid: {flaw}");
            assert_eq!(describe(method, params.as_deref()), expected, "{params:?}");
        }
    }
}
