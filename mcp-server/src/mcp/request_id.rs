//! Request ids that are unique in the process. A client may send the same id in several requests at once (claude.ai's
//! connector sends every request with `"id": 1`, and its progress tokens follow its ids), and rmcp routes responses and
//! progress by these values alone.
//!
//! What must stay true: an internal id carries the client's own spelling inside it, so that restoring it needs no state, and no
//! message leaves with an internal id in it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::envelope::{self, Envelope};

const PROGRESS: &str = "notifications/progress";

/// What a message to a client is, once its ids are the client's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// The response to a request.
    Response,
    /// A notification, or a request of the server's.
    Other,
}

/// An event of a stream, with the client's own ids in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamEvent {
    /// A response.
    Response(Bytes),
    /// Another message, or a comment that keeps the connection alive.
    Other(Bytes),
    /// An event without a message: it only names a place in the stream, or a time to reconnect after.
    Empty(Bytes),
}

/// The value of an internal id: unique by its sequence number, and the client's id or token as the client wrote it.
pub(crate) fn internal(sequence: u64, client: &str) -> String {
    format!("{sequence:x}:{client}")
}

/// Returns the client's id or token, as it was written, that an internal one carries.
pub(crate) fn client_id(internal: &str) -> Option<&str> {
    let (sequence, client) = internal.split_once(':')?;
    u64::from_str_radix(sequence, 16).ok()?;
    Some(client)
}

/// Whether two ids are the same: `1` and `1.0` are, `1` and `"1"` are not.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one == other || normalized(one) == normalized(other)
}

/// An id in the one spelling that all its spellings share.
pub(crate) fn normalized(id: &str) -> Cow<'_, str> {
    if id.starts_with('"') {
        // `"\u0061"` is `"a"`.
        return match id.contains('\\').then(|| serde_json::from_str::<String>(id)) {
            Some(Ok(text)) => format!("\"{text}\"").into(),
            _ => id.into(),
        };
    }
    if let Ok(integer) = id.parse::<i64>() {
        return integer.to_string().into();
    }
    match id.parse::<f64>() {
        Ok(number) => number.to_string().into(),
        Err(_) => id.into(),
    }
}

/// Returns the request with its id, and the token that its progress is reported under, made unique. `request` was read from
/// `body`.
pub(crate) fn assign(body: &[u8], request: &Envelope<'_>, sequence: u64) -> Bytes {
    let mut members: Vec<_> = [request.id, progress_token(request.params, true)]
        .into_iter()
        .flatten()
        .filter_map(|member| position(body, member.get()).map(|at| (at, member.get())))
        .collect();
    members.sort_unstable();
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut copied = 0;
    for (at, client) in members {
        out.extend_from_slice(&body[copied..at]);
        let internal = serde_json::to_string(&internal(sequence, client)).expect("text serializes");
        out.extend_from_slice(internal.as_bytes());
        copied = at + client.len();
    }
    out.extend_from_slice(&body[copied..]);
    out.into()
}

/// Returns a message to a client with the client's own ids in it, and what it is.
pub(crate) fn restore(message: &str) -> (Cow<'_, str>, Outgoing) {
    let Ok(read) = Envelope::read(message.as_bytes()) else { return (message.into(), Outgoing::Other) };
    let (member, kind) = match read.method.as_deref() {
        None => (read.id, Outgoing::Response),
        Some(PROGRESS) => (progress_token(read.params, false), Outgoing::Other),
        Some(_) => (None, Outgoing::Other),
    };
    let restored = member.and_then(|member| replaced(message, member.get()));
    (restored.map_or(Cow::Borrowed(message), Cow::Owned), kind)
}

/// Returns a request's `_meta` with the token that its client gave.
pub(crate) fn restore_meta(meta: Box<RawValue>) -> Box<RawValue> {
    let restored = token_in(&meta).and_then(|token| replaced(meta.get(), token.get()));
    restored.and_then(|restored| RawValue::from_string(restored).ok()).unwrap_or(meta)
}

/// Reads an event as rmcp writes it, its message in one line that comes first, and restores the client's ids in it.
pub(crate) fn restore_event(event: Bytes) -> StreamEvent {
    let Some(rest) = event.strip_prefix(b"data: ") else { return StreamEvent::Other(event) };
    let line = &rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())];
    if line.is_empty() {
        return StreamEvent::Empty(event);
    }
    let Ok(message) = std::str::from_utf8(line) else { return StreamEvent::Other(event) };
    let (restored, kind) = restore(message);
    let event = match restored {
        Cow::Borrowed(_) => event.clone(),
        Cow::Owned(restored) => [&b"data: "[..], restored.as_bytes(), &rest[line.len()..]].concat().into(),
    };
    match kind {
        Outgoing::Response => StreamEvent::Response(event),
        Outgoing::Other => StreamEvent::Other(event),
    }
}

