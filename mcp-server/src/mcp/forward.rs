//! A call that belongs elsewhere: handed to a process of the build that its conversation is pinned to, and its answer handed
//! back as it comes.
//!
//! What must stay true: a call is handed on once, and never made a second time when it is not known whether it was made; and
//! nothing of it is sent before the other process has proved, on the same connection, that it is a replica of ours.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use tower::ServiceExt;

use super::{
    door::is_stream,
    networks::ForwardNetworks,
    replica::{self, Replica},
};
use crate::http::{
    body::Payload,
    edge::{BUILD, STAGE},
};

/// Between two processes of one deployment a connection is there at once, or the process is not.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);

/// A replica that is busy still proves itself soon: no call stands in the way of that.
const PROVED_WITHIN: Duration = Duration::from_secs(2);

const SILENT_FOR: Duration = Duration::from_secs(15);

/// The way to other processes.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    connector: HttpConnector,
    /// What proves us to them, and them to us. Without it nothing is handed on.
    replica: Option<Replica>,
    networks: ForwardNetworks,
}

/// A connection to a replica that has proved itself on it.
struct Proven {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    build: HeaderValue,
}

/// Why a process is not handed a call.
#[derive(Debug, thiserror::Error)]
enum Unproven {
    #[error("there is no FORWARD_KEY")]
    NoKey,
    #[error("it is in none of the FORWARD_NETWORKS")]
    Outside,
    #[error("it cannot be reached: {0}")]
    Unreached(#[from] io::Error),
    #[error("it does not answer as one: {0}")]
    Broken(#[from] hyper::Error),
    #[error("it does not prove to be one with our FORWARD_KEY")]
    NoProof,
    #[error("it did not answer in time")]
    Silent,
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

/// Whether it is the answer of the process that proved itself. Whoever is there may have stopped meanwhile: nothing was done
/// then, and the client need not hear of it. Whatever the right one says, a limit's refusal included, is the answer.
fn is_its_own<B>(answer: &Response<B>, build: &HeaderValue) -> bool {
    let headers = answer.headers();
    answer.status() != StatusCode::MISDIRECTED_REQUEST && headers.get(BUILD) == Some(build) && !headers.contains_key(STAGE)
}

// === impl Forward ===

impl Forward {
    pub(crate) fn new(replica: Option<Replica>, networks: ForwardNetworks) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECTED_WITHIN));
        connector.set_nodelay(true);
        // A machine that vanished says nothing, and a long call says nothing either.
        connector.set_keepalive(Some(SILENT_FOR));
        Self { connector, replica, networks }
    }

    /// What other replicas are told who hand a message to this one.
    pub(crate) fn replica(&self) -> Option<&Replica> {
        self.replica.as_ref()
    }

