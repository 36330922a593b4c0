//! Which of OpenTelemetry's own variables are honored, and what they become.
//!
//! The names are the standard's, so an operator needs no list of ours. A value this build cannot honor is a problem that is
//! reported, never a setting that is silently ignored. The SDK reads some of the same names by itself; whatever it could read
//! differently is set explicitly in `otlp.rs`.

use std::{str::FromStr, time::Duration};

use bg_runtime::{Secret, SecretUrl};
use http::{HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::trace::Sampler;

use crate::http::percent;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person at a terminal.
    #[default]
    Human,
    /// One object per line, for machines.
    Json,
}

/// What telemetry does. The default exports nothing.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Which lines there are, as `tracing_subscriber::EnvFilter` reads it.
    pub log_filter: String,
    /// `service.name`: the same for both colors, which is why the color is not part of it.
    pub service_name: String,
    /// `service.instance.id`: one per process.
    pub instance_id: String,
    /// Further resource attributes, such as `deployment.environment`.
    pub resource: Vec<(String, String)>,
    /// Spans over OTLP.
    pub traces: Option<TraceExport>,
    /// Metrics over OTLP, beside Prometheus.
    pub metrics: Option<MetricExport>,
}

/// Where and how one signal is sent: OTLP as protobuf over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// The full address, path included.
    pub endpoint: SecretUrl,
    /// Sent with every request.
    pub headers: Headers,
    /// For one export, retries included.
    pub timeout: Duration,
}

/// Header lines of a collector. They hold its credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Secret)>);

/// Spans over OTLP.
#[derive(Clone, Debug)]
pub struct TraceExport {
    /// Where to.
    pub otlp: Otlp,
    /// Which traces are kept.
    pub sampler: Sampler,
    /// Between two batches.
    pub schedule_delay: Duration,
    /// Spans held; more are dropped, and counted by the SDK.
    pub max_queue_size: usize,
    /// Spans per request.
    pub max_export_batch_size: usize,
}

/// Metrics over OTLP.
#[derive(Clone, Debug)]
pub struct MetricExport {
    /// Where to.
    pub otlp: Otlp,
    /// Between two exports.
    pub interval: Duration,
}

