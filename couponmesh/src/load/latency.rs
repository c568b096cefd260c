//! Latencies, and the few numbers that tell them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Collects latencies: microseconds to 1 hour, to three digits.
#[derive(Clone, Debug)]
pub(super) struct Latency(Histogram<u64>);

/// What is told of a collection.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq)]
pub(super) struct Summary {
    pub(super) count: u64,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

const HIGHEST_MICROS: u64 = 3_600_000_000;

impl Latency {
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, HIGHEST_MICROS, 3).expect("constant bounds are valid"))
    }

    /// Adds one; above an hour it counts as an hour.
    pub(super) fn record(&mut self, latency: Duration) {
        self.0
            .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// The numbers; `None` when nothing was recorded.
    pub(super) fn summary(&self) -> Option<Summary> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        (!self.0.is_empty()).then(|| Summary {
            count: self.0.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            max_ms: self.0.max() as f64 / 1_000.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_told_in_milliseconds() {
        let mut latency = Latency::new();
        assert_eq!(latency.summary(), None);
        for ms in 1..=100 {
            latency.record(Duration::from_millis(ms));
        }
        let summary = latency.summary().unwrap();
        assert_eq!(summary.count, 100);
        for (told, meant) in [
            (summary.p50_ms, 50.0),
            (summary.p99_ms, 99.0),
            (summary.max_ms, 100.0),
        ] {
            assert!((told - meant).abs() < 0.1, "{told} is not {meant}");
        }
    }

    #[test]
    fn what_is_above_the_highest_value_is_not_lost() {
        let mut latency = Latency::new();
        latency.record(Duration::from_secs(100_000));
        assert_eq!(latency.summary().unwrap().count, 1);
    }
}