/// A text with the client's id or token in the place of this internal one.
fn replaced(text: &str, member: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let at = position(text.as_bytes(), member)?;
    let internal = serde_json::from_str::<Text<'_>>(member).ok()?.0;
    let client = client_id(&internal)?;
    Some(format!("{}{client}{}", &text[..at], &text[at + member.len()..]))
}

/// The token that progress is reported under: of a request in its `_meta`, of a report among its parameters.
fn progress_token(params: Option<&RawValue>, is_request: bool) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    token_in(if is_request { envelope::object::<Params<'_>>(params?)?.meta? } else { params? })
}

fn token_in(holder: &RawValue) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Holder<'a> {
        #[serde(borrow, default, rename = "progressToken")]
        token: Option<&'a RawValue>,
    }
    let token = envelope::object::<Holder<'_>>(holder)?.token?;
    // Another one is no token, and rmcp says so.
    let is_token = token.get().starts_with('"') || token.get().parse::<f64>().is_ok();
    is_token.then_some(token)
}

/// Where in `whole` this part of it begins.
fn position(whole: &[u8], part: &str) -> Option<usize> {
    let at = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    (whole.get(at..at + part.len())? == part.as_bytes()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(body: &str, sequence: u64) -> String {
        let envelope = Envelope::read(body.as_bytes()).unwrap();
        String::from_utf8(assign(body.as_bytes(), &envelope, sequence).to_vec()).unwrap()
    }

    #[test]
    fn an_id_comes_back_as_it_was_written_whatever_it_is() {
        for id in ["1", "-0", r#""1""#, r#""""#, r#""a:b""#, r#""\"\\ \ud83d\ude00""#, r#""1f:1""#, "9223372036854775807"] {
            let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"id":{id}}}}}"#);
            let unique = assigned(&request, 31);
            let read = Envelope::read(unique.as_bytes()).unwrap();
            let unique_id = read.id.unwrap().get();
            assert!(unique_id.starts_with(r#""1f:"#), "{unique}");
            assert_eq!(read.params.unwrap().get(), format!(r#"{{"id":{id}}}"#), "only the id is changed");
            for (response, expected) in [
                (format!(r#"{{"jsonrpc":"2.0","id":{unique_id},"result":{{"id":7}}}}"#), Outgoing::Response),
                (format!(r#"{{"jsonrpc":"2.0","id":{unique_id},"error":{{"code":1,"message":"a"}}}}"#), Outgoing::Response),
            ] {
                let (restored, kind) = restore(&response);
                assert_eq!(restored, response.replace(unique_id, id));
                assert_eq!(kind, expected);
            }
        }
    }

    #[test]
    fn the_progress_token_is_made_unique_wherever_it_stands_and_comes_back() {
        for request in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":1}}}"#,
            r#"{"params":{"_meta":{"x":[1],"progressToken":1},"name":"a"},"method":"tools/call","id":1,"jsonrpc":"2.0"}"#,
        ] {
            let unique = assigned(request, 2);
            assert_eq!(unique, request.replace("\"id\":1", r#""id":"2:1""#).replace("Token\":1", r#"Token":"2:1""#));
        }
        let progress =
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"2:\"t\"","progress":1.0}}"#;
        let (restored, kind) = restore(progress);
        assert_eq!(restored, progress.replace(r#""2:\"t\"""#, r#""t""#));
        assert_eq!(kind, Outgoing::Other);
    }

    #[test]
    fn what_is_no_token_is_left_to_rmcp() {
        for token in ["null", "{}", "[1]", "true"] {
            let meta = format!(r#"{{"name":"a","_meta":{{"progressToken":{token}}}}}"#);
            let request = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{meta}}}"#);
            assert!(assigned(&request, 1).ends_with(&format!("{meta}}}")), "{token}");
        }
    }

    #[test]
    fn questions_of_the_server_keep_their_ids() {
        for message in [
            r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"1:1"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"progressToken":"1:1"}}"#,
        ] {
            let (restored, kind) = restore(message);
            assert!(matches!(restored, Cow::Borrowed(_)) && kind == Outgoing::Other, "{message}");
        }
    }

    #[test]
    fn an_event_says_what_it_is() {
        let event = |text: &str| restore_event(Bytes::copy_from_slice(text.as_bytes()));
        let response = "data: {\"jsonrpc\":\"2.0\",\"id\":\"a:1\",\"result\":{}}\nid: s/4\n\n";
        assert_eq!(event(response), StreamEvent::Response(response.replace("\"a:1\"", "1").into()));
        for empty in ["data: \nid: s/0\nretry: 500\n\n", "data: \nretry: 3000\n\n"] {
            assert_eq!(event(empty), StreamEvent::Empty(empty.into()));
        }
        assert_eq!(event(":\n\n"), StreamEvent::Other(":\n\n".into()));
    }

    #[test]
    fn one_and_one_point_zero_are_the_same_id_and_text_is_another() {
        assert!(same("1", "1.0") && same("1e0", "1") && same("-0", "0") && same(r#""a""#, r#""\u0061""#));
        assert!(!same("1", r#""1""#) && !same("1", "2") && !same(r#""a""#, r#""b""#));
    }
}
