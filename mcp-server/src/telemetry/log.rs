//! Log lines on stderr, and the subscriber that everything hangs on.
//!
//! Operation spans ([`context::TARGET`]) are for export only: the console never shows them, and when nothing is exported no layer
//! wants them, so that a disabled span costs one atomic load.

use std::fmt::{self, Write as _};

use bg_runtime::Release;
use opentelemetry::{Context, trace::TraceContextExt as _};
use opentelemetry_sdk::trace::SdkTracer;
use serde_json::Value;
use tracing::{Dispatch, Event, Subscriber, field, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    field::RecordFields,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter, format::JsonFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
};

use super::{LogFormat, TelemetryConfig, TelemetryError, context};

/// The layers that the configuration asks for, on a registry.
pub(super) fn subscriber<W>(
    config: &TelemetryConfig,
    release: &Release,
    tracer: Option<SdkTracer>,
    writer: W,
    color: bool,
) -> Result<Dispatch, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(format!("{},{}=off", config.log_filter, context::TARGET))
        .map_err(|source| TelemetryError::Filter { filter: config.log_filter.clone(), source })?;
    let console = match config.log_format {
        LogFormat::Human => tracing_subscriber::fmt::layer::<Registry>()
            .compact()
            .fmt_fields(OneLine)
            .with_ansi(color)
            .with_writer(writer)
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer::<Registry>()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines::new(release))
            .with_writer(writer)
            .boxed(),
    };
    let Some(tracer) = tracer else {
        // One filter for everything, not one per layer: a filter of a layer cannot say for others that nobody wants a span.
        // And on top, not joined to the console: `and_then` forgets that a callsite is never wanted, and would ask each time.
        return Ok(Dispatch::new(Registry::default().with(console).with(filter)));
    };
    // Source locations, threads and busy times would double the size of a span and answer nothing about a call.
    let export = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
    let export = export.with_tracked_inactivity(false).with_target(false).with_filter(exported());
    Ok(Dispatch::new(Registry::default().with(console.with_filter(filter)).with(export)))
}

/// Everybody's spans at INFO, except those of the machinery that carries the export itself: they would make spans about spans.
fn exported() -> Targets {
    let silent =
        ["h2", "hyper", "hyper_util", "opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp", "opentelemetry_http", "rustls"];
    Targets::new().with_default(LevelFilter::INFO).with_targets(silent.map(|target| (target, LevelFilter::OFF)))
}

/// The message and the fields of an event or a span, on one line and without an escape sequence, whatever is in them: callers
/// choose some of these texts, and would write lines of their own.
struct OneLine;

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = OneLineVisitor { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct OneLineVisitor<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

// === impl OneLineVisitor ===

impl OneLineVisitor<'_> {
    fn write(&mut self, field: &field::Field, value: fmt::Arguments<'_>) -> fmt::Result {
        if !std::mem::take(&mut self.is_empty) {
            self.writer.write_char(' ')?;
        }
        match field.name() {
            "message" => {}
            name if self.writer.has_ansi_escapes() => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
            name => write!(self.writer, "{name}=")?,
        }
        write!(Escaped(&mut self.writer), "{value}")
    }
}

impl field::Visit for OneLineVisitor<'_> {
    fn record_str(&mut self, field: &field::Field, value: &str) {
        // Other texts are quoted, and their quotation marks escaped: their end is where the field ends.
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_error(&mut self, field: &field::Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{}", crate::error::Chain(value)));
    }

    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        if self.result.is_ok() {
            self.result = self.write(field, format_args!("{value:?}"));
        }
    }
}

