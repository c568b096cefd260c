//! A workload of the namespace that calls what it wants: grpcurl under any service account, with or without a sidecar.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use couponmesh_proto::DESCRIPTORS;
use serde_json::json;

use crate::{
    cluster::{Cluster, PATIENCE, eventually},
    sidecar::PORT,
};

/// The image's tag is the one of `scripts/mesh-test`.
const IMAGE: &str = "couponmesh-stranger:test";
const CONTRACT: &str = "contract";

/// A pod that waits to be told what to call.
pub(crate) struct Stranger {
    cluster: Cluster,
    pod: String,
}

impl Stranger {
    /// One that runs under `account`; outside the mesh without a sidecar. One at a time of each kind.
    pub(crate) async fn come(cluster: &Cluster, account: &str, in_the_mesh: bool) -> Self {
        let pod = format!(
            "stranger-{account}{}",
            if in_the_mesh { "" } else { "-outside" }
        );
        let contract = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": CONTRACT },
            "binaryData": { "contract.binpb": STANDARD.encode(DESCRIPTORS) },
        });
        cluster.apply(&contract.to_string()).await;
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod,
                "labels": { "app": pod, "sidecar.istio.io/inject": in_the_mesh.to_string() },
            },
            "spec": {
                "serviceAccountName": account,
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "containers": [{
                    "name": "stranger",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    // Something that stays: calls are made by hand.
                    "command": ["/couponmesh", "run", "--data-dir", "/data", "--listen", "127.0.0.1:1024"],
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": { "drop": ["ALL"] },
                    },
                    "volumeMounts": [
                        { "name": "contract", "mountPath": "/contract" },
                        { "name": "data", "mountPath": "/data" },
                    ],
                }],
                "volumes": [
                    { "name": "contract", "configMap": { "name": CONTRACT } },
                    { "name": "data", "emptyDir": {} },
                ],
            },
        });
        cluster.apply(&manifest.to_string()).await;
        let stranger = Self {
            cluster: cluster.clone(),
            pod,
        };
        eventually(PATIENCE, "the stranger is there", async || {
            let pods = cluster.pods(&format!("app={}", stranger.pod)).await;
            pods.iter().any(|pod| pod.ready).then_some(())
        })
        .await;
        stranger
    }

    /// Calls `service`'s `method`, e.g. `couponmesh.coupon.v1.CouponService/GetCoupon`; the error is what grpcurl said.
    pub(crate) async fn call(
        &self,
        service: &str,
        method: &str,
        request: &str,
    ) -> Result<String, String> {
        let address = format!("{service}:{PORT}");
        self.cluster
            .try_kubectl(&[
                "exec",
                &self.pod,
                "--container",
                "stranger",
                "--",
                "/grpcurl",
                "-plaintext",
                "-connect-timeout",
                "5",
                "-max-time",
                "10",
                "-protoset",
                "/contract/contract.binpb",
                "-d",
                request,
                &address,
                method,
            ])
            .await
    }

    pub(crate) async fn go(self) {
        let arguments = ["delete", "pod", &self.pod, "--wait=true"];
        self.cluster.kubectl(&arguments).await;
    }
}
