//! Every instrument of the server, in one place.
//!
//! Names and attributes are those of the OpenTelemetry semantic conventions for MCP and for database pools where there are any,
//! and ours where there are none. Attribute values come from what the server knows (a route, a stage), never from what a caller
//! sent: a stranger must not be able to make series.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bg_runtime::lifecycle::{Stage, Status};
use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, BoundCounter, BoundHistogram, BoundUpDownCounter, Counter, Histogram, Meter, UpDownCounter},
};
use opentelemetry_sdk::metrics::{Aggregation, Instrument, Stream};

const OPERATION_DURATION: &str = "mcp.server.operation.duration";
const SESSION_DURATION: &str = "mcp.server.session.duration";

/// The conventions' boundaries from 10 ms on, and six below: most calls here end within a millisecond, and without these every
/// quantile would read "under 10 ms" and a color that became ten times slower would look the same.
const OPERATION_BOUNDARIES: [f64; 20] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// The conventions' boundaries, and three above: a session here outlives the process it began in.
const SESSION_BOUNDARIES: [f64; 17] =
    [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 1800.0, 7200.0, 86400.0];

const STAGES: [Stage; 5] = [Stage::Starting, Stage::Serving, Stage::Leaving, Stage::Draining, Stage::Stopped];

/// The instruments. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    meter: Meter,
    operations: Histogram<f64>,
    sessions: Histogram<f64>,
    sessions_open: BoundUpDownCounter<i64>,
    refused: Counter<u64>,
    rejected: Counter<u64>,
    cut: BoundCounter<u64>,
    panics: BoundCounter<u64>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok,
    /// Answered with a tool result that says `isError`: the caller's mistake.
    ToolError,
    /// Not answered as asked. The JSON-RPC code as text when one was returned, else a word such as `timeout` or `cancelled`.
    Error(&'static str),
}

/// What one route records. Made once per route at start-up; cheap to clone.
///
/// The two ends that nearly every call comes to are bound: their series are found when this is made, so that a recording hashes
/// no attributes and takes no lock that other routes take.
#[derive(Clone)]
pub struct Operation {
    ok: BoundHistogram<f64>,
    tool_error: BoundHistogram<f64>,
    rare: Arc<Rare>,
}

struct Rare {
    operations: Histogram<f64>,
    attributes: Vec<KeyValue>,
}

/// A connection pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Connections that are lent.
    pub used: u64,
    /// Connections that are open and free.
    pub idle: u64,
    /// Callers that wait for one.
    pub waiting: u64,
    /// Connections there may be.
    pub max: u64,
}

// === impl Metrics ===

impl Metrics {
    /// All instruments, on `meter`.
    pub fn new(meter: &Meter) -> Self {
        let duration = |name, description| meter.f64_histogram(name).with_unit("s").with_description(description);
        let count = |name, description| meter.u64_counter(name).with_description(description).build();
        let open: UpDownCounter<i64> =
            meter.i64_up_down_counter("mcp.server.sessions.open").with_description("Sessions this process holds.").build();
        Self {
            operations: duration(OPERATION_DURATION, "How long MCP requests and notifications take, as the server sees them.")
                .with_boundaries(OPERATION_BOUNDARIES.to_vec())
                .build(),
            sessions: duration(SESSION_DURATION, "How long MCP sessions last, as the server sees them.")
                .with_boundaries(SESSION_BOUNDARIES.to_vec())
                .build(),
            sessions_open: open.bind(&[]),
            refused: count("mcp.server.admission.refused", "Requests that were turned away before they became calls."),
            rejected: count(
                "mcp.server.authentication.rejected",
                "Requests without a valid access token, and calls beyond the scopes of theirs, by reason.",
            ),
            cut: count("mcp.server.calls.cut", "Calls that a drain deadline cut off unanswered.").bind(&[]),
            panics: count("mcp.server.panics", "Panics that were caught in a call.").bind(&[]),
            meter: meter.clone(),
        }
    }

    /// The handle of one route. `tool` is a name the server registered, and only for `tools/call`.
    ///
    /// `mcp.protocol.version` is left out: it would multiply every series of every tool by the number of revisions that clients
    /// speak, twenty-odd buckets each, to answer a question that the spans answer.
    pub fn operation(&self, method: impl Into<Cow<'static, str>>, tool: Option<&str>) -> Operation {
        let mut attributes =
            vec![KeyValue::new("mcp.method.name", method.into()), KeyValue::new("network.protocol.name", "http")];
        if let Some(tool) = tool {
            attributes.push(KeyValue::new("gen_ai.operation.name", "execute_tool"));
            attributes.push(KeyValue::new("gen_ai.tool.name", tool.to_owned()));
        }
        let ok = self.operations.bind(&attributes);
        let tool_error = self.operations.bind(&[attributes.as_slice(), &[KeyValue::new("error.type", "tool_error")]].concat());
        Operation { ok, tool_error, rare: Arc::new(Rare { operations: self.operations.clone(), attributes }) }
    }

