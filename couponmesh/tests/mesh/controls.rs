//! Whether the tests can fail: each protection is taken away, and the test that is named for it has to go red.
//!
//! `make mesh-soak` runs them.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;

use crate::{
    cluster::Cluster,
    failure::an_outage_opens_the_circuit,
    fault::Fault,
    frozen::{UNPROBED, assert_read, read_past_a_frozen_pod},
    gateway::large_headers_are_refused,
    overload::{refused_of, the_sidecar_refuses_what_is_too_much},
    policies::only_member_may_cancel,
    rollout::{nothing_fails_in_a_rollout, roll},
    settings::{the_breaker_is_as_installed, the_gateway_is_as_installed},
    soak::say,
};

/// What comes out, or what it complained about.
async fn caught<T>(running: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(running)
        .catch_unwind()
        .await
        .map_err(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            text.unwrap_or_default()
        })
}

/// Runs a test that has to fail, and returns what it complained about; none when it stayed green.
async fn complaint(running: impl Future<Output = ()>) -> Option<String> {
    caught(running).await.err()
}

/// The test went red, and for the reason that its complaint has to name. To be asked when everything is as it was again:
/// the tests that follow need it.
fn assert_red(test: &str, complaint: Option<&str>, reason: &str) {
    let complaint = complaint.unwrap_or_else(|| panic!("{test}: stayed green"));
    assert!(
        complaint.contains(reason),
        "{test}: red for another reason: {complaint}"
    );
    let short: String = complaint.chars().take(300).collect();
    say(test, &format!("red, as it should be: {short}"));
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-soak"]
async fn control_an_ejection_limit_of_ten_percent_opens_no_circuit() {
    let cluster = Cluster::here();
    cluster
        .upgrade(&["istio.breaker.maxEjectionPercent=10"])
        .await;
    let settings = complaint(the_breaker_is_as_installed(&cluster)).await;
    let outage = an_outage_opens_the_circuit(&cluster, "control", Fault::Unavailable);
    let failure = complaint(outage).await;
    Fault::None.set(&cluster).await;
    cluster.upgrade(&[]).await;
    assert_red("settings", settings.as_deref(), "maxEjectionPercent in");
    assert_red(
        "failure",
        failure.as_deref(),
        "every pod of coupon is ejected",
    );
}

/// Changes the mesh's route to coupon by a JSON patch, as an operator's slip would.
async fn patch_route(cluster: &Cluster, patch: &str) {
    let patch = format!("--patch={patch}");
    let what = ["patch", "virtualservice", "coupon", "--type=json", &patch];
    cluster.kubectl(&what).await;
    // Until every sidecar was told.
    tokio::time::sleep(Duration::from_secs(3)).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-soak"]
async fn control_default_retries_are_seen() {
    let cluster = Cluster::here();
    let remove = r#"[{"op":"remove","path":"/spec/http/0/retries"}]"#;
    patch_route(&cluster, remove).await;
    let settings = complaint(the_breaker_is_as_installed(&cluster)).await;
    let back = r#"[{"op":"add","path":"/spec/http/0/retries","value":{"attempts":0}}]"#;
    patch_route(&cluster, back).await;
    assert_red("settings", settings.as_deref(), "retryOn");
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-soak"]
async fn control_without_the_subset_the_mesh_refuses_nothing() {
    let cluster = Cluster::here();
    // Twice what two sidecars let through, and just what member's own bulkheads do.
    let with = refused_of(&cluster, 128).await;
    let remove = r#"[{"op":"remove","path":"/spec/http/0/route/0/destination/subset"}]"#;
    patch_route(&cluster, remove).await;
    let settings = complaint(the_breaker_is_as_installed(&cluster)).await;
    let overload = complaint(the_sidecar_refuses_what_is_too_much(&cluster)).await;
    Fault::None.set(&cluster).await;
    let without = caught(refused_of(&cluster, 128)).await;
    let back =
        r#"[{"op":"add","path":"/spec/http/0/route/0/destination/subset","value":"cancel"}]"#;
    patch_route(&cluster, back).await;
    let without = without.unwrap();
    say(
        "overload",
        &format!("of 128 at once {with} were refused with the breaker, {without} without"),
    );
    assert!(with > without);
    assert_red(
        "settings",
        settings.as_deref(),
        "the cluster of CancelCoupon",
    );
    assert_red(
        "overload",
        overload.as_deref(),
        "the sidecar refused nothing",
    );
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-soak"]
async fn control_without_probes_and_pre_stop_a_rollout_fails_calls() {
    let cluster = Cluster::here();
    let off = [
        "rollout.probes=false",
        "rollout.preStopSeconds=0",
        "rollout.minReadySeconds=0",
    ];
    cluster.upgrade(&off).await;
    // The gateway's retries save most calls: a rollout fails about five, and once it failed none.
    let mut rollout = None;
    for _ in 0..3 {
        rollout = complaint(nothing_fails_in_a_rollout(&cluster)).await;
        if rollout.is_some() {
            break;
        }
    }
    let without = caught(roll(&cluster)).await;
    cluster.upgrade(&[]).await;
    let with = caught(roll(&cluster)).await;
    let (without, with) = (without.unwrap(), with.unwrap());
    say(
        "rollout",
        &format!(
            "{} of {} calls failed without probes and preStop, {} of {} with them",
            without.failed.len(),
            without.calls,
            with.failed.len(),
            with.calls
        ),
    );
    assert_eq!(with.failed, [""; 0]);
    assert_red("rollout", rollout.as_deref(), "calls failed");
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-soak"]
async fn control_without_ejection_a_frozen_pod_swallows_reads() {
    let cluster = Cluster::here();
    // Ten percent of two pods is none.
    let no_ejection = "istio.ejection.maxEjectionPercent=10";
    cluster.upgrade(&[UNPROBED, no_ejection]).await;
    let settings = complaint(the_gateway_is_as_installed(&cluster)).await;
    let slow = caught(read_past_a_frozen_pod(&cluster)).await;
    let one_try = "istio.ingress.retries.readTimeout=12s";
    cluster.upgrade(&[UNPROBED, no_ejection, one_try]).await;
    let failed = caught(read_past_a_frozen_pod(&cluster)).await;
    cluster.upgrade(&[]).await;
    let slow = complaint(async { assert_read(&slow.unwrap()) }).await;
    let failed = complaint(async { assert_read(&failed.unwrap()) }).await;
    assert_red("settings", settings.as_deref(), "maxEjectionPercent in");
    assert_red("frozen pod", slow.as_deref(), "were slow");
    assert_red("frozen pod", failed.as_deref(), "calls failed");
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-soak"]
async fn control_without_a_limit_at_the_gateway_large_headers_get_in() {
    let cluster = Cluster::here();
    let unlimited = "istio.ingress.maxRequestHeadersKb=0";
    cluster.upgrade(&[unlimited]).await;
    let settings = complaint(the_gateway_is_as_installed(&cluster)).await;
    let headers = complaint(large_headers_are_refused(&cluster)).await;
    cluster.upgrade(&[]).await;
    assert_red("settings", settings.as_deref(), "maxRequestHeadersKb");
    assert_red("large headers", headers.as_deref(), "were let through");
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-soak"]
async fn control_without_deny_all_strangers_get_in() {
    let cluster = Cluster::here();
    cluster
        .kubectl(&["delete", "authorizationpolicy", "deny-all"])
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let policies = complaint(only_member_may_cancel(&cluster)).await;
    cluster.upgrade(&[]).await;
    assert_red("policies", policies.as_deref(), "was let in");
}