    /// Hands a message to the process at `address`, if it proves that it is `to`.
    pub(crate) async fn hand(&self, parts: &Parts, body: Bytes, address: &str, to: &str) -> Result<Response<Payload>, Lost> {
        let proven = tokio::time::timeout(PROVED_WITHIN, self.prove(address, to)).await.unwrap_or(Err(Unproven::Silent));
        let Proven { mut sender, host, build } = proven.map_err(|why| {
            tracing::warn!(error = %why, "{address} is not handed a call as the replica {to}: {why}");
            Lost::Unreached
        })?;
        let path = parts.uri.path_and_query().map_or("/mcp", |path| path.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = path.parse().map_err(|_| Lost::Unreached)?;
        request.headers_mut().extend(
            parts.headers.iter().filter(|(name, _)| !OURS.contains(name)).map(|(name, value)| (name.clone(), value.clone())),
        );
        // Whom the client meant, and from which page, was checked here; the other process knows the same names.
        request.headers_mut().remove(header::ORIGIN);
        // A name of ours that the other build does not know yet would be refused there, and an address never is.
        request.headers_mut().insert(header::HOST, host);
        self.replica.as_ref().and_then(|ours| ours.mark(request.headers_mut(), to, address)).ok_or(Lost::Unreached)?;
        match sender.try_send_request(request).await {
            Ok(answer) if !is_its_own(&answer, &build) => {
                tracing::warn!(http.response.status_code = answer.status().as_u16(), "{address} is not whom it was handed to");
                Err(Lost::Unreached)
            }
            Ok(answer) => returned(answer, address).await,
            Err(mut failure) => {
                if failure.take_message().is_some() {
                    return Err(Lost::Unreached);
                }
                let failure = failure.into_error();
                tracing::warn!(error = %failure, "a call was handed to {address}, which did not answer: {failure}");
                Err(Lost::Unknown)
            }
        }
    }

    /// Connects to a process and asks for its proof. A connection is used for one call: a kept one may be closed by the other
    /// side just as it is used, which looks like a lost call.
    async fn prove(&self, address: &str, to: &str) -> Result<Proven, Unproven> {
        let ours = self.replica.as_ref().ok_or(Unproven::NoKey)?;
        // Resolved here and once: what was checked is what is connected.
        let found = tokio::net::lookup_host(address).await?.find(|found| self.networks.contain(found.ip()));
        let found = found.ok_or(Unproven::Outside)?;
        let uri = Uri::try_from(format!("http://{found}")).map_err(|_| Unproven::Outside)?;
        let wire = self.connector.clone().oneshot(uri).await.map_err(io::Error::other)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(wire).await?;
        // It ends when the sender and the answer's body are gone.
        tokio::spawn(connection);
        let host = host(found);
        let (nonce, mut headers) = ours.ask(to, address).ok_or(Unproven::NoProof)?;
        headers.insert(header::HOST, host.clone());
        let mut question = Request::new(Full::default());
        *question.uri_mut() = Uri::from_static(replica::PATH);
        *question.headers_mut() = headers;
        let answer = sender.send_request(question).await?;
        let build = proven_build(ours, answer.headers(), nonce, to, address).ok_or(Unproven::NoProof)?;
        // A replica sends no body with its proof; whoever does is not waited for.
        if answer.status() != StatusCode::NO_CONTENT {
            return Err(Unproven::NoProof);
        }
        drop(answer);
        sender.ready().await?;
        Ok(Proven { sender, host, build })
    }
}

/// The build of the replica that answers, if it proves it.
fn proven_build(ours: &Replica, answer: &HeaderMap, nonce: replica::Nonce, to: &str, address: &str) -> Option<HeaderValue> {
    let build = answer.get(BUILD)?;
    ours.is_proven(answer, nonce, to, build.to_str().ok()?, address).then(|| build.clone())
}

fn host(address: SocketAddr) -> HeaderValue {
    // Of an address of IPv6 the zone is nobody else's business.
    let address = SocketAddr::new(IpAddr::to_canonical(&address.ip()), address.port());
    HeaderValue::try_from(address.to_string()).expect("an address fits into a header")
}

/// An answer of the other process, as it is handed back.
async fn returned(answer: Response<Incoming>, address: &str) -> Result<Response<Payload>, Lost> {
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const TOKEN: &str = "Bearer adas-token";
    const OURS: &str = "release-build: 1.0.0+a";

    /// The next request on a connection: its text and its headers. Empty at the end.
    async fn next(wire: &mut TcpStream) -> (String, HeaderMap) {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            match wire.read_u8().await {
                Ok(byte) => read.push(byte),
                Err(_) => break,
            }
        }
        let text = String::from_utf8(read).unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        };
        let headers = text.lines().filter_map(header).collect();
        (text, headers)
    }

    /// Hands a call to somebody with a key, who answers the question for a proof as a replica of `build` would and the call
    /// with `head`. Gives the outcome, and everything that they read.
    async fn handed(key: u8, build: &str, head: &str) -> (Result<u16, Lost>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let theirs = replica::tests::replica(key, build, &address);
        let answering = async {
            let (mut wire, _) = listener.accept().await.unwrap();
            let (mut heard, question) = next(&mut wire).await;
            let proof = theirs.answer(&question).unwrap_or_else(|| question.get(replica::PROOF).unwrap().clone());
            let answer = format!(
                "HTTP/1.1 204 No Content\r\nrelease-build: {build}\r\nmcp-replica-proof: {}\r\n\r\n",
                proof.to_str().unwrap()
            );
            wire.write_all(answer.as_bytes()).await.unwrap();
            let (call, headers) = next(&mut wire).await;
            heard.push_str(&call);
            if !call.is_empty() {
                assert_eq!(theirs.is_marked(&headers), Some(true), "{call}");
                let _body = wire.read(&mut [0; 64]).await.unwrap();
                wire.write_all(format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\n\r\n{{}}").as_bytes()).await.unwrap();
            }
            heard
        };
        let request = Request::post("http://mcp.example.com/mcp").header(header::AUTHORIZATION, TOKEN);
        let parts = request.body(()).unwrap().into_parts().0;
        let forward = Forward::new(
            Some(replica::tests::replica(b'k', "2.0.0+b", "127.0.0.1:1")),
            ForwardNetworks::around(Some("127.0.0.1:1")),
        );
        let handing = forward.hand(&parts, Bytes::from_static(b"{}"), &address, "1.0.0+a");
        let (answer, heard) = tokio::join!(handing, answering);
        (answer.map(|answer| answer.status().as_u16()), heard)
    }

    #[tokio::test]
    async fn a_refusal_of_the_right_process_is_its_answer_and_one_of_another_is_none() {
        for status in ["403 Forbidden", "404 Not Found", "429 Too Many Requests", "503 Service Unavailable"] {
            let (relayed, heard) = handed(b'k', "1.0.0+a", &format!("{status}\r\n{OURS}\r\nretry-after: 1")).await;
            assert_eq!(relayed.ok(), status[..3].parse().ok(), "{status}");
            assert!(heard.contains(TOKEN), "{heard}");
            for other in [status.to_owned(), format!("{status}\r\nrelease-build: 3.0.0+c")] {
                let (foreign, _) = handed(b'k', "1.0.0+a", &other).await;
                assert!(matches!(foreign, Err(Lost::Unreached)), "{other}: another build has the address by now");
            }
        }
        for head in
            [format!("421 Misdirected Request\r\n{OURS}"), format!("503 Service Unavailable\r\n{OURS}\r\nrelease-stage: stopped")]
        {
            assert!(matches!(handed(b'k', "1.0.0+a", &head).await.0, Err(Lost::Unreached)), "{head}");
        }
    }

    #[tokio::test]
    async fn nobody_hears_a_token_who_does_not_prove_to_be_the_replica_that_is_meant() {
        for (who, key, build) in [("a stranger", b'x', "1.0.0+a"), ("another build", b'k', "3.0.0+c")] {
            let (answer, heard) = handed(key, build, &format!("200 OK\r\n{OURS}")).await;
            assert!(matches!(answer, Err(Lost::Unreached)), "{who}");
            assert!(heard.contains(replica::PATH) && !heard.contains(TOKEN), "{who} hears {heard}");
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_without_a_key_or_beyond_the_networks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ours = replica::tests::replica(b'k', "2.0.0+b", "10.0.0.1:80");
        for forward in [
            Forward::new(None, ForwardNetworks::around(Some(&address))),
            Forward::new(Some(ours), ForwardNetworks::around(Some("10.0.0.1:80"))),
        ] {
            let parts = Request::post("/mcp").body(()).unwrap().into_parts().0;
            let answer = forward.hand(&parts, Bytes::new(), &address, "1.0.0+a").await;
            assert!(matches!(answer, Err(Lost::Unreached)));
        }
        let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(connected.is_err(), "nobody is connected to");
    }
}
