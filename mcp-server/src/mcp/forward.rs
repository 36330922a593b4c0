//! A call that belongs elsewhere: handed to a process of the build that its conversation is pinned to, and its answer handed
//! back as it comes.
//!
//! What must stay true: a call is handed on once, and never made a second time when it is not known whether it was made.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Uri, header, request::Parts};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::http::body::Payload;

/// Says that a call was handed on: whoever gets it answers it, whatever it thinks. It names the build that was meant.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("mcp-forwarded-for-build");

/// Between two processes of one deployment a connection is there at once, or the process is not.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);

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
const OURS: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::HOST,
];

// === impl Forward ===

impl Forward {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECTED_WITHIN));
        connector.set_nodelay(true);
        // A kept connection may be closed by the other side just as it is used, which looks like a lost call.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { client }
    }

    /// Hands a call to the process at `address`.
    pub(crate) async fn hand(&self, parts: &Parts, body: Bytes, address: &str, build: &str) -> Result<Response<Payload>, Lost> {
        let path = parts.uri.path_and_query().map_or("/mcp", |path| path.as_str());
        let uri: Uri = format!("http://{address}{path}").parse().map_err(|_| Lost::Unreached)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        request.headers_mut().extend(
            parts.headers.iter().filter(|(name, _)| !OURS.contains(name)).map(|(name, value)| (name.clone(), value.clone())),
        );
        request.headers_mut().insert(FORWARDED, HeaderValue::try_from(build).map_err(|_| Lost::Unreached)?);
        match self.client.request(request).await {
            Ok(answer) => {
                let (mut head, body) = answer.into_parts();
                for name in OURS {
                    head.headers.remove(name);
                }
                Ok(Response::from_parts(head, Payload::Body(Body::new(body))))
            }
            Err(failure) if failure.is_connect() => Err(Lost::Unreached),
            Err(failure) => {
                tracing::warn!(error = %failure, "a call was handed to {address}, which did not answer: {failure}");
                Err(Lost::Unknown)
            }
        }
    }
}
