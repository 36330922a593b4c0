//! JSON-RPC as it comes in, borrowed from the body, and as it goes out. Nothing here knows what a method means.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;

/// JSON-RPC 2.0: the text is not JSON.
pub(crate) const PARSE_ERROR: i32 = -32700;
/// JSON-RPC 2.0: JSON, but no JSON-RPC message.
pub(crate) const INVALID_REQUEST: i32 = -32600;
/// JSON-RPC 2.0: the method does not take these parameters.
pub(crate) const INVALID_PARAMS: i32 = -32602;
/// JSON-RPC 2.0: our failure.
pub(crate) const INTERNAL_ERROR: i32 = -32603;
/// What MCP's SDKs use for a request that took too long.
pub(crate) const REQUEST_TIMEOUT: i32 = -32001;
/// What MCP's transport uses for a session that is not there.
pub(crate) const SESSION_NOT_FOUND: i32 = -32001;

/// One message.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
pub(crate) struct Envelope<'a> {
    #[serde(borrow)]
    pub(crate) jsonrpc: Cow<'a, str>,
    /// As it came. Present and `null` is not absent: MCP allows no null id, and a request without an answer would be lost.
    #[serde(borrow, default, deserialize_with = "present")]
    pub(crate) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) params: Option<&'a RawValue>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Why a body is no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl<'a> Envelope<'a> {
    /// Reads one message.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        // Members that nobody looks at have to be text, too.
        let text = std::str::from_utf8(body).map_err(|error| no_json(&error))?;
        let envelope: Self = serde_json::from_str(text).map_err(|error| match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) if error.is_data() => {
                Malformed { code: INVALID_REQUEST, message: format!("not a JSON-RPC message: {}", without_position(&error)) }
            }
            Ok(_) => no_json(&error),
            // What is no message from its beginning on may be no JSON further on.
            Err(error) => no_json(&error),
        })?;
        let invalid = |message: &str| Err(Malformed { code: INVALID_REQUEST, message: message.to_owned() });
        // serde takes a list of values for the members in their order.
        if text.trim_ascii_start().starts_with('[') {
            return invalid("not a JSON-RPC message: invalid type: sequence, expected an object");
        }
        if envelope.jsonrpc != "2.0" {
            return invalid("`jsonrpc` must be \"2.0\"");
        }
        if envelope.id.is_some_and(|id| !is_id(id.get())) {
            return invalid("`id` must be a string or an integer (MCP allows no null)");
        }
        Ok(envelope)
    }
}

/// A part of a message that is an object, read. serde would take a list of values for the members in their order.
pub(crate) fn object<'a, T: Deserialize<'a>>(part: &'a RawValue) -> Option<T> {
    if !is_object(part) {
        return None;
    }
    serde_json::from_str(part.get()).ok()
}

/// Whether a part of a message is an object.
pub(crate) fn is_object(part: &RawValue) -> bool {
    part.get().starts_with('{')
}

fn no_json(error: &dyn std::fmt::Display) -> Malformed {
    Malformed { code: PARSE_ERROR, message: format!("not JSON: {error}") }
}

/// A string, or an integer as JavaScript and rmcp can both hold it. An escape may be half a character, which the answer would
/// repeat, and which not everybody reads.
fn is_id(id: &str) -> bool {
    let is_text = || !id.contains('\\') || serde_json::from_str::<String>(id).is_ok();
    if id.starts_with('"') { is_text() } else { id.parse::<i64>().is_ok() }
}

fn without_position(error: &serde_json::Error) -> String {
    let words = error.to_string();
    words.rsplit_once(" at line ").map_or(words.clone(), |(words, _)| words.to_owned())
}

/// Begins an answer: everything before the result.
pub(crate) fn begin(id: &str, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity + id.len() + 48);
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b",\"result\":");
    out
}

/// A whole answer around a result that is already JSON: shared, not copied.
pub(crate) fn result(id: &str, result: &Bytes) -> [Bytes; 3] {
    [begin(id, 0).into(), result.clone(), Bytes::from_static(b"}")]
}

/// A whole error. `data` is JSON.
pub(crate) fn error(id: Option<&str>, code: i32, message: &str, data: Option<&str>) -> Bytes {
    let message = serde_json::to_string(message).expect("text serializes");
    let data = data.map(|data| format!(",\"data\":{data}")).unwrap_or_default();
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{{\"code\":{code},\"message\":{message}{data}}}}}", id.unwrap_or("null"))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &[u8]) -> (i32, String) {
        let malformed = Envelope::read(body).unwrap_err();
        (malformed.code, malformed.message)
    }

    #[test]
    fn what_is_no_json_is_a_parse_error() {
        for body in
            [&b""[..], b"{", b"{\"jsonrpc\":\"2.0\",}", b"\xff\xfe", b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}", b"nope"]
        {
            assert_eq!(refusal(body).0, PARSE_ERROR, "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn what_is_json_and_no_message_is_an_invalid_request() {
        for (body, words) in [
            ("{}", "not a JSON-RPC message: missing field `jsonrpc`"),
            ("7", "not a JSON-RPC message: invalid type: integer `7`, expected an object"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "`jsonrpc` must be \"2.0\""),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "`id` must be a string or an integer (MCP allows no null)"),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, "`id` must be a string or an integer (MCP allows no null)"),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#, "`id` must be a string or an integer (MCP allows no null)"),
            (r#"{"jsonrpc":"2.0","id":"\ud800","method":"ping"}"#, "`id` must be a string or an integer (MCP allows no null)"),
            (r#" ["2.0",1,"ping"]"#, "not a JSON-RPC message: invalid type: sequence, expected an object"),
        ] {
            assert_eq!(refusal(body.as_bytes()), (INVALID_REQUEST, words.to_owned()));
        }
    }

    /// However it begins, and wherever in it that is.
    #[test]
    fn what_is_no_json_further_on_is_a_parse_error_too() {
        for body in [
            &b"7 x"[..],
            b"{}}",
            b"{\"jsonrpc\":2.0,}",
            b"[\"2.0\",1,\"ping\"",
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"\x80\":1}}",
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"more\":\"\xff\"}",
        ] {
            assert_eq!(refusal(body).0, PARSE_ERROR, "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn an_id_is_any_text_and_comes_back_as_it_was_written() {
        for id in [r#""\ud83d\ude00""#, r#""\\""#, r#""""#, "-0", "9223372036854775807"] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
            assert_eq!(Envelope::read(body.as_bytes()).unwrap().id.unwrap().get(), id);
        }
    }

    #[test]
    fn a_thousand_brackets_are_read_without_a_deep_stack() {
        let deep =
            format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
        assert!(Envelope::read(deep.as_bytes()).unwrap().params.is_some());
    }

    #[test]
    fn an_answer_is_json() {
        let answer: serde_json::Value =
            serde_json::from_slice(&result("\"a\"", &Bytes::from_static(b"{\"x\":1}")).concat()).unwrap();
        assert_eq!(answer, serde_json::json!({"jsonrpc": "2.0", "id": "a", "result": {"x": 1}}));
        let answer: serde_json::Value =
            serde_json::from_slice(&error(None, -32700, "a \"quoted\" word", Some("{\"retryable\":true}"))).unwrap();
        assert_eq!(answer["error"]["message"], "a \"quoted\" word");
        assert_eq!(answer["id"], serde_json::Value::Null);
    }
}
