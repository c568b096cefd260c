//! Logs to stderr, spans to an OpenTelemetry collector when there is one, and the trace context
//! that travels in either case.

mod panics;
mod traceparent;

use std::{
    io::{self, IsTerminal as _},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, error::OTelSdkError, trace::SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, ParseError, Targets},
    layer::{Filter, SubscriberExt as _},
    util::{SubscriberInitExt as _, TryInitError},
};

pub use self::traceparent::{
    TRACEPARENT_HEADER, child_of, is_traceparent, request_id_of, set_parent, traceparent_of,
};
use crate::config::{Problems, Validate, serialize_url};

/// How long the last spans may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether spans are exported. A process has one subscriber, and this says what is in it.
static EXPORTING: AtomicBool = AtomicBool::new(false);

/// What is logged and where spans go.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// For people or for machines.
    pub log_format: LogFormat,
    /// What to log: a level, or directives like `info,couponmesh_member=debug`.
    pub log_level: String,
    /// The collector's OTLP/gRPC address, like `http://otel-collector:4317`; empty for none.
    #[serde(serialize_with = "serialize_url")]
    pub otlp_endpoint: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line.
    Human,
    /// One JSON object a line.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Human,
            log_level: "info".to_owned(),
            otlp_endpoint: String::new(),
        }
    }
}

impl Validate for TelemetryConfig {
    fn validate(&self, problems: &mut Problems) {
        let level = &self.log_level;
        // A lone word that is no level would be taken for a module's name.
        let words = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
        if EnvFilter::builder().parse(level).is_err() || !level.split(',').all(words) {
            problems.add(
                "log_level",
                format_args!("must be a filter like \"info\", is {level:?}"),
            );
        }
        // Plain text only: inside the mesh the sidecar encrypts.
        if !self.otlp_endpoint.is_empty() && !self.otlp_endpoint.starts_with("http://") {
            let is = &self.otlp_endpoint;
            problems.add(
                "otlp_endpoint",
                format_args!("must be empty or start with http://, is {is:?}"),
            );
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error("log filter is malformed")]
    Filter(#[from] ParseError),
    /// The exporter cannot be built.
    #[error("span exporter cannot be built")]
    Exporter(#[from] ExporterBuildError),
    /// Something else set the process's subscriber.
    #[error("telemetry is set up already")]
    Twice(#[from] TryInitError),
}

/// Telemetry that is running; shut it down last, so that the last spans leave.
#[derive(Debug)]
#[must_use = "spans that are not flushed are lost: call shutdown"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Sets the process's subscriber. Call it inside the tokio runtime, which the exporter uses.
///
/// # Errors
///
/// When a filter or address is malformed, or a subscriber is set already.
pub fn init(config: &TelemetryConfig, service_name: &str) -> Result<Telemetry, TelemetryError> {
    let filter = log_filter(&config.log_level)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let logs: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format {
        LogFormat::Human => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(logs);
    if config.otlp_endpoint.is_empty() {
        subscriber.try_init()?;
        panics::log();
        return Ok(Telemetry { provider: None });
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.otlp_endpoint)
        .build()?;
    let resource = Resource::builder().with_service_name(service_name.to_owned());
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    // Our own spans only: those of h2 and tonic would trace the exporter exporting.
    let ours = Targets::new().with_target("couponmesh", LevelFilter::INFO);
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("couponmesh"))
        .with_filter(ours);
    subscriber.with(spans).try_init()?;
    panics::log();
    EXPORTING.store(true, Ordering::Relaxed);
    Ok(Telemetry {
        provider: Some(provider),
    })
}

/// What is logged at `log_level`.
///
/// # Errors
/// When it does not parse.
pub fn log_filter(
    log_level: &str,
) -> Result<impl Filter<Registry> + Send + Sync + 'static, ParseError> {
    // Further on the bus's client logs its own password, and then whole events, which hold names.
    let discreet = Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_target("async_nats", LevelFilter::INFO);
    Ok(EnvFilter::builder().parse(log_level)?.and(discreet))
}

impl Telemetry {
    /// Sends the spans that are left, within a bounded time.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // It blocks its thread, and the exporter may need this one.
        let flush = move || provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        match tokio::task::spawn_blocking(flush).await {
            Ok(Ok(()) | Err(OTelSdkError::AlreadyShutdown)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not exported"),
            Err(error) => tracing::warn!(%error, "flushing spans failed"),
        }
    }
}

/// Whether spans are exported, so that nobody prepares them in vain.
pub(crate) fn exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(log_level: &str, otlp_endpoint: &str) -> Vec<String> {
        Problems::of(&TelemetryConfig {
            log_level: log_level.to_owned(),
            otlp_endpoint: otlp_endpoint.to_owned(),
            ..TelemetryConfig::default()
        })
    }

    #[test]
    fn filters_and_addresses_that_make_sense_pass() {
        assert!(problems("info", "").is_empty());
        assert!(problems("warn,couponmesh_member=debug", "http://otel:4317").is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        // "inof" alone would be a filter for a module of that name, and the log would stay empty.
        for level in ["inof", "info,couponmesh", "a=b=c"] {
            assert!(problems(level, "")[0].starts_with("log_level must be"));
        }
        assert!(problems("info", "otel:4317")[0].starts_with("otlp_endpoint must be"));
    }
}
