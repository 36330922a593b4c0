//! What every answer of `/mcp` promises, whatever was asked: it is not our failure, and it is JSON-RPC or nothing.
//!
//! Written against the bytes alone, so that it knows no more of a message than a client does.

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// A message, as far as it can be told from others.
#[derive(Deserialize)]
struct Named {
    id: Option<Value>,
}

/// What is wrong with an answer to a body that was sent to `/mcp`, in words. An answer keeps its promise when its status is
/// below 500, and when its body is nothing, a JSON-RPC message, or a stream or an array of such, in which each response names a
/// message that was asked. A refusal may also be a line of text.
#[must_use]
pub fn flaw(asked: &[u8], status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<String> {
    if status.is_server_error() {
        return Some(format!("the status is {status}"));
    }
    if body.is_empty() {
        return None;
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let messages = match kind.split(';').next().unwrap_or_default() {
        "application/json" => match serde_json::from_slice(body) {
            Ok(Value::Array(messages)) => messages,
            Ok(message) => vec![message],
            Err(wrong) => return Some(format!("the body is no JSON: {wrong}")),
        },
        "text/event-stream" => match events(body) {
            Ok(messages) => messages,
            Err(wrong) => return Some(wrong),
        },
        _ if status.is_client_error() => return None,
        other => return Some(format!("the body is `{other}`")),
    };
    let ids = ids(asked);
    messages.iter().find_map(|message| wrong(message, &ids))
}

/// The messages of a stream, which may have been cut off.
fn events(body: &[u8]) -> Result<Vec<Value>, String> {
    let text = std::str::from_utf8(body).map_err(|wrong| format!("the stream is no text: {wrong}"))?;
    let data = text.split("\n\n").map(|event| event.lines().filter_map(|line| line.strip_prefix("data:")).collect::<String>());
    data.filter(|data| !data.trim().is_empty())
        .map(|data| serde_json::from_str(&data).map_err(|wrong| format!("an event is no JSON: {wrong}: {data}")))
        .collect()
}

/// The ids of the messages in a body, as far as it has some. However deep the rest of a message is, it has an id.
fn ids(asked: &[u8]) -> Vec<Value> {
    let asked = asked.strip_prefix(b"\xef\xbb\xbf").unwrap_or(asked);
    let messages: Vec<&RawValue> =
        serde_json::from_slice(asked).or_else(|_| serde_json::from_slice(asked).map(|one| vec![one])).unwrap_or_default();
    messages.into_iter().filter_map(|message| serde_json::from_str::<Named>(message.get()).ok()?.id).collect()
}

/// What is wrong with a message that came from the server.
fn wrong(message: &Value, asked: &[Value]) -> Option<String> {
    let has = |member| message.get(member).is_some();
    if message["jsonrpc"] != "2.0" {
        return Some(format!("no JSON-RPC: {message}"));
    }
    if message["method"].is_string() && !has("result") && !has("error") {
        return None;
    }
    if has("method") || has("result") == has("error") {
        return Some(format!("neither a result nor an error, or more than one of both: {message}"));
    }
    let error = &message["error"];
    if has("error") && !(error["code"].is_i64() && error["message"].is_string()) {
        return Some(format!("an error without code or message: {message}"));
    }
    match &message["id"] {
        Value::Null if has("error") => None,
        id if asked.iter().any(|asked| is_same(asked, id)) => None,
        id => Some(format!("{id} was not asked: {message}")),
    }
}

/// Whether two ids are the same. Clients without integers write 1 as `1.0`, and compare numbers by their value.
fn is_same(asked: &Value, answered: &Value) -> bool {
    asked == answered || asked.as_f64().is_some_and(|asked| answered.is_i64() && answered.as_f64() == Some(asked))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn judged(asked: &str, status: u16, kind: &'static str, body: &str) -> Option<String> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        flaw(asked.as_bytes(), StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn an_answer_to_what_was_asked_is_right() {
        let asked = r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#;
        for (status, kind, body) in [
            (202, "application/json", ""),
            (200, "application/json", r#"{"jsonrpc":"2.0","id":"\u0061","result":{}}"#),
            (200, "application/json", r#"[{"jsonrpc":"2.0","id":"a","result":{}}]"#),
            (400, "application/json", r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#),
            (406, "text/plain", "Not Acceptable"),
            (200, "text/event-stream", "id: 0\nretry: 5\ndata:\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"a\",\"result\":{}}\n\n"),
            (
                200,
                "text/event-stream",
                "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n:\n\n",
            ),
        ] {
            assert_eq!(judged(asked, status, kind, body), None, "{status} {kind} {body}");
        }
        for asked in [r#"{"id":1.0}"#, r#"{"id":10e-1}"#, "\u{feff}{\"id\":1}"] {
            assert_eq!(judged(asked, 200, "application/json", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), None, "{asked}");
        }
        let deep = format!(r#"{{"x":{}{},"id":1}}"#, "[".repeat(300), "]".repeat(300));
        assert_eq!(judged(&deep, 200, "application/json", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), None);
    }

    #[test]
    fn every_broken_promise_is_told() {
        let asked = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        for (status, kind, body, words) in [
            (500, "application/json", "", "the status is 500 Internal Server Error"),
            (200, "application/json", "{", "the body is no JSON: EOF while parsing an object at line 1 column 1"),
            (200, "text/plain", "hello", "the body is `text/plain`"),
            (200, "application/json", "{}", "no JSON-RPC: {}"),
            (200, "application/json", r#"{"jsonrpc":"2.0","id":2,"result":{}}"#, "2 was not asked: "),
            (200, "application/json", r#"{"jsonrpc":"2.0","id":"1","result":{}}"#, "\"1\" was not asked: "),
            (200, "application/json", r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, "null was not asked: "),
            (200, "application/json", r#"{"jsonrpc":"2.0","id":1}"#, "neither a result nor an error"),
            (200, "application/json", r#"{"jsonrpc":"2.0","id":1,"error":{"code":"x"}}"#, "an error without code or message"),
            (200, "text/event-stream", "data: {\n\n", "an event is no JSON: "),
        ] {
            let told = judged(asked, status, kind, body).unwrap_or_default();
            assert!(told.starts_with(words), "{body}: {told}");
        }
    }
}
