//! Where a call comes from, and the span that it is.
//!
//! The semantic conventions for MCP say of the parent: "MCP server instrumentation SHOULD, by default, use context extracted from
//! MCP `params._meta` as a parent for MCP server span and SHOULD link current ambient context, if it's present"
//! (semantic-conventions-genai, `docs/gen-ai/mcp.md`, "Context propagation"; SEP-414 for the unprefixed keys). So `_meta` wins,
//! what the HTTP headers name becomes a link, and without `_meta` the headers are the parent.
//!
//! A caller is a stranger, and so is its sampling decision: where that matters, `OTEL_TRACES_SAMPLER=traceidratio` ignores it.

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanContext, TraceContextExt as _},
};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use serde_json::{Map, Value};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::Outcome;

/// The target of operation spans, by which filters know them.
pub const TARGET: &str = "mcp_server::operation";

/// What a caller said about the trace it is in.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    parent: Option<Context>,
    link: Option<SpanContext>,
}

/// What a span says about its call. Values that a caller chose are fine here: a span is one event, not a series.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// `tools/call` and the like.
    pub method: &'a str,
    /// The tool, for `tools/call`.
    pub tool: Option<&'a str>,
    /// The JSON-RPC id as text; none for a notification.
    pub request_id: Option<&'a str>,
    /// The revision the call was made in.
    pub protocol_version: Option<&'a str>,
    /// The session, when there is one.
    pub session_id: Option<&'a str>,
}

/// A call's `_meta`, as a carrier of trace context.
pub struct Meta<'a>(pub &'a Map<String, Value>);

/// Whether anyone wants operation spans. One atomic load when nobody does; ask it before anything is extracted or allocated.
#[inline]
pub fn enabled() -> bool {
    tracing::span_enabled!(target: TARGET, tracing::Level::INFO, "operation")
}

/// The span of one call, named `{method} {tool}`. Make it only when [`enabled`].
pub fn operation_span(call: &Call<'_>, remote: Remote) -> Span {
    let name = match call.tool {
        Some(tool) => format!("{} {tool}", call.method),
        None => call.method.to_owned(),
    };
    let span = tracing::info_span!(
        target: TARGET,
        "operation",
        otel.name = name,
        otel.kind = "server",
        mcp.method.name = call.method,
        mcp.protocol.version = call.protocol_version,
        mcp.session.id = call.session_id,
        gen_ai.operation.name = call.tool.map(|_| "execute_tool"),
        gen_ai.tool.name = call.tool,
        jsonrpc.request.id = call.request_id,
        network.protocol.name = "http",
        network.transport = "tcp",
        "error.type" = Empty,
        rpc.response.status_code = Empty,
        otel.status_code = Empty,
    );
    // Before the span is first entered: entering starts it, and a started span keeps its parent.
    if let Some(parent) = remote.parent {
        // Refused only when the span is disabled, and then there is nothing to be a parent of.
        let _ = span.set_parent(parent);
    }
    if let Some(link) = remote.link {
        span.add_link(link);
    }
    span
}

/// Writes on the span how its call ended.
pub fn finish(span: &Span, outcome: Outcome) {
    let Some(kind) = outcome.error_type() else { return };
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
    if kind.parse::<i32>().is_ok() {
        span.record("rpc.response.status_code", kind);
    }
}

// === impl Remote ===

impl Remote {
    /// Reads the W3C fields `traceparent`, `tracestate` and `baggage`, from a call's `_meta` and from the request that carried it.
    pub fn extract(headers: &HeaderMap, meta: Option<&dyn Extractor>) -> Self {
        let transport = context(&HeaderExtractor(headers));
        match (meta.and_then(context), transport) {
            (Some(parent), transport) => {
                Self { link: transport.map(|transport| transport.span().span_context().clone()), parent: Some(parent) }
            }
            (None, parent) => Self { parent, link: None },
        }
    }

    /// The parent, for whoever wants its baggage.
    pub fn parent(&self) -> Option<&Context> {
        self.parent.as_ref()
    }
}

/// A carrier without a valid `traceparent` carries nothing: baggage alone has no caller to belong to.
fn context(carrier: &dyn Extractor) -> Option<Context> {
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), carrier);
    context.has_active_span().then(|| BaggagePropagator::new().extract_with_context(&context, carrier))
}