// === impl LogFormat ===

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{word}` is no log format: say human or json")),
        }
    }
}

// === impl TelemetryConfig ===

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Human,
            log_filter: "info".to_owned(),
            service_name: "mcp-server".to_owned(),
            instance_id: uuid::Uuid::new_v4().to_string(),
            resource: Vec::new(),
            traces: None,
            metrics: None,
        }
    }
}

impl TelemetryConfig {
    /// Reads the standard variables through `get`, and names everything that is wrong with them in `problems`.
    ///
    /// The two log settings are not OpenTelemetry's and keep their defaults here.
    pub fn read(get: &dyn Fn(&str) -> Option<String>, problems: &mut Vec<String>) -> Self {
        // The standard says that an empty variable is an unset one.
        let get = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let mut reader = Reader { get: &get, problems };
        let resource = reader.pairs("OTEL_RESOURCE_ATTRIBUTES", reader.get("OTEL_RESOURCE_ATTRIBUTES"));
        let mut config = Self { resource, ..Self::default() };
        for (key, slot) in [("service.name", &mut config.service_name), ("service.instance.id", &mut config.instance_id)] {
            if let Some((_, value)) = config.resource.iter().find(|(name, _)| name == key) {
                slot.clone_from(value);
            }
        }
        if let Some(name) = reader.get("OTEL_SERVICE_NAME") {
            config.service_name = name;
        }
        // Disabled means that nothing leaves the process. `/metrics` stays: it is pulled, and a rollout decides by it.
        if !reader.flag("OTEL_SDK_DISABLED") {
            config.traces = reader.traces();
            config.metrics = reader.metrics();
        }
        config
    }
}

/// The variables, and a place to complain about them.
struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    problems: &'a mut Vec<String>,
}

// === impl Reader ===

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.get)(name)
    }

    fn traces(&mut self) -> Option<TraceExport> {
        let otlp = self.otlp("TRACES", "v1/traces", &["otlp", "none"])?;
        let max_queue_size = self.count("OTEL_BSP_MAX_QUEUE_SIZE", 2048);
        // The SDK's batch thread has no timeout of its own, so the request's does the work of both.
        let timeout = otlp.timeout.min(self.millis("OTEL_BSP_EXPORT_TIMEOUT", 30_000));
        Some(TraceExport {
            otlp: Otlp { timeout, ..otlp },
            sampler: self.sampler(),
            schedule_delay: self.millis("OTEL_BSP_SCHEDULE_DELAY", 5_000),
            max_queue_size,
            max_export_batch_size: self.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512).min(max_queue_size),
        })
    }

    fn metrics(&mut self) -> Option<MetricExport> {
        let otlp = self.otlp("METRICS", "v1/metrics", &["otlp", "none", "prometheus"])?;
        Some(MetricExport { otlp, interval: self.millis("OTEL_METRIC_EXPORT_INTERVAL", 60_000) })
    }

    /// OTLP for one signal. It is on when its exporter is asked for, or when nobody said anything and an endpoint is given.
    fn otlp(&mut self, signal: &str, path: &str, exporters: &[&str]) -> Option<Otlp> {
        let own = self.get(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"));
        let shared = self.get("OTEL_EXPORTER_OTLP_ENDPOINT");
        let on = match self.get(&format!("OTEL_{signal}_EXPORTER")) {
            Some(list) => self.exporters(signal, &list, exporters),
            None => own.is_some() || shared.is_some(),
        };
        if !on {
            return None;
        }
        // The standard: a signal's own endpoint is used as it is, the shared one gets the signal's path appended.
        let (name, endpoint) = match (own, shared) {
            (Some(own), _) => (format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"), own),
            (None, shared) => {
                let base = shared.unwrap_or_else(|| "http://localhost:4318".to_owned());
                // The path goes before a query, which may hold a collector's key.
                let (base, query) = base.split_at(base.find('?').unwrap_or(base.len()));
                ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("{}/{path}{query}", base.trim_end_matches('/')))
            }
        };
        let endpoint = SecretUrl::new(endpoint);
        let uri = endpoint.expose().parse::<Uri>().ok().filter(|uri| uri.authority().is_some());
        if !uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https"))) {
            self.complain(format!("{name}: `{endpoint}` is no http or https address"));
        } else if endpoint.has_user() {
            self.complain(format!("{name}: a user in the address is not sent: put it into OTEL_EXPORTER_OTLP_HEADERS"));
        }
        self.refuse_the_rest(signal);
        let (name, headers) = self.signal(signal, "HEADERS");
        let headers = self.pairs(&name, headers).into_iter().map(|(header, value)| (header, value.into()));
        let headers = Headers(headers.collect());
        for (header, value) in &headers.0 {
            if HeaderName::from_str(header).is_err() || HeaderValue::from_str(value.expose()).is_err() {
                self.complain(format!("{name}: `{header}` is no header, or its value is not one"));
            }
        }
        let (name, _) = self.signal(signal, "TIMEOUT");
        Some(Otlp { endpoint, headers, timeout: self.millis(&name, 10_000) })
    }

    fn exporters(&mut self, signal: &str, list: &str, known: &[&str]) -> bool {
        for word in list.split(',').map(str::trim).filter(|word| !known.contains(word)) {
            let known = known.join(", ");
            self.problems.push(format!("OTEL_{signal}_EXPORTER: `{word}` is not built in: say one of {known}"));
        }
        list.split(',').any(|word| word.trim() == "otlp")
    }

    /// What the standard knows and this build does not.
    fn refuse_the_rest(&mut self, signal: &str) {
        if let (name, Some(protocol)) = self.signal(signal, "PROTOCOL")
            && protocol != "http/protobuf"
        {
            self.complain(format!("{name}: `{protocol}` is not built in: only http/protobuf is, usually on port 4318"));
        }
        if let (name, Some(compression)) = self.signal(signal, "COMPRESSION")
            && compression != "none"
        {
            self.complain(format!("{name}: `{compression}` is not built in: leave it out"));
        }
        for what in ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"] {
            if let (name, Some(_)) = self.signal(signal, what) {
                self.complain(format!("{name} is not read: https trusts the system's certificates, or those of SSL_CERT_FILE"));
            }
        }
    }

    /// The signal's own variable, or the shared one.
    fn signal(&self, signal: &str, what: &str) -> (String, Option<String>) {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_{what}");
        match self.get(&own) {
            Some(value) => (own, Some(value)),
            None => {
                let shared = format!("OTEL_EXPORTER_OTLP_{what}");
                let value = self.get(&shared);
                (shared, value)
            }
        }
    }

    fn sampler(&mut self) -> Sampler {
        let name = self.get("OTEL_TRACES_SAMPLER").unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name.as_str()),
        };
        let root = match root {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(self.ratio()),
            _ => {
                self.problems.push(format!(
                    "OTEL_TRACES_SAMPLER: `{name}` is no sampler: say always_on, always_off or traceidratio, with or without parentbased_"
                ));
                Sampler::AlwaysOn
            }
        };
        if parent_based { Sampler::ParentBased(Box::new(root)) } else { root }
    }

    fn ratio(&mut self) -> f64 {
        let Some(word) = self.get("OTEL_TRACES_SAMPLER_ARG") else { return 1.0 };
        match word.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                self.problems.push(format!("OTEL_TRACES_SAMPLER_ARG: `{word}` is no ratio from 0 to 1"));
                1.0
            }
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.get(name) {
            Some(word) if word.eq_ignore_ascii_case("true") => true,
            Some(word) if !word.eq_ignore_ascii_case("false") => {
                self.problems.push(format!("{name}: `{word}` is neither true nor false"));
                false
            }
            _ => false,
        }
    }

    fn millis(&mut self, name: &str, default: u64) -> Duration {
        Duration::from_millis(self.count(name, default))
    }

    fn count<T: FromStr + Default + PartialEq>(&mut self, name: &str, default: T) -> T {
        match self.get(name).map(|word| (word.parse(), word)) {
            None => default,
            Some((Ok(number), _)) if number != T::default() => number,
            Some((_, word)) => {
                self.complain(format!("{name}: `{word}` is no whole number above zero"));
                default
            }
        }
    }

    /// `key=value,key=value`, values percent-encoded. A header's value may be a secret, so a problem does not quote it.
    fn pairs(&mut self, name: &str, list: Option<String>) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for (number, pair) in list.iter().flat_map(|list| list.split(',')).map(str::trim).enumerate() {
            match pair.split_once('=').map(|(key, value)| (key.trim(), percent::decode(value.trim()))) {
                _ if pair.is_empty() => {}
                Some((key, Some(value))) if !key.is_empty() => pairs.push((key.to_owned(), value)),
                _ => self.complain(format!("{name}: entry {} is not key=value with a percent-encoded value", number + 1)),
            }
        }
        pairs
    }

    /// Shared variables are read once per signal; their problem is told once.
    fn complain(&mut self, problem: String) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (TelemetryConfig, Vec<String>) {
        let mut problems = Vec::new();
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let config = TelemetryConfig::read(&get, &mut problems);
        (config, problems)
    }

    #[test]
    fn nothing_is_exported_until_someone_names_an_endpoint_or_an_exporter() {
        let (config, problems) = read(&[("OTEL_METRICS_EXPORTER", "prometheus"), ("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]);
        assert!(config.traces.is_none() && config.metrics.is_none() && problems.is_empty());

        let (config, _) = read(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!(config.traces.unwrap().otlp.endpoint.expose(), "http://localhost:4318/v1/traces");
        assert!(config.metrics.is_none());

        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318/base/");
        let (config, _) = read(&[endpoint, ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other/x")]);
        assert_eq!(config.traces.unwrap().otlp.endpoint.expose(), "https://collector:4318/base/v1/traces");
        assert_eq!(config.metrics.unwrap().otlp.endpoint.expose(), "http://other/x");

        for off in [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert!(read(&[endpoint, off]).0.traces.is_none(), "{off:?}");
        }
        assert!(read(&[endpoint, ("OTEL_METRICS_EXPORTER", "prometheus,otlp")]).0.metrics.is_some());
    }

    #[test]
    fn the_standard_names_mean_what_the_standard_says() {
        let (config, problems) = read(&[
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=lost,service.instance.id=pod-7,deployment.environment=pre%2Dprod"),
            ("OTEL_SERVICE_NAME", "appointments"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "15000"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "2000"),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!((config.service_name.as_str(), config.instance_id.as_str()), ("appointments", "pod-7"));
        assert_eq!(config.resource[2].1, "pre-prod");
        let traces = config.traces.as_ref().unwrap();
        assert_eq!(traces.otlp.headers.0, [("authorization".to_owned(), "Bearer s3cret".into())]);
        assert_eq!(traces.otlp.timeout, Duration::from_secs(2));
        assert_eq!(format!("{:?}", traces.sampler), "ParentBased(TraceIdRatioBased(0.25))");
        let metrics = config.metrics.as_ref().unwrap();
        assert_eq!((metrics.interval, metrics.otlp.timeout), (Duration::from_secs(15), Duration::from_millis(2500)));
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn all_problems_are_told_at_once_and_each_once() {
        let (_, problems) = read(&[
            ("OTEL_SDK_DISABLED", "maybe"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret,a b=c"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_METRICS_EXPORTER", "otlp,console"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=%zz"),
        ]);
        assert_eq!(
            problems,
            [
                "OTEL_RESOURCE_ATTRIBUTES: entry 1 is not key=value with a percent-encoded value",
                "OTEL_SDK_DISABLED: `maybe` is neither true nor false",
                "OTEL_EXPORTER_OTLP_ENDPOINT: `collector:4317/v1/traces` is no http or https address",
                "OTEL_EXPORTER_OTLP_PROTOCOL: `grpc` is not built in: only http/protobuf is, usually on port 4318",
                "OTEL_EXPORTER_OTLP_COMPRESSION: `gzip` is not built in: leave it out",
                "OTEL_EXPORTER_OTLP_CERTIFICATE is not read: https trusts the system's certificates, or those of SSL_CERT_FILE",
                "OTEL_EXPORTER_OTLP_HEADERS: entry 1 is not key=value with a percent-encoded value",
                "OTEL_EXPORTER_OTLP_HEADERS: `a b` is no header, or its value is not one",
                "OTEL_EXPORTER_OTLP_TIMEOUT: `10s` is no whole number above zero",
                "OTEL_TRACES_SAMPLER: `jaeger_remote` is no sampler: say always_on, always_off or traceidratio, with or without parentbased_",
                "OTEL_METRICS_EXPORTER: `console` is not built in: say one of otlp, none, prometheus",
                "OTEL_EXPORTER_OTLP_ENDPOINT: `collector:4317/v1/metrics` is no http or https address",
                "OTEL_METRIC_EXPORT_INTERVAL: `0` is no whole number above zero",
            ]
        );
    }
}
