//! What the process says about itself: logs on stderr, metrics for Prometheus, and both metrics and traces over OTLP when asked.
//!
//! Everything it says names the release: `release.color`, `release.version`, `release.commit` on every JSON log line, every
//! Prometheus series and every OTLP resource. [`Telemetry::install`] is the one place that sets a global, and only `main` calls
//! it; [`Telemetry::off`] gives the same metrics without, so blue and green fit in one test process.

pub mod config;
pub mod context;
pub mod metrics;

pub(crate) mod throttle;

mod log;
mod otlp;

use std::{collections::HashSet, io::IsTerminal as _, time::Duration};

use bg_runtime::Release;
use opentelemetry::{
    InstrumentationScope, Key, KeyValue, metrics::Meter, metrics::MeterProvider as _, trace::TracerProvider as _,
};
use opentelemetry_sdk::{
    Resource,
    metrics::{MeterProviderBuilder, SdkMeterProvider},
    trace::{SdkTracer, SdkTracerProvider},
};
use prometheus::{Registry, TextEncoder};

pub use config::{LogFormat, TelemetryConfig};
pub use metrics::{Metrics, Operation, Outcome};

/// The content type of [`Telemetry::prometheus`].
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The resource attributes that are also labels on every Prometheus series: a dashboard that compares the colors must not need
/// a join with `target_info`.
const RELEASE_ATTRIBUTES: [&str; 3] = ["release.color", "release.version", "release.commit"];

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter cannot be read.
    #[error("log filter `{filter}` cannot be read")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// An exporter was refused by the SDK.
    #[error("otlp exporter for {signal} cannot be built")]
    Exporter {
        /// `traces` or `metrics`.
        signal: &'static str,
        /// What the SDK says.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// OTLP over TLS needs certificates to trust.
    #[error("an https endpoint needs root certificates and none were found: {0}")]
    Roots(String),
    /// TLS cannot be set up.
    #[error("tls for otlp cannot be set up")]
    Tls(#[from] rustls::Error),
    /// OTLP sends on the runtime that serves.
    #[error("otlp needs a tokio runtime")]
    Runtime(#[from] tokio::runtime::TryCurrentError),
    /// Someone was here first.
    #[error("a tracing subscriber is already installed")]
    Installed(#[from] tracing::dispatcher::SetGlobalDefaultError),
}

/// The handle to everything that is measured. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    meters: SdkMeterProvider,
    tracers: Option<SdkTracerProvider>,
    registry: Registry,
    exports: bool,
}

// === impl Telemetry ===

impl Telemetry {
    /// Sets the global subscriber and starts what is exported. For `main`, once, inside the runtime.
    ///
    /// # Errors
    /// When the filter or an exporter is not usable, or a subscriber is already installed.
    pub fn install(config: &TelemetryConfig, release: &Release) -> Result<Self, TelemetryError> {
        let (telemetry, tracer) = Self::build(config, release)?;
        let color = std::io::stderr().is_terminal();
        let subscriber = log::subscriber(config, release, tracer, std::io::stderr, color)?;
        tracing::dispatcher::set_global_default(subscriber)?;
        Ok(telemetry)
    }

    /// Metrics for Prometheus and nothing else: no export, no subscriber, no global.
    pub fn off(release: &Release) -> Self {
        Self::build(&TelemetryConfig::default(), release).expect("nothing can fail when nothing is exported").0
    }

    /// The meter of the server; an application may make its own instruments with it.
    pub fn meter(&self) -> Meter {
        self.meters.meter_with_scope(InstrumentationScope::builder(env!("CARGO_PKG_NAME")).build())
    }

    /// Whether spans go anywhere. [`context::enabled`] is the cheaper question on the hot path.
    pub const fn traces_enabled(&self) -> bool {
        self.tracers.is_some()
    }

    /// All series, in the text exposition format ([`PROMETHEUS_TEXT`]).
    pub fn prometheus(&self) -> String {
        let families = self.registry.gather();
        TextEncoder::new().encode_to_string(&families).expect("families that the exporter made have names and values")
    }

    /// Sends what is still held and stops. The last hook of a drain; `false` says that the deadline came first.
    pub async fn flush(&self, deadline: Duration) -> bool {
        if !self.exports {
            return true;
        }
        let Self { meters, tracers, .. } = self.clone();
        let (done, flushed) = tokio::sync::oneshot::channel();
        // The SDK's shutdown blocks. It gets a thread of its own, not `spawn_blocking`, because a runtime waits for its blocking
        // tasks when it is dropped, and a collector that does not answer would then hold up the exit.
        let thread = std::thread::Builder::new().name("telemetry-flush".to_owned()).spawn(move || {
            let traces = tracers.is_none_or(|tracers| tracers.shutdown_with_timeout(deadline).is_ok());
            let metrics = meters.shutdown_with_timeout(deadline).is_ok();
            let _ = done.send(traces && metrics);
        });
        thread.is_ok() && matches!(tokio::time::timeout(deadline, flushed).await, Ok(Ok(true)))
    }

    fn build(config: &TelemetryConfig, release: &Release) -> Result<(Self, Option<SdkTracer>), TelemetryError> {
        let resource = resource(config, release);
        let registry = Registry::new();
        let keys: HashSet<Key> = RELEASE_ATTRIBUTES.into_iter().map(Key::from_static_str).collect();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .with_resource_selector(keys)
            // One scope per process would be one more label on every series that never differs.
            .scope_info_enabled(false)
            .build()
            .expect("a new registry takes one collector");
        let mut meters: MeterProviderBuilder =
            SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader).with_view(metrics::view);
        if let Some(export) = &config.metrics {
            meters = meters.with_reader(otlp::metrics(export)?);
        }
        let tracers = config.traces.as_ref().map(|export| otlp::traces(export, resource)).transpose()?;
        let tracer = tracers.as_ref().map(|tracers| tracers.tracer(env!("CARGO_PKG_NAME")));
        let exports = config.traces.is_some() || config.metrics.is_some();
        Ok((Self { meters: meters.build(), tracers, registry, exports }, tracer))
    }
}

/// Built from nothing but the configuration: the SDK's own detectors would read the environment a second time.
fn resource(config: &TelemetryConfig, release: &Release) -> Resource {
    let given = config.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let ours = [
        ("service.name", config.service_name.clone()),
        ("service.version", release.version.to_string()),
        ("service.instance.id", config.instance_id.clone()),
        ("release.color", release.color.to_string()),
        ("release.version", release.version.to_string()),
        ("release.commit", release.commit.to_string()),
    ];
    // Ours come last and win: a process must not be able to claim another color by a variable.
    Resource::builder_empty().with_attributes(given.chain(ours.map(|(key, value)| KeyValue::new(key, value)))).build()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn release() -> Release {
        Release::new(bg_runtime::Color::Green, "2.2.0", "8f3a1c").unwrap()
    }

    #[test]
    fn every_prometheus_series_names_the_release() {
        let telemetry = Telemetry::off(&release());
        Metrics::new(&telemetry.meter()).operation("tools/list", None).record(Duration::from_millis(3), Outcome::Ok);
        telemetry.meter().u64_counter("app.own").build().add(1, &[KeyValue::new("kind", "x")]);
        let text = telemetry.prometheus();
        let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("target_info")).collect();
        assert!(series.len() > 20, "{text}");
        for line in series {
            assert!(line.contains(r#"release_color="green""#) && line.contains(r#"release_commit="8f3a1c""#), "{line}");
            assert!(line.contains(r#"release_version="2.2.0""#) && !line.contains("otel_scope"), "{line}");
        }
        assert!(text.contains("app_own_total{"), "{text}");
        assert!(text.contains(r#"service_name="mcp-server""#), "{text}");
    }

    #[tokio::test]
    async fn flushing_what_exports_nothing_takes_no_time() {
        assert!(Telemetry::off(&release()).flush(Duration::ZERO).await);
    }

    #[test]
    fn a_variable_cannot_claim_another_color() {
        let resource =
            [("release.color".to_owned(), "blue".to_owned()), ("deployment.environment".to_owned(), "staging".to_owned())];
        let config = TelemetryConfig { resource: resource.to_vec(), ..TelemetryConfig::default() };
        let resource = super::resource(&config, &release());
        assert_eq!(resource.get(&Key::new("release.color")).unwrap().as_str(), "green");
        assert_eq!(resource.get(&Key::new("deployment.environment")).unwrap().as_str(), "staging");
    }
}
