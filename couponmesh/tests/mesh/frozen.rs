//! A pod that swallows calls, until Kubernetes notices that its node is lost.

use std::time::Duration;

use crate::{
    callers::{Callers, Promised, register},
    cluster::Cluster,
    freezer::Freezer,
};

/// Nobody probes what runs on a lost node.
pub(crate) const UNPROBED: &str = "rollout.probes=false";
/// How long Kubernetes takes for a lost node.
const LOST: Duration = Duration::from_secs(45);
const READERS: usize = 16;
/// Reads that may wait for the frozen pod: each reader's, once before each of three ejections.
const SLOW: usize = 3 * READERS;

/// What readers see while one of My Page's two pods is frozen.
pub(crate) async fn read_past_a_frozen_pod(cluster: &Cluster) -> Promised {
    let ids = register(cluster, READERS).await;
    let pods = cluster.ready("mypage").await;
    let freezer = Freezer::come(cluster, &pods[0]).await;
    let callers = Callers::begin("frozen pod", cluster, 0, 0, ids);
    tokio::time::sleep(Duration::from_secs(2)).await;
    freezer.freeze(&pods[0]).await;
    tokio::time::sleep(LOST).await;
    let promised = callers.go_home().await;
    freezer.thaw(&pods[0]).await;
    freezer.go().await;
    promised
}

/// The gateway tries another pod, and soon asks the frozen one no more.
pub(crate) fn assert_read(promised: &Promised) {
    let Promised { failed, calls, .. } = promised;
    // One is tolerated: the other pod may have a bad moment, too.
    assert!(failed.len() <= 1, "of {calls} calls failed: {failed:?}");
    let slow = promised.slow_reads;
    assert!(slow <= SLOW, "of {calls} calls {slow} were slow");
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn reads_go_on_while_a_pod_neither_answers_nor_ends() {
    let cluster = Cluster::here();
    cluster.upgrade(&[UNPROBED]).await;
    // The probes come back whatever happens meanwhile.
    let here = cluster.clone();
    let reading = tokio::spawn(async move { read_past_a_frozen_pod(&here).await });
    let promised = reading.await;
    cluster.upgrade(&[]).await;
    assert_read(&promised.unwrap());
}
