//! A coupon service that fails: the circuit opens, and what waited completes when it is back.

use std::time::{Duration, Instant};

use couponmesh_proto::member::v1::PendingReason;

use crate::{
    books::Books,
    callers::{Callers, latencies, register, withdraw},
    cluster::{Cluster, eventually},
    fault::{Fault, all_closed},
    sidecar::Sidecar,
    soak::say,
};

/// Withdrawals that wait for the end of an outage.
const WAITING: usize = 1_000;
/// How long a pod gets no cancels: `breaker.baseEjectionTime`.
const EJECTION: Duration = Duration::from_secs(30);
/// What may pass on top until all that waited is done.
const AFTER: Duration = Duration::from_secs(15);

/// The circuit opens, withdrawals are PENDING at once, registrations go on, and all completes in time.
pub(crate) async fn an_outage_opens_the_circuit(
    cluster: &Cluster,
    test: &'static str,
    fault: Fault,
) {
    all_closed(cluster).await;
    let (first, rest) = (
        register(cluster, 24).await,
        register(cluster, WAITING).await,
    );
    let books = Books::open(cluster).await;
    let callers = Callers::begin(test, cluster, 4, 0, Vec::new());
    let sidecars = Sidecar::of_members(cluster).await;
    let pods = cluster.ready("coupon").await.len() as u64;
    let mut before = Vec::new();
    for sidecar in &sidecars {
        before.push(sidecar.breaker().await);
    }

    fault.set(cluster).await;
    let begin = Instant::now();
    // Those who find out. Spread over member's pods by the gateway, and over coupon's by each sidecar.
    let mut found_out = withdraw(cluster, &first, 4).await;
    say(
        test,
        &format!("while the circuit closed: {}", latencies(&found_out)),
    );
    for (sidecar, before) in sidecars.iter().zip(&before) {
        eventually(2 * EJECTION, "every pod of coupon is ejected", async || {
            (sidecar.breaker().await.ejected == pods).then_some(())
        })
        .await;
        let now = sidecar.breaker().await;
        say(
            test,
            &format!(
                "open after {:.1?}; member's sidecar made {} calls to {pods} pods and ejected {}",
                begin.elapsed(),
                now.calls - before.calls,
                now.ejected
            ),
        );
        assert_eq!(now.ejections - before.ejections, pods, "{now:?}");
        // Three each, and what was under way when the third failed.
        assert!(now.calls - before.calls >= 3 * pods, "{now:?}");
    }

    let (single, rest) = rest.split_at(20);
    let mut waiting = withdraw(cluster, single, 1).await;
    let one_by_one = latencies(&waiting);
    say(test, &format!("one by one while it is open: {one_by_one}"));
    waiting.append(&mut withdraw(cluster, rest, 32).await);
    say(
        test,
        &format!(
            "{} withdrawals while it is open: {}",
            waiting.len(),
            latencies(&waiting)
        ),
    );
    for answer in &waiting {
        let known = answer.is_because(PendingReason::NoHealthyUpstream);
        assert!(known, "{answer:?}");
    }
    callers.go_on(20).await;

    Fault::None.set(cluster).await;
    waiting.append(&mut found_out);
    let took = books.nobody_waits(EJECTION + AFTER).await;
    say(
        test,
        &format!(
            "{} withdrawals completed {took:.1?} after coupon was well",
            waiting.len()
        ),
    );
    let promised = callers.go_home().await;
    promised.assert_kept();
    books.check(&promised.acknowledged).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn the_circuit_opens_when_coupon_answers_unavailable() {
    an_outage_opens_the_circuit(&Cluster::here(), "unavailable", Fault::Unavailable).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn the_circuit_opens_when_coupon_hangs() {
    an_outage_opens_the_circuit(&Cluster::here(), "hanging", Fault::HANGING).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn withdrawals_wait_for_a_coupon_service_that_has_no_pods() {
    const TEST: &str = "no pods";
    let cluster = Cluster::here();
    all_closed(&cluster).await;
    let pods = cluster.ready("coupon").await.len();
    let ids = register(&cluster, WAITING).await;
    let books = Books::open(&cluster).await;
    let callers = Callers::begin(TEST, &cluster, 4, 0, Vec::new());
    cluster.scale("coupon", 0).await;
    let waiting = withdraw(&cluster, &ids, 32).await;
    say(
        TEST,
        &format!("{} withdrawals: {}", waiting.len(), latencies(&waiting)),
    );
    for answer in &waiting {
        let known = answer.is_because(PendingReason::NoHealthyUpstream);
        assert!(known, "{answer:?}");
    }
    callers.go_on(20).await;
    cluster.scale("coupon", pods).await;
    let took = books.nobody_waits(EJECTION + AFTER).await;
    say(
        TEST,
        &format!(
            "{} withdrawals completed {took:.1?} after its pods were back",
            waiting.len()
        ),
    );
    let promised = callers.go_home().await;
    promised.assert_kept();
    books.check(&promised.acknowledged).await;
}
