//! A coupon service whose CancelCoupon is slow, hangs or answers UNAVAILABLE.
//!
//! Envoy's own fault filter in coupon's sidecars does it, in front of the app: for the callers it is the service that
//! fails. `fault.yaml` puts the filter there, at nought; its runtime switches are turned here, so that a fault begins
//! and ends at once. Istio's faults in a VirtualService would not do: they are made in the caller's sidecar, before
//! the circuit breaker.

use std::time::Duration;

use crate::{
    cluster::{Cluster, eventually},
    sidecar::Sidecar,
};

/// What CancelCoupon does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Nothing out of the ordinary.
    None,
    /// Answers UNAVAILABLE at once.
    Unavailable,
    /// Waits this long before the app is called. With very long ones it hangs.
    Slow(Duration),
}

impl Fault {
    /// Far longer than anybody waits.
    pub(crate) const HANGING: Self = Self::Slow(Duration::from_secs(600));

    /// Has every pod of coupon behave like that from now on. Pods that come later are well.
    pub(crate) async fn set(self, cluster: &Cluster) {
        let (abort, delay, duration) = match self {
            Self::None => (0, 0, Duration::ZERO),
            Self::Unavailable => (100, 0, Duration::ZERO),
            Self::Slow(duration) => (0, 100, duration),
        };
        let switches = format!(
            "runtime_modify?fault.http.abort.abort_percent={abort}\
             &fault.http.delay.fixed_delay_percent={delay}\
             &fault.http.delay.fixed_duration_ms={}",
            duration.as_millis()
        );
        let pods = cluster.ready("coupon").await;
        assert!(!pods.is_empty(), "coupon has no pods");
        for pod in pods {
            let answer = Sidecar::of(cluster, &pod).admin("POST", &switches).await;
            assert_eq!(answer.trim(), "OK", "{pod}");
        }
    }
}

/// Waits until the breakers of all of member's sidecars are closed: what an earlier test did is over.
pub(crate) async fn all_closed(cluster: &Cluster) {
    eventually(
        Duration::from_secs(120),
        "every circuit is closed",
        async || {
            for sidecar in Sidecar::of_members(cluster).await {
                if sidecar.breaker().await.ejected > 0 {
                    return None;
                }
            }
            Some(())
        },
    )
    .await;
}
