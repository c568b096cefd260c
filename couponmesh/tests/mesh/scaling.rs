//! More pods under load, and fewer afterwards.

use crate::{
    callers::Callers,
    cluster::{Cluster, PATIENCE, eventually},
    soak::say,
};

const TEST: &str = "autoscaling";

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn coupon_gets_more_pods_under_load_and_fewer_afterwards() {
    let cluster = Cluster::here();
    cluster
        .upgrade(&[
            "services.coupon.autoscaling.enabled=true",
            "services.coupon.autoscaling.minReplicas=1",
            "services.coupon.autoscaling.maxReplicas=3",
            "services.coupon.autoscaling.scaleDownStabilizationSeconds=15",
        ])
        .await;
    let have = async |what: &str, enough: fn(usize) -> bool| {
        eventually(PATIENCE, what, async || {
            let pods = cluster.ready("coupon").await.len();
            enough(pods).then_some(pods)
        })
        .await
    };
    let few = have("one pod is enough without load", |pods| pods == 1).await;
    let callers = Callers::begin(TEST, &cluster, 16, 0, Vec::new());
    let many = have("load brings more pods", |pods| pods > 1).await;
    let promised = callers.go_home().await;
    promised.assert_kept();
    let after = have("without load one is enough again", |pods| pods == 1).await;
    say(
        TEST,
        &format!("{few} pod, {many} under load, {after} afterwards"),
    );
    // Before Helm says how many pods there are: an autoscaler that still acts then takes the number over, and the next upgrade
    // conflicts with it (docs/kubernetes.md).
    let autoscaler = ["delete", "horizontalpodautoscaler", "coupon"];
    cluster.kubectl(&autoscaler).await;
    cluster.upgrade(&[]).await;
}