    /// A session began here, or was taken over from another process.
    pub fn session_opened(&self) {
        self.sessions_open.add(1);
    }

    /// A session left this process. `lasted` is given when it ended for good, and counts from its beginning, wherever that was.
    pub fn session_closed(&self, lasted: Option<Duration>) {
        self.sessions_open.add(-1);
        if let Some(lasted) = lasted {
            self.sessions.record(lasted.as_secs_f64(), &[KeyValue::new("network.protocol.name", "http")]);
        }
    }

    /// A request was turned away; `reason` is one of a few words, such as a limit's.
    pub fn refused(&self, reason: &'static str) {
        self.refused.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// Counts a request whose caller was not authenticated, or a call beyond its token's scopes; `reason` is one of a few words.
    pub fn rejected(&self, reason: &'static str) {
        self.rejected.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// A drain cut this many calls off.
    pub fn cut(&self, calls: u64) {
        self.cut.add(calls);
    }

    /// A call panicked and was answered all the same.
    pub fn panicked(&self) {
        self.panics.add(1);
    }

    /// Shows the life of the process: its stage, and what is in flight. `status` is asked at every scrape.
    pub fn watch_lifecycle(&self, status: impl Fn() -> Status + Clone + Send + Sync + 'static) {
        let (calls, streams) = (status.clone(), status.clone());
        self.gauge("mcp.server.calls.in_flight", "Requests admitted and not yet answered to their last byte.", move |gauge| {
            gauge.observe(calls().calls as u64, &[]);
        });
        self.gauge("mcp.server.streams.open", "Long-lived streams that are open.", move |gauge| {
            gauge.observe(streams().streams as u64, &[]);
        });
        self.gauge("lifecycle.stage", "1 for the stage the process is in.", move |gauge| {
            let now = status().stage;
            // Every stage is observed, as 0 or 1: a stage that merely stopped being reported would go stale in Prometheus, not
            // to 0, and two stages would look current.
            for stage in STAGES {
                gauge.observe(u64::from(stage == now), &[KeyValue::new("lifecycle.stage", stage.as_str())]);
            }
        });
    }

    /// Shows a connection pool. `pool` is asked at every scrape.
    pub fn watch_pool(&self, name: &'static str, pool: impl Fn() -> Pool + Clone + Send + Sync + 'static) {
        let label = [KeyValue::new("db.client.connection.pool.name", name)];
        let states = ["used", "idle"].map(|state| [label[0].clone(), KeyValue::new("db.client.connection.state", state)]);
        let (max, waiting, labels) = (pool.clone(), pool.clone(), (label.clone(), label));
        self.gauge("db.client.connection.max", "Connections there may be.", move |gauge| gauge.observe(max().max, &labels.0));
        self.gauge("db.client.connection.pending_requests", "Callers that wait for a connection.", move |gauge| {
            gauge.observe(waiting().waiting, &labels.1);
        });
        self.gauge("db.client.connection.count", "Connections, by state.", move |gauge| {
            let now = pool();
            gauge.observe(now.used, &states[0]);
            gauge.observe(now.idle, &states[1]);
        });
    }

    fn gauge(
        &self,
        name: &'static str,
        description: &'static str,
        observe: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
    ) {
        // The meter keeps the callback; the instrument itself is of no further use.
        let _gauge = self.meter.u64_observable_gauge(name).with_description(description).with_callback(observe).build();
    }
}

// === impl Operation ===

impl Operation {
    /// Records one call.
    pub fn record(&self, elapsed: Duration, outcome: Outcome) {
        let seconds = elapsed.as_secs_f64();
        match outcome {
            Outcome::Ok => self.ok.record(seconds),
            Outcome::ToolError => self.tool_error.record(seconds),
            Outcome::Error(kind) => self.rare.record(seconds, kind),
        }
    }
}

// === impl Rare ===

impl Rare {
    fn record(&self, seconds: f64, kind: &'static str) {
        let mut attributes = self.attributes.clone();
        attributes.push(KeyValue::new("error.type", kind));
        if kind.parse::<i32>().is_ok() {
            attributes.push(KeyValue::new("rpc.response.status_code", kind));
        }
        self.operations.record(seconds, &attributes);
    }
}

// === impl Outcome ===

impl Outcome {
    /// The conventions' `error.type`, when there was an error.
    pub const fn error_type(self) -> Option<&'static str> {
        match self {
            Self::Ok => None,
            Self::ToolError => Some("tool_error"),
            Self::Error(kind) => Some(kind),
        }
    }
}

/// Leaves the minimum and maximum of our histograms out: they cover the whole life of a process, say nothing about now, and
/// Prometheus has no place for them. An instrument cannot say this about itself; only a view can, and it must repeat the boundaries.
pub(crate) fn view(instrument: &Instrument) -> Option<Stream> {
    let boundaries = match instrument.name() {
        OPERATION_DURATION => OPERATION_BOUNDARIES.to_vec(),
        SESSION_DURATION => SESSION_BOUNDARIES.to_vec(),
        _ => return None,
    };
    Stream::builder().with_aggregation(Aggregation::ExplicitBucketHistogram { boundaries, record_min_max: false }).build().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bg_runtime::lifecycle::Role;

    use super::*;
    use crate::telemetry::{Telemetry, tests::release};

    fn value(text: &str, labels: &[&str]) -> Option<f64> {
        let line = text.lines().find(|line| labels.iter().all(|label| line.contains(label)))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    #[test]
    fn a_bound_recording_lands_where_an_unbound_one_does() {
        let telemetry = Telemetry::off(&release());
        let metrics = Metrics::new(&telemetry.meter());
        let operation = metrics.operation("tools/call", Some("book"));
        // The attributes of the bound series, recorded the slow way: one series must hold both.
        operation.record(Duration::from_micros(300), Outcome::Ok);
        metrics.operations.record(0.0003, &operation.rare.attributes);
        operation.record(Duration::from_micros(300), Outcome::ToolError);
        operation.record(Duration::from_micros(300), Outcome::Error("tool_error"));
        let text = telemetry.prometheus();
        let name = "mcp_server_operation_duration_seconds";
        let count = format!("{name}_count{{gen_ai_operation_name=\"execute_tool\"");
        assert_eq!(value(&text, &[&count, r#"gen_ai_tool_name="book",mcp_method_name="tools/call""#]), Some(2.0), "{text}");
        let count = format!("{name}_count{{error_type=\"tool_error\"");
        assert_eq!(value(&text, &[&count]), Some(2.0), "{text}");
        assert_eq!(text.matches(&format!("{name}_count{{")).count(), 2, "{text}");
        let bucket = format!("{name}_bucket{{gen_ai");
        assert_eq!(value(&text, &[&bucket, r#"le="0.00025""#]), Some(0.0));
        assert_eq!(value(&text, &[&bucket, r#"le="0.0005""#]), Some(2.0));
        assert_eq!(value(&text, &[&bucket, r#"le="300""#]), Some(2.0));
    }

    #[test]
    fn a_json_rpc_error_names_its_code_twice_as_the_conventions_ask() {
        let telemetry = Telemetry::off(&release());
        let operation = Metrics::new(&telemetry.meter()).operation("tools/list".to_owned(), None);
        operation.record(Duration::from_millis(1), Outcome::Error("-32603"));
        operation.record(Duration::from_millis(1), Outcome::Error("timeout"));
        let text = telemetry.prometheus();
        assert_eq!(value(&text, &["_count{", r#"error_type="-32603""#, r#"rpc_response_status_code="-32603""#]), Some(1.0));
        assert_eq!(value(&text, &["_count{", r#"error_type="timeout""#]), Some(1.0));
        assert!(!text.contains("gen_ai"), "{text}");
    }

    #[test]
    fn exactly_one_stage_is_current() {
        let telemetry = Telemetry::off(&release());
        let metrics = Metrics::new(&telemetry.meter());
        let status = Arc::new(Mutex::new(Status { stage: Stage::Serving, role: Role::Active, calls: 3, streams: 2 }));
        let shared = status.clone();
        metrics.watch_lifecycle(move || *shared.lock().unwrap());
        assert_eq!(value(&telemetry.prometheus(), &["lifecycle_stage{", "\"serving\""]), Some(1.0));
        status.lock().unwrap().stage = Stage::Draining;
        let text = telemetry.prometheus();
        assert_eq!(value(&text, &["lifecycle_stage{", "\"serving\""]), Some(0.0));
        assert_eq!(value(&text, &["lifecycle_stage{", "\"draining\""]), Some(1.0));
        assert_eq!(value(&text, &["mcp_server_calls_in_flight{"]), Some(3.0));
        assert_eq!(value(&text, &["mcp_server_streams_open{"]), Some(2.0));
    }

    #[test]
    fn the_rest_is_counted_under_its_own_name() {
        let telemetry = Telemetry::off(&release());
        let metrics = Metrics::new(&telemetry.meter());
        metrics.session_opened();
        metrics.session_opened();
        metrics.session_closed(Some(Duration::from_secs(600)));
        metrics.refused("draining");
        metrics.cut(4);
        metrics.panicked();
        metrics.watch_pool("main", || Pool { used: 2, idle: 1, waiting: 7, max: 10 });
        let text = telemetry.prometheus();
        assert_eq!(value(&text, &["mcp_server_sessions_open{"]), Some(1.0));
        assert_eq!(value(&text, &["mcp_server_session_duration_seconds_bucket{", r#"le="1800""#]), Some(1.0));
        assert_eq!(value(&text, &["mcp_server_admission_refused_total{", r#"reason="draining""#]), Some(1.0));
        assert_eq!(value(&text, &["mcp_server_calls_cut_total{"]), Some(4.0));
        assert_eq!(value(&text, &["mcp_server_panics_total{"]), Some(1.0));
        assert_eq!(value(&text, &["db_client_connection_count{", r#"state="used""#]), Some(2.0));
        assert_eq!(value(&text, &["db_client_connection_pending_requests{", r#"pool_name="main""#]), Some(7.0));
    }
}
