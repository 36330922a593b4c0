//! JSON-RPC batches: several messages in one body, each answered as if it had come alone, the answers in one array.
//!
//! A batch is no way to ask for more at once: it has one deadline and one limit for its answers, and each of its messages counts
//! as a call of its principal.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request::Parts};
use serde_json::value::RawValue;

use super::{
    super::{
        envelope::{self, Envelope},
        lean,
    },
    Answer, Door, accepted, error,
};
use crate::{
    extract::Principal,
    http::body::{Payload, json},
    limits::Limit,
};

/// JSON-RPC batches were part of 2025-03-26 and before. More messages than this in one is not a client.
const BATCH_LIMIT: usize = 64;
const LAST_WITH_BATCHES: &str = "2025-03-26";

/// Why a message of a batch has no answer of its own.
const BATCH_TOO_LARGE: &str = "the answers to this batch are larger than may be sent";
const BATCH_TOO_LATE: &str = "this batch took too long";

impl Door {
    /// Several messages in one body: each answered as if it had come alone, the answers in one array.
    pub(super) async fn batch(&self, parts: Parts, principal: &Principal, body: &Bytes) -> Answer {
        let refuse = |code, words: &str| json(StatusCode::BAD_REQUEST, error(None, code, words));
        let version = parts.headers.get(lean::PROTOCOL_VERSION).map(HeaderValue::as_bytes);
        let is_of_session = match (version, lean::session_id(&parts.headers)) {
            // The header came with the revision that ended batches, and a client may leave it out.
            (None, Some(session)) => {
                let _ = self.server.sessions.touch(session, principal).await;
                self.server.sessions.is_after(session, principal, LAST_WITH_BATCHES)
            }
            _ => false,
        };
        if is_of_session || version.is_some_and(|version| version > LAST_WITH_BATCHES.as_bytes()) {
            return refuse(
                envelope::INVALID_REQUEST,
                "JSON-RPC batches ended with revision 2025-03-26; send one message at a time",
            );
        }
        let messages: Vec<&RawValue> = match serde_json::from_slice(body) {
            Ok(messages) => messages,
            Err(failure) => return refuse(envelope::PARSE_ERROR, &format!("not JSON: {failure}")),
        };
        if messages.is_empty() || messages.len() > BATCH_LIMIT {
            return refuse(envelope::INVALID_REQUEST, &format!("a batch holds 1 to {BATCH_LIMIT} messages"));
        }
        let calls = match self.limits.begin_more(principal, messages.len() - 1) {
            Ok(calls) => calls,
            Err(refused) => return self.limits.refuse(refused, None),
        };
        // One deadline and one limit for all of it: a batch is no way to ask for more at once.
        let deadline = tokio::time::Instant::now() + self.server.call_timeout;
        let most = if self.server.response_limit > 0 { self.server.response_limit } else { usize::MAX };
        let (mut out, mut ended) = (vec![b'['], None);
        for message in messages {
            let body = match ended {
                Some(why) => in_place_of(message, why, true),
                None => {
                    let mut parts = parts.clone();
                    parts.headers.remove(header::ACCEPT);
                    let answer = async {
                        let message_body = Bytes::copy_from_slice(message.get().as_bytes());
                        within_batch(self.message(parts, principal, message_body).await, message).await
                    };
                    match tokio::time::timeout_at(deadline, answer).await {
                        Ok(body) if out.len() + body.len() < most => body,
                        Ok(_) => in_place_of(message, ended.insert(BATCH_TOO_LARGE), false),
                        Err(_) => in_place_of(message, ended.insert(BATCH_TOO_LATE), false),
                    }
                }
            };
            if !body.is_empty() {
                if out.len() > 1 {
                    out.push(b',');
                }
                out.extend_from_slice(&body);
            }
        }
        if out.len() == 1 {
            return accepted();
        }
        out.push(b']');
        if !self.limits.has_room_for(out.len()) {
            self.limits.note(Limit::Unread);
            let words = "the messages were answered, and too many answers wait to be read; look before you send them again";
            let data = Some(r#"{"retryable":false}"#);
            return json(StatusCode::OK, envelope::error(None, envelope::INTERNAL_ERROR, words, data));
        }
        let mut answer = json(StatusCode::OK, Bytes::from(out));
        if let Some(calls) = calls {
            answer.extensions_mut().insert(Arc::new(calls));
        }
        answer
    }
}

/// One answer among others, which is JSON or nothing. rmcp refuses some requests in plain words.
async fn within_batch(answer: Answer, message: &RawValue) -> Bytes {
    let is_json = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let body = match answer.into_body() {
        Payload::Bytes(body) => body,
        other => axum::body::to_bytes(other.into_body(), usize::MAX).await.unwrap_or_default(),
    };
    if is_json || body.is_empty() {
        return body;
    }
    let envelope = Envelope::read(message.get().as_bytes()).ok();
    let id = envelope.as_ref().and_then(|envelope| envelope.id).map(RawValue::get);
    error(id, envelope::INVALID_REQUEST, &String::from_utf8_lossy(&body))
}

/// The error in place of an answer that a batch has no room or no time for. One that was not begun may be sent again as it is.
fn in_place_of(message: &RawValue, why: &str, was_not_begun: bool) -> Bytes {
    let Ok(envelope) = Envelope::read(message.get().as_bytes()) else { return Bytes::new() };
    let Some(id) = envelope.id.filter(|_| envelope.method.is_some()) else { return Bytes::new() };
    let (words, data) = match was_not_begun {
        true => (format!("{why}: this message was not read; send it again"), r#"{"retryable":true}"#),
        false => (format!("{why}; a tool may have run, look before you call again"), r#"{"retryable":false}"#),
    };
    envelope::error(Some(id.get()), envelope::INTERNAL_ERROR, &words, Some(data))
}

#[cfg(test)]
mod tests {
    use bg_runtime::{Color, Release};
    use serde_json::{Value, json};

    use crate::{App, HttpConfig, Tool, testing};

    const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

    fn app() -> App<()> {
        let fill = Tool::new("fill", async || "x".repeat(1000)).describe("Answers with 1000 bytes.").read_only();
        let never = Tool::new("never", async || std::future::pending::<String>().await).describe("Does not answer.").read_only();
        App::new(Release::new(Color::Blue, "1.0.0", "test").unwrap(), ()).tool(fill).tool(never)
    }

    fn call(id: u32, tool: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#)
    }

    fn batch(messages: &[String]) -> String {
        format!("[{}]", messages.join(","))
    }

    #[tokio::test]
    async fn a_batch_has_one_limit_for_all_its_answers() {
        let mut config = HttpConfig::default();
        config.limits.response = 4000;
        let running = testing::start_with(app(), config).await.unwrap();
        let mut messages: Vec<_> = (0..10).map(|id| call(id, "fill")).collect();
        messages.push(INITIALIZED.to_owned());
        let answer = running.post(&batch(&messages)).await;
        let answers: Value = serde_json::from_str(&answer.body).unwrap();
        let of_each: Vec<_> = answers
            .as_array()
            .unwrap()
            .iter()
            .map(|answer| (answer["result"].is_object(), answer["error"]["data"]["retryable"].as_bool()))
            .collect();
        assert_eq!(of_each[..3], [(true, None); 3], "{answers}");
        assert_eq!(of_each[3], (false, Some(false)), "it ran");
        assert_eq!(of_each[4..], [(false, Some(true)); 6], "these did not, and each has its answer");
    }

    #[tokio::test]
    async fn a_batch_has_one_deadline_for_all_its_messages() {
        let config = HttpConfig { call_timeout: std::time::Duration::from_millis(500), ..HttpConfig::default() };
        let running = testing::start_with(app(), config).await.unwrap();
        let begun = std::time::Instant::now();
        let messages: Vec<_> = (0..64).map(|id| call(id, "never")).collect();
        let answers: Value = serde_json::from_str(&running.post(&batch(&messages)).await.body).unwrap();
        assert_eq!(answers.as_array().unwrap().len(), 64);
        assert!(answers.as_array().unwrap().iter().all(|answer| answer["error"]["message"].is_string()), "{answers}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_session_of_a_revision_without_batches_has_none_whether_or_not_its_client_says_the_revision() {
        let running = testing::start(app()).await.unwrap();
        for (version, status) in [("2024-11-05", 200), ("2025-03-26", 200), ("2025-06-18", 400), ("2025-11-25", 400)] {
            let params = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "a", "version": "1" } });
            let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }).to_string();
            let opened = running.post(&initialize).await;
            let session = opened.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).expect("it opens a session");
            let body = batch(&[call(1, "fill")]);
            let head = format!(
                "POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\nmcp-session-id: {}\r\ncontent-length: {}",
                session.trim(),
                body.len()
            );
            let answer = testing::exchange(running.running().address(), &head, &body).await;
            assert_eq!(answer.status, status, "{version}: {}", answer.body);
        }
    }

    /// rmcp says in plain words that it does not know a revision.
    #[tokio::test]
    async fn a_batch_is_answered_with_json_whatever_rmcp_says_of_a_message() {
        let running = testing::start(App::new(Release::new(Color::Blue, "1.0.0", "test").unwrap(), ())).await.unwrap();
        let body = r#"[{"jsonrpc":"2.0","id":"a","method":"ping"},{"jsonrpc":"2.0","id":2,"method":"prompts/list"},7]"#;
        let head = format!(
            "POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\nmcp-protocol-version: 1999\r\ncontent-length: {}",
            body.len()
        );
        let answer = testing::exchange(running.running().address(), &head, body).await;
        let answers: serde_json::Value = serde_json::from_str(&answer.body).expect("a batch is answered with JSON");
        let told: Vec<_> = answers.as_array().unwrap().iter().map(|one| (&one["id"], &one["error"]["code"])).collect();
        assert_eq!(
            format!("{told:?}"),
            r#"[(String("a"), Number(-32600)), (Number(2), Number(-32600)), (Null, Number(-32600))]"#
        );
    }
}
