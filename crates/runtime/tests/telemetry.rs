//! Telemetry as `main` uses it. One test: a process has one subscriber.

use std::time::Duration;

use couponmesh_runtime::{
    Context, CorrelationId,
    telemetry::{self, TelemetryConfig, TelemetryError},
};
use tokio::{io::AsyncReadExt as _, net::TcpListener, time::timeout};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_last_spans_leave_and_a_broken_collector_does_not_hold_the_end() {
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = TelemetryConfig {
        otlp_endpoint: format!("http://{}", collector.local_addr().unwrap()),
        ..TelemetryConfig::default()
    };
    let telemetry = telemetry::init(&config, "test").unwrap();
    let twice = telemetry::init(&config, "test").unwrap_err();
    assert!(matches!(twice, TelemetryError::Twice(_)), "{twice:?}");

    let cx = Context::new(CorrelationId::parse("abc").unwrap());
    let span = tracing::info_span!(target: "couponmesh", "work");
    let sent = span.in_scope(|| telemetry::traceparent_of(&cx)).unwrap();
    assert!(telemetry::is_traceparent(&sent), "{sent}");
    drop(span);

    let shutdown = tokio::spawn(telemetry.shutdown());
    let (mut connection, _) = timeout(PATIENCE, collector.accept())
        .await
        .unwrap()
        .unwrap();
    let mut preface = [0; 24];
    connection.read_exact(&mut preface).await.unwrap();
    assert!(preface.starts_with(b"PRI * HTTP/2.0"));
    // It hangs; the flush gives up.
    timeout(PATIENCE, shutdown).await.unwrap().unwrap();
}
