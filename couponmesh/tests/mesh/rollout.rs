//! Pods come and go under load, and no caller notices.

use std::time::{Duration, Instant};

use couponmesh_runtime::Random;

use crate::{
    books::Books,
    callers::{Callers, Promised, register},
    cluster::{Cluster, PATIENCE, SERVICES, THEIR_PODS, eventually},
    soak::{pick, say},
};

/// Calls at the gateway while `happening` happens, and what must hold afterwards. Returns what was promised.
async fn under_load(
    cluster: &Cluster,
    test: &'static str,
    happening: impl Future<Output = ()>,
) -> Promised {
    let pages = register(cluster, 2).await;
    let books = Books::open(cluster).await;
    let callers = Callers::begin(test, cluster, 4, 4, pages);
    callers.go_on(20).await;
    happening.await;
    callers.go_on(20).await;
    let promised = callers.go_home().await;
    books.check(&promised.acknowledged).await;
    promised
}

/// Every service is rolled out anew. No call fails.
pub(crate) async fn nothing_fails_in_a_rollout(cluster: &Cluster) {
    let promised = roll(cluster).await;
    promised.assert_kept();
}

/// Every service is rolled out anew.
pub(crate) async fn roll(cluster: &Cluster) -> Promised {
    under_load(cluster, "rollout", async {
        for service in SERVICES {
            let deployment = format!("deployment/{service}");
            cluster.kubectl(&["rollout", "restart", &deployment]).await;
            cluster.settled().await;
        }
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn no_call_fails_while_every_service_is_rolled_out() {
    nothing_fails_in_a_rollout(&Cluster::here()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn no_call_fails_while_random_pods_are_deleted() {
    let cluster = Cluster::here();
    let random = Random::seeded(5);
    let promised = under_load(&cluster, "deleted pods", async {
        let end = Instant::now() + Duration::from_secs(pick(30, 180));
        while Instant::now() < end {
            let service = SERVICES[random.below(SERVICES.len())];
            let ready = cluster.ready(service).await;
            // Somebody has to be left: one pod of two is what a budget would let go.
            if ready.len() > 1 {
                let pod = &ready[random.below(ready.len())];
                cluster
                    .kubectl(&["delete", "pod", pod, "--wait=false"])
                    .await;
                say("deleted pods", pod);
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        cluster.settled().await;
    })
    .await;
    promised.assert_kept();
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn a_release_is_rolled_back_under_load() {
    let cluster = Cluster::here();
    let promised = under_load(&cluster, "rollback", async {
        // A change that rolls every pod.
        cluster
            .upgrade(&["defaults.config=[mypage]\nwait = \"4s\""])
            .await;
        cluster.helm(&["rollback", "couponmesh"]).await;
        cluster.settled().await;
    })
    .await;
    promised.assert_kept();
}

/// The cluster has one node, so that the pods that were evicted find no other: at some point the budget says no.
#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn a_drained_node_keeps_one_pod_of_each_service() {
    let cluster = Cluster::here();
    let nodes = "--output=jsonpath={.items[*].metadata.name}";
    let nodes = cluster.kubectl(&["get", "nodes", nodes]).await;
    let [node] = nodes.split(' ').collect::<Vec<_>>()[..] else {
        println!("NOT TESTED: the cluster has more than one node");
        return;
    };
    let promised = under_load(&cluster, "drain", async {
        let drained = cluster
            .try_kubectl(&[
                "drain",
                node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                &format!("--pod-selector={THEIR_PODS}"),
                "--timeout=45s",
            ])
            .await;
        // In any case, and before anything else can fail. No replacement is ready as soon as that.
        cluster.kubectl(&["uncordon", node]).await;
        let left = cluster.pods(THEIR_PODS).await;
        let refused = drained.unwrap_err();
        assert!(refused.contains("disruption budget"), "{refused}");
        for service in SERVICES {
            let stayed = left
                .iter()
                .filter(|pod| pod.ready && pod.name.starts_with(service));
            assert_eq!(stayed.count(), 1, "{service}: {left:?}");
        }
        eventually(PATIENCE, "the evicted pods are replaced", async || {
            let pods = cluster.pods(THEIR_PODS).await;
            let ready = pods.iter().filter(|pod| pod.ready).count();
            (ready == 2 * SERVICES.len()).then_some(())
        })
        .await;
    })
    .await;
    promised.assert_kept();
}
