//! One request through the door: read whole, handed to its color, its answer handed back as it comes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bg_runtime::Color;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::switchboard::{Claim, Switchboard};

/// Names the color that is to answer, live or not: how the idle one is tested.
const COLOR: HeaderName = HeaderName::from_static("release-color");

/// The largest request. It is read whole before it is handed on, so that it can be handed on again if it reached nobody.
const BODY_LIMIT: usize = 4 * 1024 * 1024;
/// How long a request may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Between two attempts to reach somebody.
const AGAIN: Duration = Duration::from_millis(10);
/// On loopback a connection is there at once, or nobody is.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);

/// About a connection and not about a message (RFC 9110, 7.6.1).
const OF_A_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

type Answer = Response<Either<Claimed, Full<Bytes>>>;

struct Proxy {
    switchboard: Arc<Switchboard>,
    client: Client<HttpConnector, Full<Bytes>>,
    patience: Duration,
}

/// An answer on its way out. Its request is in flight until the last byte has left.
struct Claimed {
    body: Incoming,
    _claim: Claim,
}

/// Takes clients in, for ever.
pub(crate) async fn serve(socket: TcpListener, switchboard: Arc<Switchboard>, patience: Duration) {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECTED_WITHIN));
    connector.set_nodelay(true);
    // A kept connection may be closed by the other side just as it is used, and then nobody knows whether the request arrived.
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let proxy = Arc::new(Proxy { switchboard, client, patience });
    loop {
        match socket.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, proxy.clone()))),
            Err(failure) => {
                tracing::warn!(error = %failure, "cannot accept connections: {failure}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, proxy: Arc<Proxy>) {
    // Without this the last chunk of a stream waits 40 ms for a delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| {
        let proxy = proxy.clone();
        async move { Ok::<_, Infallible>(proxy.answer(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder.http2().timer(TokioTimer::new());
    if let Err(failure) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error = %failure, "a connection ended: {failure}");
    }
}

// === impl Proxy ===

impl Proxy {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (mut parts, body) = request.into_parts();
        let named = match parts.headers.remove(COLOR).map(|name| name.to_str().ok().and_then(|name| name.parse::<Color>().ok())) {
            None => None,
            Some(Some(color)) => Some(color),
            Some(None) => return refuse(StatusCode::BAD_REQUEST, "the header release-color says blue or green"),
        };
        let body = match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, BODY_LIMIT).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(failure)) if failure.is::<http_body_util::LengthLimitError>() => {
                return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request is larger than 4 MiB");
            }
            Ok(Err(_)) => return refuse(StatusCode::BAD_REQUEST, "the request ended early"),
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time"),
        };
        for name in OF_A_CONNECTION {
            parts.headers.remove(name);
        }
        self.hand(&parts, &body, named).await
    }

    /// Hands a request on until it reaches somebody. Who is live may change in between.
    async fn hand(&self, parts: &Parts, body: &Bytes, named: Option<Color>) -> Answer {
        let begun = Instant::now();
        loop {
            let Some(claim) = self.switchboard.enter(named, self.patience.saturating_sub(begun.elapsed())).await else {
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "nobody is known to be of that color");
            };
            match self.client.request(to(claim.address, parts, body)).await {
                Ok(answer) => {
                    let (mut head, body) = answer.into_parts();
                    for name in OF_A_CONNECTION {
                        head.headers.remove(name);
                    }
                    return Response::from_parts(head, Either::Left(Claimed { body, _claim: claim }));
                }
                // Nothing happened yet, or nothing that asking again would change (RFC 9110, 9.2.1): it may go to whoever is
                // there next.
                Err(failure) if failure.is_connect() || parts.method.is_safe() => {
                    if begun.elapsed() > self.patience {
                        tracing::warn!(error = %failure, "nobody answers at {}, which is {}", claim.address, claim.color);
                        return refuse(StatusCode::BAD_GATEWAY, "nobody answers; nothing was done, try again");
                    }
                    drop(claim);
                    tokio::time::sleep(AGAIN).await;
                }
                Err(failure) => {
                    tracing::warn!(error = %failure, "{} went away during a request: {failure}", claim.color);
                    return refuse(StatusCode::BAD_GATEWAY, "the server went away; whether anything was done is not known");
                }
            }
        }
    }
}

fn to(address: SocketAddr, parts: &Parts, body: &Bytes) -> Request<Full<Bytes>> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let uri: Uri = format!("http://{address}{path}").parse().expect("an address and a path are a URI");
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = parts.headers.clone();
    host(request.headers_mut(), parts);
    request
}

/// HTTP/2 says the host elsewhere. The colors judge by it whether they were meant.
fn host(headers: &mut HeaderMap, parts: &Parts) {
    if !headers.contains_key(header::HOST)
        && let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(header::HOST, host);
    }
}

fn refuse(status: StatusCode, words: &str) -> Answer {
    let body = serde_json::json!({ "error": words }).to_string();
    let mut answer = Response::new(Either::Right(Full::new(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

impl Body for Claimed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
