//! JSON-RPC as it comes in, borrowed from the body, and as it goes out. Nothing here knows what a method means.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;

/// JSON-RPC 2.0: the text is not JSON.
pub(crate) const PARSE_ERROR: i32 = -32700;
/// JSON-RPC 2.0: JSON, but no JSON-RPC message.
pub(crate) const INVALID_REQUEST: i32 = -32600;
/// JSON-RPC 2.0: there is no such method.
pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
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
    /// The body with its id as an integer, if all that is wrong is that the id is written like `1.0`.
    pub(crate) repaired: Option<Bytes>,
}

impl<'a> Envelope<'a> {
    /// Reads one message.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        // Members that nobody looks at have to be text, too.
        let text = std::str::from_utf8(body).map_err(|error| no_json(&error))?;
        let envelope: Self = serde_json::from_str(text).map_err(|error| match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) if error.is_data() => Malformed::invalid(format!("not a JSON-RPC message: {}", without_position(&error))),
            Ok(_) => no_json(&error),
            // What is no message from its beginning on may be no JSON further on.
            Err(error) => no_json(&error),
        })?;
        let invalid = |message: &str| Err(Malformed::invalid(message.to_owned()));
        // serde takes a list of values for the members in their order.
        if text.trim_ascii_start().starts_with('[') {
            return invalid("not a JSON-RPC message: invalid type: sequence, expected an object");
        }
        if envelope.jsonrpc != "2.0" {
            return invalid("`jsonrpc` must be \"2.0\"");
        }
        if let Some(id) = envelope.id.map(RawValue::get)
            && !is_id(id)
        {
            return Err(bad_id(text, id));
        }
        Ok(envelope)
    }

    /// Returns the message with the `requestId` of a cancellation as an integer, if it is written like `1.0`. `body` is what the
    /// envelope was read from.
    pub(crate) fn with_whole_request_id(&self, body: &'a [u8]) -> Option<Bytes> {
        #[derive(Deserialize)]
        struct Cancelled<'a> {
            #[serde(borrow, rename = "requestId")]
            id: &'a RawValue,
        }
        if self.method.as_deref() != Some("notifications/cancelled") {
            return None;
        }
        let id = object::<Cancelled<'_>>(self.params?)?.id.get();
        if is_id(id) {
            return None;
        }
        bad_id(std::str::from_utf8(body).ok()?, id).repaired
    }
}

impl Malformed {
    fn invalid(message: String) -> Self {
        Self { code: INVALID_REQUEST, message, repaired: None }
    }
}

/// Says what is wrong with an id, or repairs the message: languages without integers write 1 as `1.0`. `id` is a part of `text`.
fn bad_id(text: &str, id: &str) -> Malformed {
    if !id.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return Malformed::invalid("`id` must be a string or an integer (MCP allows no null)".to_owned());
    }
    match integer(id) {
        Number::Integer(integer) => {
            let start = id.as_ptr().addr() - text.as_ptr().addr();
            let (before, after) = (&text[..start], &text[start + id.len()..]);
            let repaired = Some(format!("{before}{integer}{after}").into());
            Malformed { repaired, ..Malformed::invalid("`id` is not written as an integer".to_owned()) }
        }
        Number::Fraction => Malformed::invalid("`id` must be a string or an integer, and has a fraction".to_owned()),
        Number::TooLarge => {
            let message =
                format!("`id` must be a string or an integer from {} to {}, and is outside of that", i64::MIN, i64::MAX);
            Malformed::invalid(message)
        }
    }
}

/// What a JSON number is.
#[derive(Debug, PartialEq, Eq)]
enum Number {
    Integer(i64),
    Fraction,
    TooLarge,
}

