//! A call that belongs elsewhere: handed to a process of the build that its conversation is pinned to, and its answer handed
//! back as it comes.
//!
//! What must stay true: a call is handed on once, and never made a second time when it is not known whether it was made.

use std::{net::SocketAddr, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::door::is_stream;
use crate::http::{
    body::Payload,
    edge::{BUILD, STAGE},
};

/// Says that a message was handed on, and to whom: a build, or an instance. Whoever is that answers it, whatever it thinks,
/// and anybody else says 421. A client that sends it itself evades the promise for its own conversations and nothing more.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("mcp-forwarded-for-build");

/// Between two processes of one deployment a connection is there at once, or the process is not.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);

const SILENT_FOR: Duration = Duration::from_secs(15);

/// The way to other processes.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Nobody was reached: nothing happened.
    Unreached,
    /// It was on its way when the connection broke: it may have happened.
    Unknown,
}

/// Headers that are about a connection and not about a message (RFC 9110, 7.6.1), and those that are made anew.
const OURS: [HeaderName; 6] =
    [header::CONNECTION, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE, header::CONTENT_LENGTH];

/// The largest answer that is no stream, in bytes.
const MOST: usize = 64 * 1024 * 1024;

/// Whether it is the answer of the process that was meant. An address may be another one's by now, or whoever is there has
/// stopped: nothing was done then, and the client need not hear of it. Whatever the right one says, a limit's refusal included,
/// is the answer.
fn is_its_own<B>(answer: &Response<B>) -> bool {
    let headers = answer.headers();
    answer.status() != StatusCode::MISDIRECTED_REQUEST && headers.contains_key(BUILD) && !headers.contains_key(STAGE)
}

// === impl Forward ===

impl Forward {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECTED_WITHIN));
        connector.set_nodelay(true);
        // A machine that vanished says nothing, and a long call says nothing either.
        connector.set_keepalive(Some(SILENT_FOR));
        // A kept connection may be closed by the other side just as it is used, which looks like a lost call.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { client }
    }

    /// Hands a message to the process at `address`, if it is `to`.
    pub(crate) async fn hand(&self, parts: &Parts, body: Bytes, address: &str, to: &str) -> Result<Response<Payload>, Lost> {
        let path = parts.uri.path_and_query().map_or("/mcp", |path| path.as_str());
        let uri: Uri = format!("http://{address}{path}").parse().map_err(|_| Lost::Unreached)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        request.headers_mut().extend(
            parts.headers.iter().filter(|(name, _)| !OURS.contains(name)).map(|(name, value)| (name.clone(), value.clone())),
        );
        request.headers_mut().insert(FORWARDED, HeaderValue::try_from(to).map_err(|_| Lost::Unreached)?);
        // Whom the client meant, and from which page, was checked here; the other process knows the same names.
        request.headers_mut().remove(header::ORIGIN);
        // A name of ours that the other build does not know yet would be refused there, and an address never is.
        if let Ok(host) = HeaderValue::try_from(address)
            && address.parse::<SocketAddr>().is_ok()
        {
            request.headers_mut().insert(header::HOST, host);
        } else if let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::try_from(authority.as_str())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        match self.client.request(request).await {
            Ok(answer) if !is_its_own(&answer) => {
                tracing::warn!(http.response.status_code = answer.status().as_u16(), "{address} is not whom it was handed to");
                Err(Lost::Unreached)
            }
            Ok(answer) => {
                let (mut head, body) = answer.into_parts();
                for name in OURS {
                    head.headers.remove(name);
                }
                if is_stream(&head.headers) {
                    return Ok(Response::from_parts(head, Payload::Body(Body::new(body))));
                }
                // Read whole, so that one that breaks off is not taken for an answer.
                let body = Limited::new(body, MOST).collect().await.map_err(|failure| {
                    tracing::warn!(error = %failure, "the answer of {address} broke off: {failure}");
                    Lost::Unknown
                })?;
                Ok(Response::from_parts(head, Payload::Bytes(body.to_bytes())))
            }
            Err(failure) if failure.is_connect() => Err(Lost::Unreached),
            Err(failure) => {
                tracing::warn!(error = %failure, "a call was handed to {address}, which did not answer: {failure}");
                Err(Lost::Unknown)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// What becomes of an answer with this head.
    async fn handed(head: &str) -> Result<u16, Lost> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\n\r\n{{}}");
        let answering = async {
            let (mut wire, _) = listener.accept().await.unwrap();
            let read = wire.read(&mut [0; 4096]).await.unwrap();
            assert!(read > 0);
            wire.write_all(answer.as_bytes()).await.unwrap();
        };
        let parts = Request::post("http://mcp.example.com/mcp").body(()).unwrap().into_parts().0;
        let forward = Forward::new();
        let (answer, ()) = tokio::join!(forward.hand(&parts, Bytes::from_static(b"{}"), &address, "1.0.0+a"), answering);
        answer.map(|answer| answer.status().as_u16())
    }

    #[tokio::test]
    async fn a_refusal_of_the_right_process_is_its_answer_and_one_of_another_is_none() {
        const OURS: &str = "release-build: 1.0.0+a";
        for status in ["403 Forbidden", "404 Not Found", "429 Too Many Requests", "503 Service Unavailable"] {
            let relayed = handed(&format!("{status}\r\n{OURS}\r\nretry-after: 1")).await;
            assert_eq!(relayed.ok(), status[..3].parse().ok(), "{status}");
            let foreign = handed(status).await;
            assert!(matches!(foreign, Err(Lost::Unreached)), "{status}: somebody else has the address by now");
        }
        for head in
            [format!("421 Misdirected Request\r\n{OURS}"), format!("503 Service Unavailable\r\n{OURS}\r\nrelease-stage: stopped")]
        {
            assert!(matches!(handed(&head).await, Err(Lost::Unreached)), "{head}");
        }
    }
}
