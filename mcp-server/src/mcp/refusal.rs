//! What rmcp answers besides a stream, as JSON. It refuses requests in plain words, some without a content type, and a client
//! that reads JSON-RPC would find nothing in them.

use std::{borrow::Cow, convert::Infallible};

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, combinators::BoxBody};

use super::{door::is_stream, envelope, request_id::restore};
use crate::http::body::{Payload, json};

/// Returns an answer of rmcp's whose body is a stream, or empty, or JSON with the client's own ids in it. `id` is that of the
/// request, as its client wrote it.
pub(super) async fn in_json(answer: Response<BoxBody<Bytes, Infallible>>, id: Option<&str>) -> Response<Payload> {
    if is_stream(answer.headers()) {
        return answer.map(|body| Payload::Body(Body::new(body)));
    }
    let (head, body) = answer.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(never) => match never {},
    };
    let is_json = head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || body.is_empty() {
        return Response::from_parts(head, Payload::Bytes(body));
    }
    let mut refusal = json(head.status, error(head.status, &body, id));
    // What else it says, such as `Allow`, holds of the refusal too.
    for (name, value) in head.headers.iter().filter(|(name, _)| ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name)) {
        refusal.headers_mut().append(name, value.clone());
    }
    refusal
}

/// The same, of a request that rmcp knows by an internal id.
pub(super) async fn in_json_of_session(answer: Response<BoxBody<Bytes, Infallible>>, id: &str) -> Response<Payload> {
    in_json(answer, Some(id)).await.map(|body| match body {
        Payload::Bytes(bytes) => match std::str::from_utf8(&bytes).map(restore) {
            Ok((Cow::Owned(restored), _)) => Payload::Bytes(restored.into()),
            Ok((Cow::Borrowed(_), _)) | Err(_) => Payload::Bytes(bytes),
        },
        other => other,
    })
}

/// rmcp's words for a caller's mistake; its own failures it has logged, and they are nobody else's business.
fn error(status: StatusCode, words: &[u8], id: Option<&str>) -> Bytes {
    if status.is_server_error() {
        let words = "internal error; try again";
        return envelope::error(id, envelope::INTERNAL_ERROR, words, Some(r#"{"retryable":true}"#));
    }
    let code = if status == StatusCode::NOT_FOUND { envelope::SESSION_NOT_FOUND } else { envelope::INVALID_REQUEST };
    envelope::error(id, code, &String::from_utf8_lossy(words), None)
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    async fn of(status: u16, kind: Option<&str>, body: &str) -> (Option<String>, serde_json::Value) {
        let mut answer = Response::builder().status(status).header(header::ALLOW, "POST");
        if let Some(kind) = kind {
            answer = answer.header(header::CONTENT_TYPE, kind);
        }
        let answer = answer.body(Full::new(Bytes::copy_from_slice(body.as_bytes())).boxed()).unwrap();
        let answer = in_json(answer, Some("\"a\"")).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()[header::ALLOW], "POST");
        let kind = answer.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap().to_owned());
        let body = axum::body::to_bytes(answer.into_body().into_body(), usize::MAX).await.unwrap();
        (kind, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn a_refusal_in_plain_words_becomes_an_error_of_its_request() {
        for kind in [None, Some("text/plain; charset=utf-8")] {
            for (status, code) in [(400, -32600), (404, -32001), (406, -32600), (415, -32600), (500, -32603)] {
                let (content_type, body) = of(status, kind, "Bad Request: a detail").await;
                assert_eq!(content_type.as_deref(), Some("application/json"));
                assert_eq!((&body["id"], &body["error"]["code"]), (&"a".into(), &code.into()), "{status}");
                assert_eq!(body.to_string().contains("a detail"), status < 500, "{body}");
            }
        }
    }

    #[tokio::test]
    async fn json_and_nothing_stay_what_they_are() {
        let (kind, body) = of(400, Some("application/json"), r#"{"jsonrpc":"2.0"}"#).await;
        assert_eq!((kind.as_deref(), body.to_string().as_str()), (Some("application/json"), r#"{"jsonrpc":"2.0"}"#));
        assert_eq!(of(202, None, "").await.0, None);
    }
}
