//! A pod that neither answers nor closes a connection, as on a node that was lost.

use serde_json::json;

use crate::cluster::{Cluster, PATIENCE, eventually};

const POD: &str = "freezer";

/// A privileged pod that stops every process of other pods on its node.
pub(crate) struct Freezer {
    cluster: Cluster,
}

impl Freezer {
    /// On the node of `beside`.
    pub(crate) async fn come(cluster: &Cluster, beside: &str) -> Self {
        // Any image with a shell; this one is there already.
        let image = "--output=jsonpath={.spec.template.spec.containers[0].image}";
        let image = cluster
            .kubectl(&["get", "statefulset", "postgres", image])
            .await;
        let node = "--output=jsonpath={.spec.nodeName}";
        let node = cluster.kubectl(&["get", "pod", beside, node]).await;
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": POD, "labels": { "app": POD, "sidecar.istio.io/inject": "false" } },
            "spec": {
                "hostPID": true,
                "nodeName": node,
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": POD,
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sleep", "infinity"],
                    "securityContext": { "privileged": true, "runAsUser": 0, "runAsGroup": 0 },
                }],
            },
        });
        cluster.apply(&manifest.to_string()).await;
        eventually(PATIENCE, "the freezer is there", async || {
            let pods = cluster.pods(&format!("app={POD}")).await;
            pods.iter().any(|pod| pod.ready).then_some(())
        })
        .await;
        Self {
            cluster: cluster.clone(),
        }
    }

    /// Stops every process of a pod.
    pub(crate) async fn freeze(&self, pod: &str) {
        self.signal(pod, "STOP").await;
    }

    /// Lets them go on.
    pub(crate) async fn thaw(&self, pod: &str) {
        self.signal(pod, "CONT").await;
    }

    async fn signal(&self, pod: &str, signal: &str) {
        let uid = "--output=jsonpath={.metadata.uid}";
        let uid = self.cluster.kubectl(&["get", "pod", pod, uid]).await;
        // Where systemd makes the groups, the id is written with underscores.
        let groups = format!("{uid}|{}", uid.replace('-', "_"));
        let script = format!(
            "for process in /proc/[0-9]*; do \
               if grep -qsE '{groups}' $process/cgroup; then kill -{signal} ${{process#/proc/}} && echo $process; fi; \
             done"
        );
        let told = self
            .cluster
            .kubectl(&["exec", POD, "--", "sh", "-c", &script])
            .await;
        assert!(told.lines().count() > 1, "{pod} has no processes: {told}");
    }

    pub(crate) async fn go(self) {
        self.cluster
            .kubectl(&["delete", "pod", POD, "--wait=true"])
            .await;
    }
}
