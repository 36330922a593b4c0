//! Accepting connections, and stopping without losing one.
//!
//! When the process drains, what already sits in the listener's backlog is still taken and answered: its clients have been
//! told that they are connected. Only then is the port closed.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bg_runtime::{Lifecycle, lifecycle::Stage};
use futures_util::FutureExt;
use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_util::task::TaskTracker;

use super::{
    connection::{Answering, Patience, Watched},
    connections::{Connections, Entered},
};

/// How many connections the kernel keeps for us that we have not taken yet; it takes as many as `net.core.somaxconn` says, if
/// that is less. With the 128 of the standard library, clients that all come at one moment, as after a switch, are not answered
/// by the kernel and ask again a second later.
const BACKLOG: u32 = 4096;

/// How often a connection's patience is looked at.
const TICK: Duration = Duration::from_secs(2);

/// The same once the process drains, and the patience that is left then: a request on its way has a second to arrive.
const LAST_TICK: Duration = Duration::from_millis(100);
///
/// A client that reads nothing for three seconds loses its response: nobody waits for the drain deadline for its sake.
const LAST_PATIENCE: Patience =
    Patience { headers: Duration::from_secs(1), idle: Duration::from_secs(1), write: Duration::from_secs(3) };

/// How many requests an HTTP/2 connection has in flight; the rest waits at the client. A client makes a few at once, and proxies
/// open further connections.
const STREAMS_PER_CONNECTION: u32 = 32;

/// How long an HTTP/2 connection is silent before it is asked whether it is there, and how long its answer may take: a client
/// that went away without a word keeps its streams no longer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest head of a request, in bytes; it is also how much of a response is buffered at once. Tokens have a few KiB.
pub(crate) const HEAD: usize = 64 * 1024;
/// The same of an HTTP/2 request, decoded. Smaller, because each of a connection's streams may have one.
const HTTP2_HEAD: u32 = 16 * 1024;
/// How much of its requests' bodies an HTTP/2 connection, and each stream, sends before any of it is read.
const HTTP2_WINDOW: u32 = 64 * 1024;

/// How much of a response the kernel takes for a client that does not read, in bytes; it doubles this for its own needs. A
/// client 100 ms away still gets 2.5 MB a second. The sockets of all clients inherit it.
const SEND_BUFFER: u32 = 256 * 1024;

/// Answers one request.
pub(crate) trait Answer: Send + Sync + 'static {
    type Body: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        answering: Answering,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// A port that is open.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Opens a port. Port 0 takes a free one.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        Ok(Self { address: socket.local_addr()?, socket })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bare socket, for a server without a drain of its own.
    pub(crate) fn into_socket(self) -> TcpListener {
        self.socket
    }

    /// Accepts until the process drains, and comes back when every connection is closed.
    pub(crate) async fn serve<A: Answer>(
        self,
        answer: Arc<A>,
        lifecycle: Lifecycle,
        patience: Patience,
        connections: Arc<Connections>,
    ) {
        let serving = TaskTracker::new();
        let serve = |(stream, from): (TcpStream, SocketAddr)| {
            // Whoever there is no room for is told so by the end of the connection.
            if let Some(entered) = connections.enter(from.ip()) {
                // Without this the last chunk of a stream waits 40 ms for a delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                serving.spawn(connection(stream, entered, answer.clone(), lifecycle.clone(), patience));
            }
        };
        let draining = lifecycle.wait_for(|status| status.stage >= Stage::Draining);
        tokio::pin!(draining);
        loop {
            tokio::select! {
                biased;
                accepted = self.socket.accept() => match accepted {
                    Ok(accepted) => serve(accepted),
                    Err(failure) => pause_after(&failure).await,
                },
                _ = &mut draining => break,
            }
        }
        while let Some(Ok(accepted)) = self.socket.accept().now_or_never() {
            serve(accepted);
        }
        drop(self.socket);
        serving.close();
        serving.wait().await;
    }
}

/// Out of file descriptors is no reason to spin; a connection that failed before it was accepted is none to wait.
async fn pause_after(failure: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(failure.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(error = %failure, "cannot accept connections: {failure}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Serves one connection until it ends.
pub(crate) async fn connection<A: Answer>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    entered: Entered,
    answer: Arc<A>,
    lifecycle: Lifecycle,
    patience: Patience,
) {
    let watch = entered.watch().clone();
    let service = hyper::service::service_fn({
        let watch = watch.clone();
        move |request: Request<Incoming>| {
            if request.version() == Version::HTTP_2 {
                watch.speaks_http2();
            }
            let answering = watch.answering();
            let answer = answer.clone();
            async move { Ok::<_, Infallible>(answer.answer(request, answering).await) }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).max_buf_size(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(HTTP2_HEAD)
        .initial_connection_window_size(HTTP2_WINDOW)
        .initial_stream_window_size(HTTP2_WINDOW)
        .max_send_buf_size(HEAD)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let serving = builder.serve_connection(TokioIo::new(Watched::new(stream, watch.clone())), service);
    tokio::pin!(serving);
    let going = lifecycle.wait_for(|status| status.stage >= Stage::Draining);
    tokio::pin!(going);
    let mut tick = tokio::time::interval(TICK);
    let (mut going_away, mut told) = (false, false);
    loop {
        tokio::select! {
            biased;
            served = &mut serving => {
                if let Err(failure) = served {
                    tracing::debug!(error = %failure, "connection ended: {failure}");
                }
                return;
            }
            _ = &mut going, if !going_away => {
                going_away = true;
                tick = tokio::time::interval(LAST_TICK);
            }
            () = watch.given_up() => return,
            _ = tick.tick() => {
                if watch.is_over(if going_away { &LAST_PATIENCE } else { &patience }) {
                    // An HTTP/2 client is told first, and has until the next tick to hear it.
                    if told || !watch.is_idle_http2() {
                        return;
                    }
                    told = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
        // HTTP/1.1: closes now when idle, after the answer otherwise. HTTP/2: GOAWAY, then the streams end. Not before the
        // first request: a connection out of the backlog has not been read yet, and would be closed with its request unread.
        if going_away && !told && watch.has_asked() {
            told = true;
            serving.as_mut().graceful_shutdown();
        }
    }
}