/// Reads a JSON number as an integer, digit by digit: a `f64` would round `1.00000000000000000001` and 2^53 + 1.
fn integer(number: &str) -> Number {
    /// `i64` has 19 digits.
    const MAX_DIGITS: usize = 19;
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Number::Integer(0);
    }
    // An exponent of more than a few digits is beyond every limit, whatever its exact value is.
    let exponent: i64 = exponent.parse().unwrap_or(if exponent.starts_with('-') { -1_000_000_000 } else { 1_000_000_000 });
    let trimmed = digits.len() - significant.len();
    let zeros = exponent - i64::try_from(fraction.len()).unwrap_or(i64::MAX) + i64::try_from(trimmed).unwrap_or(i64::MAX);
    let Ok(zeros) = usize::try_from(zeros) else { return Number::Fraction };
    if significant.len() > MAX_DIGITS || zeros > MAX_DIGITS {
        return Number::TooLarge;
    }
    format!("{sign}{significant}{}", "0".repeat(zeros)).parse().map_or(Number::TooLarge, Number::Integer)
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
    Malformed { code: PARSE_ERROR, message: format!("not JSON: {error}"), repaired: None }
}

/// A string, or an integer as JavaScript and rmcp can both hold it. An escape may be half a character, which the answer would
/// repeat, and which not everybody reads.
fn is_id(id: &str) -> bool {
    let is_text = || !id.contains('\\') || serde_json::from_str::<String>(id).is_ok();
    if id.starts_with('"') { is_text() } else { id.parse::<i64>().is_ok() }
}

pub(super) fn without_position(error: &serde_json::Error) -> String {
    let words = error.to_string();
    words.rsplit_once(" at line ").map_or(words.clone(), |(words, _)| words.to_owned())
}

/// Returns the message of [`METHOD_NOT_FOUND`]. Clients look for its first words.
pub(crate) fn method_not_found(method: &str) -> String {
    format!("Method not found: {method}")
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
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, "`id` must be a string or an integer, and has a fraction"),
            (r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#, "`id` must be a string or an integer (MCP allows no null)"),
            (
                r#"{"jsonrpc":"2.0","id":9223372036854775808,"method":"ping"}"#,
                "`id` must be a string or an integer from -9223372036854775808 to 9223372036854775807, and is outside of that",
            ),
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
    fn a_number_is_the_integer_that_it_equals() {
        for (number, expected) in [
            ("1.0", Number::Integer(1)),
            ("-1.0", Number::Integer(-1)),
            ("-0.0", Number::Integer(0)),
            ("0e99999999999999999999", Number::Integer(0)),
            ("1e3", Number::Integer(1000)),
            ("1.5E+1", Number::Integer(15)),
            ("100e-2", Number::Integer(1)),
            ("9007199254740993.0", Number::Integer(9_007_199_254_740_993)),
            ("9.223372036854775807e18", Number::Integer(i64::MAX)),
            ("-9223372036854775808.000", Number::Integer(i64::MIN)),
            ("9223372036854775808.0", Number::TooLarge),
            ("1e300", Number::TooLarge),
            ("1e99999999999999999999", Number::TooLarge),
            ("1.5", Number::Fraction),
            ("1e-1", Number::Fraction),
            ("1e-99999999999999999999", Number::Fraction),
            ("1.00000000000000000001", Number::Fraction),
        ] {
            assert_eq!(integer(number), expected, "{number}");
        }
    }

    #[test]
    fn an_id_that_is_written_with_a_fraction_of_zero_is_repaired_where_it_stands() {
        let body = r#" {"params":{"id":1.0},"id" : 1.0 ,"jsonrpc":"2.0","method":"ping"}"#;
        let repaired = Envelope::read(body.as_bytes()).unwrap_err().repaired.unwrap();
        assert_eq!(repaired, r#" {"params":{"id":1.0},"id" : 1 ,"jsonrpc":"2.0","method":"ping"}"#);
        assert_eq!(Envelope::read(&repaired).unwrap().id.unwrap().get(), "1");
    }

    #[test]
    fn a_cancellation_names_the_request_by_the_integer_that_its_number_equals() {
        let cancel = |id| format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#);
        for (id, whole) in
            [("1.0", Some("1")), ("2e1", Some("20")), ("1", None), ("\"1.0\"", None), ("1.5", None), ("null", None)]
        {
            let body = cancel(id);
            let repaired = Envelope::read(body.as_bytes()).unwrap().with_whole_request_id(body.as_bytes());
            assert_eq!(repaired, whole.map(|id| cancel(id).into()), "{id}");
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
