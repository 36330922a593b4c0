//! OTLP as protobuf over HTTP, with or without TLS.
//!
//! The SDK exports from threads of its own, which no runtime drives; every request therefore hops onto the runtime that serves.
//! The stock client speaks plain HTTP only, so the connector for https is ours.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use opentelemetry_http::{HttpClient, HttpError, hyper::HyperClient};
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    metrics::PeriodicReader,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
};
use tokio_rustls::TlsConnector;
use tower::{Service, ServiceExt as _, util::BoxCloneSyncService};

use super::{
    TelemetryError,
    config::{MetricExport, Otlp, TraceExport},
};

/// The provider that batches spans and sends them.
pub(super) fn traces(export: &TraceExport, resource: Resource) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new(&export.otlp)?)
        .with_endpoint(export.otlp.endpoint.expose())
        .with_headers(headers(&export.otlp))
        .with_timeout(export.otlp.timeout)
        .with_protocol(Protocol::HttpBinary)
        .build()
        .map_err(|source| TelemetryError::Exporter { signal: "traces", source })?;
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(export.max_queue_size)
        .with_max_export_batch_size(export.max_export_batch_size)
        .with_scheduled_delay(export.schedule_delay)
        .build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batch).build();
    let builder = SdkTracerProvider::builder().with_resource(resource).with_sampler(export.sampler.clone());
    Ok(builder.with_span_processor(processor).build())
}

/// The reader that collects metrics at an interval and sends them.
pub(super) fn metrics(export: &MetricExport) -> Result<PeriodicReader<MetricExporter>, TelemetryError> {
    let exporter = MetricExporter::builder()
        .with_http()
        .with_http_client(Client::new(&export.otlp)?)
        .with_endpoint(export.otlp.endpoint.expose())
        .with_headers(headers(&export.otlp))
        .with_timeout(export.otlp.timeout)
        .with_protocol(Protocol::HttpBinary)
        .build()
        .map_err(|source| TelemetryError::Exporter { signal: "metrics", source })?;
    Ok(PeriodicReader::builder(exporter).with_interval(export.interval).build())
}

/// The SDK percent-decodes what it is given, and ours is decoded already.
fn headers(otlp: &Otlp) -> HashMap<String, String> {
    otlp.headers.0.iter().map(|(name, value)| (name.clone(), value.expose().replace('%', "%25"))).collect()
}

/// Carries requests from the SDK's threads to the runtime.
#[derive(Debug)]
struct Client {
    runtime: Handle,
    hyper: HyperClient<Connector>,
}

type Connector = BoxCloneSyncService<Uri, TokioIo<Socket>, HttpError>;

// === impl Client ===

impl Client {
    fn new(otlp: &Otlp) -> Result<Self, TelemetryError> {
        let tls = otlp.endpoint.expose().starts_with("https:").then(tls).transpose()?;
        Ok(Self { runtime: Handle::try_current()?, hyper: HyperClient::new(connector(tls, otlp.timeout), otlp.timeout, None) })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let hyper = self.hyper.clone();
        self.runtime.spawn(async move { hyper.send_bytes(request).await }).await?
    }
}

/// Trusts what the system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` replace it, as they do for every other client.
fn tls() -> Result<TlsConnector, TelemetryError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(found.certs).0 == 0 {
        return Err(TelemetryError::Roots(found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
    }
    // The provider is named, not the process's default: a library may not count on a global that someone else installs.
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn connector(tls: Option<TlsConnector>, timeout: Duration) -> Connector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(timeout));
    BoxCloneSyncService::new(tower::service_fn(move |uri: Uri| {
        let (mut tcp, tls) = (tcp.clone(), tls.clone());
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let stream = tcp.ready().await?.call(uri).await?.into_inner();
            let socket: Box<dyn Stream> = match tls {
                Some(tls) => Box::new(tls.connect(ServerName::try_from(host)?, stream).await?),
                None => Box::new(stream),
            };
            Ok::<_, HttpError>(TokioIo::new(Socket(socket)))
        }
    }))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection, encrypted or not. A type of ours only because [`Connection`] is not implemented for anyone else's.