// === impl Meta ===

impl Extractor for Meta<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::{
        baggage::BaggageExt as _,
        trace::{SpanKind, Status, TracerProvider as _},
    };
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SdkTracerProvider, SpanData, SpanExporter},
    };
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const HTTP: &str = "00-11111111111111111111111111111111-1111111111111111-01";
    const META: &str = "00-22222222222222222222222222222222-2222222222222222-01";

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(spans);
            Ok(())
        }
    }

    fn headers() -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static("traceparent"), HTTP.parse().unwrap())])
    }

    fn meta(traceparent: &str) -> Map<String, Value> {
        let meta = serde_json::json!({"traceparent": traceparent, "tracestate": "rojo=1", "baggage": "user=alice", "openai/session": {}});
        meta.as_object().unwrap().clone()
    }

    fn span_of(call: &Call<'_>, remote: Remote, outcome: Outcome) -> SpanData {
        let kept = Kept::default();
        let tracers = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(tracers.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = operation_span(call, remote);
            span.in_scope(|| ());
            finish(&span, outcome);
        });
        kept.0.lock().unwrap().pop().unwrap()
    }

    fn attribute(span: &SpanData, key: &str) -> Option<String> {
        span.attributes.iter().find(|attribute| attribute.key.as_str() == key).map(|attribute| attribute.value.to_string())
    }

    #[test]
    fn meta_is_the_parent_and_the_request_a_link() {
        let meta = meta(META);
        let remote = Remote::extract(&headers(), Some(&Meta(&meta)));
        assert_eq!(remote.parent().unwrap().baggage().get("user").unwrap().as_str(), "alice");
        let span = span_of(&Call { method: "tools/call", tool: Some("book"), ..Call::default() }, remote, Outcome::Ok);
        assert_eq!(span.span_context.trace_id().to_string(), "2".repeat(32));
        assert_eq!(span.parent_span_id.to_string(), "2".repeat(16));
        assert_eq!(span.span_context.trace_state().get("rojo"), Some("1"));
        assert_eq!(span.links[0].span_context.trace_id().to_string(), "1".repeat(32));
    }

    #[test]
    fn without_a_usable_meta_the_request_is_the_parent() {
        let bad = meta("00-zz-1-01");
        for meta in [None, Some(&Meta(&bad) as &dyn Extractor)] {
            let span = span_of(&Call { method: "ping", ..Call::default() }, Remote::extract(&headers(), meta), Outcome::Ok);
            assert_eq!(span.parent_span_id.to_string(), "1".repeat(16));
            assert!(span.links.is_empty());
        }
        assert!(Remote::extract(&HeaderMap::new(), Some(&Meta(&bad))).parent().is_none());
    }

    #[test]
    fn a_span_says_what_the_conventions_ask() {
        let call = Call {
            method: "tools/call",
            tool: Some("book"),
            request_id: Some("7"),
            protocol_version: Some("2026-07-28"),
            session_id: None,
        };
        let span = span_of(&call, Remote::default(), Outcome::Error("-32603"));
        assert_eq!((span.name.as_ref(), &span.span_kind), ("tools/call book", &SpanKind::Server));
        for (key, value) in [
            ("mcp.method.name", "tools/call"),
            ("gen_ai.operation.name", "execute_tool"),
            ("gen_ai.tool.name", "book"),
            ("jsonrpc.request.id", "7"),
            ("mcp.protocol.version", "2026-07-28"),
            ("network.protocol.name", "http"),
            ("error.type", "-32603"),
            ("rpc.response.status_code", "-32603"),
        ] {
            assert_eq!(attribute(&span, key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(attribute(&span, "mcp.session.id"), None);
        assert!(matches!(span.status, Status::Error { .. }));

        let span = span_of(&Call { method: "tools/list", ..Call::default() }, Remote::default(), Outcome::Ok);
        assert_eq!((span.name.as_ref(), &span.status), ("tools/list", &Status::Unset));
        assert_eq!(attribute(&span, "gen_ai.operation.name").or(attribute(&span, "error.type")), None);
    }
}
