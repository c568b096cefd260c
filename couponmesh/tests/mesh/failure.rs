//! A coupon service that fails: the circuit opens, and what waited completes when it is back.

use std::time::{Duration, Instant};

use couponmesh_proto::member::v1::PendingReason;

use crate::{
    books::Books,
    callers::{Answer, Callers, latencies, register, withdraw},
    cluster::{Cluster, eventually},
    fault::{Fault, all_closed},
    sidecar::Sidecar,
    soak::{pick, say},
};

/// Withdrawals that wait for the end of an outage.
const WAITING: usize = 1_000;
/// How long a pod gets no cancels: `breaker.baseEjectionTime`. Each ejection in a row lasts that
/// much longer.
const EJECTION: Duration = Duration::from_secs(5);
/// What may pass on top until all that waited is done.
const AFTER: Duration = Duration::from_secs(15);
/// How long it may take until every pod failed often enough.
const OPENING: Duration = Duration::from_secs(60);

/// The longest ejection of a pod that failed for that long.
fn longest_ejection(outage: Duration) -> Duration {
    let (mut last, mut all) = (EJECTION, EJECTION);
    while all < outage {
        last += EJECTION;
        all += last;
    }
    last
}

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
        // The first may be back when the last one goes.
        let now = eventually(OPENING, "every pod of coupon is ejected", async || {
            let now = sidecar.breaker().await;
            (now.ejections - before.ejections >= pods).then_some(now)
        })
        .await;
        say(
            test,
            &format!(
                "open after {:.1?}; member's sidecar made {} calls to {pods} pods and ejected {}",
                begin.elapsed(),
                now.calls - before.calls,
                now.ejections - before.ejections
            ),
        );
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
    assert!(waiting.iter().all(Answer::is_pending));
    // The others came after an ejection had ended, before three calls of each pod had failed again.
    let spared = spared(&waiting);
    say(
        test,
        &format!("{spared} of {} did not reach coupon", waiting.len()),
    );
    assert!(spared * 5 >= waiting.len() * 4, "{spared}");
    callers.go_on(20).await;

    Fault::None.set(cluster).await;
    let outage = begin.elapsed();
    waiting.append(&mut found_out);
    let patience = longest_ejection(outage) + AFTER;
    let took = books.nobody_waits(patience).await;
    say(
        test,
        &format!(
            "{} withdrawals completed {took:.1?} after coupon was well, which took {outage:.0?}",
            waiting.len()
        ),
    );
    let promised = callers.go_home().await;
    promised.assert_kept();
    books.check(&promised.acknowledged).await;
}

/// How many of them were told at once that no pod of coupon gets cancels.
fn spared(answers: &[Answer]) -> usize {
    let known = answers
        .iter()
        .filter(|answer| answer.is_because(PendingReason::NoHealthyUpstream));
    known.count()
}

/// Ejections grow meanwhile, and what waits has to wait for the last of them.
#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn a_long_outage_is_over_for_all_who_wait_when_the_last_ejection_is() {
    const TEST: &str = "long outage";
    const LEAVING: usize = 20;
    let cluster = Cluster::here();
    let outage = Duration::from_secs(pick(45, 360));
    // Somebody leaves every few seconds: without calls no pod is ejected anew.
    let rounds = outage.as_secs() / 3;
    all_closed(&cluster).await;
    let ids = register(&cluster, usize::try_from(rounds).unwrap() * LEAVING).await;
    let books = Books::open(&cluster).await;
    let callers = Callers::begin(TEST, &cluster, 4, 0, Vec::new());
    let sidecars = Sidecar::of_members(&cluster).await;
    let mut before = Vec::new();
    for sidecar in &sidecars {
        before.push(sidecar.breaker().await);
    }
    Fault::Unavailable.set(&cluster).await;
    let begin = Instant::now();
    let mut waiting = Vec::new();
    for leaving in ids.chunks(LEAVING) {
        waiting.append(&mut withdraw(&cluster, leaving, LEAVING).await);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    for (sidecar, before) in sidecars.iter().zip(&before) {
        let now = sidecar.breaker().await;
        let (calls, ejections) = (now.calls - before.calls, now.ejections - before.ejections);
        let seen = format!("in {:.0?} {calls} calls reached coupon", begin.elapsed());
        say(TEST, &format!("{seen}, and {ejections} ejections"));
    }
    assert!(waiting.iter().all(Answer::is_pending));
    Fault::None.set(&cluster).await;
    let patience = longest_ejection(begin.elapsed()) + AFTER;
    let took = books.nobody_waits(patience).await;
    let (count, spared) = (waiting.len(), spared(&waiting));
    let figures = format!("{count} withdrawals, {spared} of them spared, completed {took:.1?}");
    say(
        TEST,
        &format!("{figures} after it (at most {patience:.0?})"),
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