/// Writes what would end a line, move the cursor or turn the text around as an escape.
struct Escaped<'a, 'writer>(&'a mut Writer<'writer>);

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_unsafe = |character: char| {
            character.is_control()
                || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        let mut rest = text;
        while let Some((at, character)) = rest.char_indices().find(|(_, character)| is_unsafe(*character)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", character.escape_default())?;
            rest = &rest[at + character.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// One flat object per line: time, level, target, message, the release, the trace when there is one, then the event's own fields.
struct JsonLines {
    /// `"release.color":…,"release.version":…,"release.commit":…`, which never changes.
    release: String,
}

// === impl JsonLines ===

impl JsonLines {
    fn new(release: &Release) -> Self {
        let fields = [("color", release.color.as_str()), ("version", &*release.version), ("commit", &*release.commit)];
        let fields = fields.map(|(name, value)| format!(r#""release.{name}":{}"#, Value::from(value)));
        Self { release: fields.join(",") }
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> FormatEvent<S, JsonFields> for JsonLines {
    fn format_event(&self, cx: &FmtContext<'_, S, JsonFields>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (level, target) = (metadata.level(), Value::from(metadata.target()));
        write!(line, r#"{{"timestamp":"{:.6}","level":"{level}","target":{target}"#, jiff::Timestamp::now())?;
        write!(line, r#","message":{},{}"#, Value::from(fields.message), self.release)?;
        // Entering an exported span makes it the current context, so the trace is known here although the console's filter hides
        // the span itself.
        Context::map_current(|current| {
            let span = current.span();
            let span = span.span_context();
            if !span.is_valid() {
                return Ok(());
            }
            write!(line, r#","trace_id":"{}","span_id":"{}""#, span.trace_id(), span.span_id())
        })?;
        line.write_str(&fields.rest)?;
        let mut opening = r#","spans":["#;
        for span in cx.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            write!(line, r#"{opening}{{"name":{}"#, Value::from(span.name()))?;
            if let Some(fields) = span.extensions().get::<FormattedFields<JsonFields>>().filter(|fields| fields.len() > 2) {
                write!(line, r#","fields":{fields}"#)?;
            }
            line.write_char('}')?;
            opening = ",";
        }
        line.write_str(if opening == "," { "]}\n" } else { "}\n" })
    }
}

/// An event's fields: the message, and the others as `,"name":value`.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

// === impl Fields ===

impl Fields {
    fn push(&mut self, field: &field::Field, value: impl Into<Value>) {
        // A field may not replace what a line is found by; it is kept under a name of its own.
        let taken = matches!(field.name(), "timestamp" | "level" | "target" | "trace_id" | "span_id" | "spans")
            || matches!(field.name(), "release.color" | "release.version" | "release.commit");
        let (prefix, name, value) = (if taken { "field." } else { "" }, field.name(), value.into());
        write!(self.rest, ",{}:{value}", Value::from(format!("{prefix}{name}"))).expect("a string takes every write");
    }
}

impl field::Visit for Fields {
    fn record_f64(&mut self, field: &field::Field, value: f64) {
        self.push(field, value);
    }

    fn record_i64(&mut self, field: &field::Field, value: i64) {
        self.push(field, value);
    }

    fn record_u64(&mut self, field: &field::Field, value: u64) {
        self.push(field, value);
    }

    fn record_bool(&mut self, field: &field::Field, value: bool) {
        self.push(field, value);
    }

    fn record_str(&mut self, field: &field::Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.push(field, value);
        }
    }

    fn record_error(&mut self, field: &field::Field, value: &(dyn std::error::Error + 'static)) {
        // The whole chain: our messages do not print their sources.
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            write!(text, ": {error}").expect("a string takes every write");
            source = error.source();
        }
        self.push(field, text);
    }

    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::util::SubscriberInitExt as _;

    use super::*;
    use crate::telemetry::tests::release;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn json(&self) -> Vec<Value> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
        }
    }

    fn capture(format: LogFormat, tracer: Option<SdkTracer>) -> (Lines, tracing::subscriber::DefaultGuard) {
        let (config, lines) = (TelemetryConfig { log_format: format, ..TelemetryConfig::default() }, Lines::default());
        let writer = lines.clone();
        let guard = subscriber(&config, &release(), tracer, move || writer.clone(), false).unwrap().set_default();
        (lines, guard)
    }

    #[test]
    fn a_json_line_is_flat_and_names_the_release() {
        let (lines, _guard) = capture(LogFormat::Json, None);
        let error = TelemetryError::Tls(rustls::Error::General("no \"luck\"".to_owned()));
        tracing::warn!(
            tool.name = "book",
            calls = 3,
            level = "mine",
            error = &error as &dyn std::error::Error,
            "cut {} calls",
            3
        );
        tracing::info_span!("import", file = "a.ics").in_scope(|| tracing::info!("line\nbreak"));
        tracing::debug!("not at info");
        let lines = lines.json();
        let [first, second] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!(first["message"], "cut 3 calls");
        assert_eq!((&first["level"], &first["calls"]), (&"WARN".into(), &3.into()));
        assert_eq!((&first["tool.name"], &first["field.level"]), (&"book".into(), &"mine".into()));
        assert_eq!(first["error"], "tls for otlp cannot be set up: unexpected error: no \"luck\"");
        for line in &lines {
            assert_eq!((&line["release.color"], &line["release.version"]), (&"green".into(), &"2.2.0".into()));
            assert_eq!(line["release.commit"], "8f3a1c");
            assert!(line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
            assert!(line.get("trace_id").is_none());
        }
        assert_eq!(second["message"], "line\nbreak");
        assert_eq!(second["spans"], serde_json::json!([{"name": "import", "fields": {"file": "a.ics"}}]));
    }

    #[test]
    fn a_line_inside_an_exported_operation_names_its_trace_but_not_its_span() {
        let tracers = SdkTracerProvider::builder().build();
        let (lines, _guard) = capture(LogFormat::Json, Some(tracers.tracer("test")));
        assert!(context::enabled());
        let operation = context::Call { method: "tools/list", ..context::Call::default() };
        context::operation_span(&operation, context::Remote::default()).in_scope(|| tracing::info!("inside"));
        tracing::info!("outside");
        let lines = lines.json();
        assert_eq!(lines[0]["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(lines[0]["span_id"].as_str().unwrap().len(), 16);
        assert!(lines[0].get("spans").is_none(), "{}", lines[0]);
        assert!(lines[1].get("trace_id").is_none());
    }

    #[test]
    fn an_operation_span_is_off_when_nothing_is_exported() {
        for filter in ["info", "trace", "mcp_server=trace", "off"] {
            let config = TelemetryConfig { log_filter: filter.to_owned(), ..TelemetryConfig::default() };
            let _guard = subscriber(&config, &release(), None, io::sink, false).unwrap().set_default();
            assert!(!context::enabled(), "{filter}");
            assert!(context::operation_span(&context::Call::default(), context::Remote::default()).is_disabled(), "{filter}");
        }
    }

    #[test]
    fn a_human_line_is_short_and_plain_off_a_terminal() {
        let (lines, _guard) = capture(LogFormat::Human, None);
        tracing::info!(port = 3000, "listening");
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("listening port=3000\n") && !text.contains("release") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn no_text_ends_a_human_line_or_moves_the_cursor() {
        const FORGED: &str = "x\n2026-11-30T00:00:00Z  WARN forged\r\u{1b}[31m \u{9b}2J\u{2028}\u{202e}\u{85}\0 \"=y";
        #[derive(Debug, thiserror::Error)]
        #[error("outer {FORGED}")]
        struct Outer(#[source] io::Error);
        for color in [false, true] {
            let (config, lines) = (TelemetryConfig::default(), Lines::default());
            let writer = lines.clone();
            let _guard = subscriber(&config, &release(), None, move || writer.clone(), color).unwrap().set_default();
            let error = Outer(io::Error::other(FORGED));
            tracing::info!("{FORGED}");
            tracing::info!(name = FORGED, shown = %FORGED, debug = ?FORGED, "fields");
            tracing::info!(error = &error as &dyn std::error::Error, "an error");
            tracing::info_span!("span", of = FORGED, shown = %FORGED).in_scope(|| tracing::info!("inside"));
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), 4, "{text}");
            // What paints is ours, and comes with colors only.
            let ours = ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[3m", "\u{1b}[32m"];
            let bare = ours.iter().fold(text.clone(), |text, paint| if color { text.replace(paint, "") } else { text });
            let left: Vec<_> =
                bare.chars().filter(|one| (one.is_control() && *one != '\n') || "\u{2028}\u{202e}".contains(*one)).collect();
            assert!(left.is_empty(), "{left:?} {text:?}");
            assert!(text.contains(r"x\n2026-11-30T00:00:00Z  WARN forged\r\u{1b}[31m"), "{text}");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        let config = TelemetryConfig { log_filter: "a=b=c".to_owned(), ..TelemetryConfig::default() };
        assert!(matches!(subscriber(&config, &release(), None, io::sink, false), Err(TelemetryError::Filter { .. })));
    }
}