struct Socket(Box<dyn Stream>);

// === impl Socket ===

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::mpsc,
    };
    use tracing_subscriber::util::SubscriberInitExt as _;

    use super::*;
    use crate::telemetry::{Metrics, Outcome, Telemetry, TelemetryConfig, context, log, tests::release};

    /// Answers every request with 200 and hands over what it was sent, head and body.
    async fn collector() -> (String, mpsc::UnboundedReceiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !is_whole(&request) {
                        assert!(socket.read_buf(&mut request).await.unwrap() > 0, "the client hung up");
                    }
                    sender.send(request).unwrap();
                    socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                });
            }
        });
        (address, received)
    }

    fn is_whole(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request);
        let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
        request.len() >= head.len() + 4 + length
    }

    fn config(variables: &[(&str, &str)]) -> TelemetryConfig {
        let mut problems = Vec::new();
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let config = TelemetryConfig::read(&get, &mut problems);
        assert_eq!(problems, Vec::<String>::new());
        config
    }

    #[tokio::test]
    async fn a_flush_brings_both_signals_to_the_collector() {
        let (address, mut received) = collector().await;
        let config = config(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &address),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s%203%2541"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=staging"),
        ]);
        let (telemetry, tracer) = Telemetry::build(&config, &release()).unwrap();
        assert!(telemetry.traces_enabled());
        let guard = log::subscriber(&config, &release(), tracer, io::sink, false).unwrap().set_default();
        let call = context::Call { method: "tools/call", tool: Some("book"), ..context::Call::default() };
        context::operation_span(&call, context::Remote::default()).in_scope(|| ());
        Metrics::new(&telemetry.meter()).operation("tools/call", Some("book")).record(Duration::from_millis(2), Outcome::Ok);
        drop(guard);

        assert!(telemetry.flush(Duration::from_secs(10)).await);
        let mut requests = [received.recv().await.unwrap(), received.recv().await.unwrap()];
        requests.sort();
        for (request, path, content) in
            [(&requests[0], "/v1/metrics", "mcp.server.operation.duration"), (&requests[1], "/v1/traces", "tools/call book")]
        {
            let text = String::from_utf8_lossy(request);
            assert!(text.starts_with(&format!("POST {path} HTTP/1.1")), "{text}");
            for needle in ["x-key: s 3%41", "application/x-protobuf", "release.color", "green", "8f3a1c", "staging", content] {
                assert!(text.contains(needle), "{needle} is not in {text}");
            }
            assert!(!text.contains("telemetry.sdk"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_collector_that_never_answers_does_not_hold_up_the_exit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let config = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &address), ("OTEL_TRACES_EXPORTER", "none")]);
        let (telemetry, _) = Telemetry::build(&config, &release()).unwrap();
        Metrics::new(&telemetry.meter()).panicked();
        let begun = std::time::Instant::now();
        assert!(!telemetry.flush(Duration::from_millis(100)).await);
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    #[tokio::test]
    async fn an_https_endpoint_is_spoken_to_in_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("https://{}/v1/traces", listener.local_addr().unwrap()).parse().unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let connect = connector(Some(TlsConnector::from(Arc::new(config))), Duration::from_secs(5)).oneshot(uri);
        let hello = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.read_u8().await.unwrap()
        };
        // 22 is a TLS handshake record. The other side then hangs up, which is an error and not plain text.
        let (connected, first_byte) = tokio::join!(connect, hello);
        assert_eq!(first_byte, 22);
        assert!(connected.is_err());
    }

    #[test]
    fn exporting_outside_a_runtime_is_an_error_and_not_a_panic() {
        let config = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")]);
        assert!(matches!(Telemetry::build(&config, &release()), Err(TelemetryError::Runtime(_))));
    }
}
