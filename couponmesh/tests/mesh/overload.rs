//! Too many cancels at once.

use std::time::Duration;

use couponmesh_proto::member::v1::PendingReason;

use crate::{
    callers::{completed, latencies, register, withdraw},
    cluster::{Cluster, PATIENCE},
    fault::{Fault, all_closed},
    sidecar::Sidecar,
    soak::say,
    stranger::Stranger,
};

const TEST: &str = "overload";
/// More than the sidecars let through (`breaker.maxRequests`, 32 each), and less than member's own bulkheads (64 each): who
/// is refused is refused by a sidecar.
const AT_ONCE: usize = 100;
/// Below the breaker's timeout: slow, not failing.
const SLOW: Duration = Duration::from_millis(1_500);

/// Above the limit the sidecar answers at once; everything else of coupon goes on; it all completes afterwards.
pub(crate) async fn the_sidecar_refuses_what_is_too_much(cluster: &Cluster) {
    all_closed(cluster).await;
    let desk = Stranger::come(cluster, "desk", true).await;
    let ids = register(cluster, AT_ONCE).await;
    let sidecars = Sidecar::of_members(cluster).await;
    let mut before = Vec::new();
    for sidecar in &sidecars {
        before.push(sidecar.breaker().await);
    }

    Fault::Slow(SLOW).set(cluster).await;
    let leaving = withdraw(cluster, &ids, ids.len());
    let looking = async {
        // While cancels pile up.
        tokio::time::sleep(SLOW / 2).await;
        let method = "couponmesh.coupon.v1.CouponService/ListCoupons";
        desk.call("coupon", method, r#"{"page_size":1}"#).await
    };
    let (answers, listed) = tokio::join!(leaving, looking);
    assert!(
        listed.unwrap().contains("couponId"),
        "other RPCs of coupon go on"
    );

    let refused: Vec<_> = answers
        .iter()
        .filter(|answer| answer.is_because(PendingReason::Overloaded))
        .collect();
    let carried_out = answers.iter().filter(|answer| !answer.is_pending());
    say(
        TEST,
        &format!(
            "{} withdrawals at once, CancelCoupon takes {SLOW:?}: {} PENDING / OVERLOADED ({}), {} completed at once",
            answers.len(),
            refused.len(),
            latencies(refused.iter().copied()),
            carried_out.count(),
        ),
    );
    let mut overflow = 0;
    for (sidecar, before) in sidecars.iter().zip(&before) {
        let now = sidecar.breaker().await;
        say(TEST, &format!("member's sidecar: {before:?}, then {now:?}"));
        overflow += now.overflow - before.overflow;
        // Refusals of its own are no failures of coupon.
        assert_eq!(now.ejections, before.ejections, "{now:?}");
    }
    assert!(overflow > 0, "the sidecar refused nothing");
    assert!(!refused.is_empty());
    // Who is refused does not wait for those who are not.
    let waited = refused.iter().filter(|answer| answer.took >= SLOW).count();
    assert!(waited * 10 < refused.len(), "{waited} of {}", refused.len());

    Fault::None.set(cluster).await;
    let took = completed(cluster, &answers, PATIENCE).await;
    say(
        TEST,
        &format!("all completed {took:.1?} after the overload"),
    );
    desk.go().await;
}

/// How many of `count` members who leave at once are PENDING / OVERLOADED while CancelCoupon is slow.
pub(crate) async fn refused_of(cluster: &Cluster, count: usize) -> usize {
    let ids = register(cluster, count).await;
    Fault::Slow(SLOW).set(cluster).await;
    let answers = withdraw(cluster, &ids, ids.len()).await;
    Fault::None.set(cluster).await;
    completed(cluster, &answers, PATIENCE).await;
    let refused = answers
        .iter()
        .filter(|answer| answer.is_because(PendingReason::Overloaded));
    refused.count()
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn too_many_cancels_are_refused_at_once_hurt_nothing_else_and_complete_later() {
    the_sidecar_refuses_what_is_too_much(&Cluster::here()).await;
}
