//! Logs to stderr, spans to an OpenTelemetry collector when there is one, and the trace context
//! that travels in either case.

mod filter;
mod panics;
mod traceparent;

use std::{
    env,
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
    Layer, Registry,
    filter::{ParseError, Targets},
    layer::SubscriberExt as _,
    util::{SubscriberInitExt as _, TryInitError},
};

pub use self::{
    filter::log_filter,
    traceparent::{
        TRACEPARENT_HEADER, child_of, is_traceparent, request_id_of, set_parent, traceparent_of,
    },
};
use crate::{
    config::{Problems, Validate, serialize_url},
    lines::Lines,
};

/// How long the last spans may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the last lines may take to be written.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether spans are exported. A process has one subscriber, and this says what is in it.
static EXPORTING: AtomicBool = AtomicBool::new(false);

/// What is logged and where spans go.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// For people or for machines.
    pub log_format: LogFormat,
    /// What to log: a level, or directives like `info,couponmesh_member=debug`. Some libraries that
    /// say much are quieter as long as no directive names them.
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
        if !filter::is_filter(&self.log_level) {
            let level = &self.log_level;
            problems.add(
                "log_level",
                format_args!("must be a filter like \"info\", is {level:?}"),
            );
        }
        // Plain text only: inside the mesh the sidecar encrypts.
        let endpoint = &self.otlp_endpoint;
        let is_url = endpoint.starts_with("http://") && endpoint.parse::<http::Uri>().is_ok();
        if !endpoint.is_empty() && !is_url {
            // What it is could quote a password.
            problems.add(
                "otlp_endpoint",
                "must be a URL such as http://otel-collector:4317, or empty",
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
    /// There is no descriptor or thread for the log.
    #[error("the log cannot be written")]
    Log(#[from] io::Error),
    /// The exporter cannot be built.
    #[error("span exporter cannot be built")]
    Exporter(#[from] ExporterBuildError),
    /// Something else set the process's subscriber.
    #[error("telemetry is set up already")]
    Twice(#[from] TryInitError),
}

/// Telemetry that is running; shut it down last, so that the last spans and lines leave.
#[derive(Debug)]
#[must_use = "spans that are not flushed are lost: call shutdown"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    log: Lines,
}

/// Sets the process's subscriber. Call it inside the tokio runtime, which the exporter uses.
///
/// # Errors
///
/// When a filter or address is malformed, or a subscriber is set already.
pub fn init(config: &TelemetryConfig, service_name: &str) -> Result<Telemetry, TelemetryError> {
    let filter = log_filter(&config.log_level)?;
    // At level error, which every filter but "off" lets through.
    let log = Lines::to(io::stderr(), |lost| {
        tracing::error!(
            lost,
            "log lines were lost: nobody read them, or the disk was full"
        );
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(log.clone())
        .with_ansi(wants_colors());
    let logs: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format {
        LogFormat::Human => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(logs);
    if config.otlp_endpoint.is_empty() {
        subscriber.try_init()?;
        panics::log();
        return Ok(Telemetry {
            provider: None,
            log,
        });
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
        log,
    })
}

/// Whether standard error is a terminal whose user has nothing against colours (no-color.org).
fn wants_colors() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !refused
}

impl Telemetry {
    /// Sends the spans and writes the log lines that are left, each within a bounded time: a
    /// collector that hangs and a pipe that nobody reads do not hold up the end.
    pub async fn shutdown(mut self) {
        let Some(provider) = self.provider.take() else {
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

/// Not in `shutdown`, so that the lines of a panic are written as well.
impl Drop for Telemetry {
    fn drop(&mut self) {
        self.log.flush(LAST_LINES_TIMEOUT);
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
