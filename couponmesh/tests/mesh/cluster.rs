//! kubectl, helm and istioctl, in the namespace under test.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
};

use crate::binary::process::eventually_within;

/// How long something may take to come up or go.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The services, each a Deployment.
pub(crate) const SERVICES: [&str; 4] = ["coupon", "member", "mypage", "notification"];
/// The label selector of the pods of all of them.
pub(crate) const THEIR_PODS: &str = "app in (coupon,member,mypage,notification)";

/// The installation that `scripts/mesh-test` made.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) namespace: String,
    /// Where the gateway answers.
    pub(crate) gateway: SocketAddr,
    chart: String,
    /// Files of values, with commas between them.
    values: String,
}

impl Cluster {
    /// The one that the environment names.
    pub(crate) fn here() -> Self {
        let var = |name: &str| {
            std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set: run `make mesh-test`"))
        };
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        Self {
            namespace: var("COUPONMESH_MESH_NAMESPACE"),
            gateway: var("COUPONMESH_MESH_GATEWAY").parse().unwrap(),
            chart: format!("{root}/helm/couponmesh"),
            values: var("COUPONMESH_MESH_VALUES"),
        }
    }

    /// Runs kubectl in the namespace and returns what it printed.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).await.unwrap()
    }

    /// The same; the error is what it complained about.
    pub(crate) async fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.run("kubectl", arguments, "").await
    }

    /// Applies YAML.
    pub(crate) async fn apply(&self, yaml: &str) {
        self.apply_in(&self.namespace, yaml).await;
    }

    /// Applies YAML in another namespace.
    pub(crate) async fn apply_in(&self, namespace: &str, yaml: &str) {
        let apply = ["--namespace", namespace, "apply", "-f", "-"];
        self.run("kubectl", &apply, yaml).await.unwrap();
    }

    /// Deletes from there what [`apply_in`](Self::apply_in) made, if it did.
    pub(crate) async fn delete_in(&self, namespace: &str, yaml: &str) {
        let delete = [
            "--namespace",
            namespace,
            "delete",
            "--ignore-not-found",
            "-f",
            "-",
        ];
        self.run("kubectl", &delete, yaml).await.unwrap();
    }

    /// Runs istioctl in the namespace and reads the JSON that it prints.
    pub(crate) async fn istioctl(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let printed = self.run("istioctl", &all, "").await.unwrap();
        serde_json::from_str(&printed).unwrap()
    }

    /// Upgrades the release to the test's values and `set` above them, and waits until that is rolled out.
    pub(crate) async fn upgrade(&self, set: &[&str]) {
        self.start_upgrade(set).await;
        self.settled().await;
    }

    /// The same without waiting.
    pub(crate) async fn start_upgrade(&self, set: &[&str]) {
        let mut arguments = vec![
            "upgrade",
            "couponmesh",
            &self.chart,
            "--values",
            &self.values,
        ];
        for value in set {
            arguments.extend(["--set", value]);
        }
        self.run("helm", &arguments, "").await.unwrap();
    }

    /// Runs helm in the namespace.
    pub(crate) async fn helm(&self, arguments: &[&str]) -> String {
        self.run("helm", arguments, "").await.unwrap()
    }

    /// Waits until every service is rolled out and no pod of an older state is left.
    pub(crate) async fn settled(&self) {
        for service in SERVICES {
            let deployment = format!("deployment/{service}");
            self.kubectl(&["rollout", "status", &deployment, "--timeout=180s"])
                .await;
        }
        eventually(PATIENCE, "no pod is on its way out", async || {
            let pods = self.pods(THEIR_PODS).await;
            pods.iter().all(|pod| pod.ready).then_some(())
        })
        .await;
    }

    /// The pods of that label selector which are not gone yet.
    pub(crate) async fn pods(&self, selector: &str) -> Vec<Pod> {
        let printed = self
            .kubectl(&["get", "pods", "--selector", selector, "--output", "json"])
            .await;
        let list: Value = serde_json::from_str(&printed).unwrap();
        let items = list["items"].as_array().unwrap();
        items.iter().map(Pod::read).collect()
    }

    /// The names of a service's pods that are ready.
    pub(crate) async fn ready(&self, service: &str) -> Vec<String> {
        let pods = self.pods(&format!("app={service}")).await;
        let ready = pods.into_iter().filter(|pod| pod.ready);
        ready.map(|pod| pod.name).collect()
    }

    /// Gives a service that many pods, and waits for them.
    pub(crate) async fn scale(&self, service: &str, replicas: usize) {
        let replicas_argument = format!("--replicas={replicas}");
        let deployment = format!("deployment/{service}");
        self.kubectl(&["scale", &deployment, &replicas_argument])
            .await;
        eventually(PATIENCE, "the pods are as many as asked for", async || {
            let pods = self.pods(&format!("app={service}")).await;
            let right = pods.len() == replicas && pods.iter().all(|pod| pod.ready);
            right.then_some(())
        })
        .await;
    }

    /// Starts kubectl in the background; it ends with the value.
    pub(crate) fn spawn_kubectl(&self, arguments: &[&str]) -> Child {
        self.command("kubectl", arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .kill_on_drop(true)
            .stdin(Stdio::null());
        command
    }

    async fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = self
            .command(program, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        // A program that wants no input may be gone already.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program} {}: {complaint}", arguments.join(" ")))
    }
}

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    /// Ready, and not told to go.
    pub(crate) ready: bool,
}

impl Pod {
    fn read(pod: &Value) -> Self {
        let conditions = pod["status"]["conditions"].as_array();
        let ready = conditions.is_some_and(|conditions| {
            conditions
                .iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        });
        let going = !pod["metadata"]["deletionTimestamp"].is_null();
        Self {
            name: pod["metadata"]["name"].as_str().unwrap().to_owned(),
            ready: ready && !going,
        }
    }
}

/// Looks twice a second: a look costs a process here.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    eventually_within(patience, what, || {
        let look = look();
        async {
            let seen = look.await;
            if seen.is_none() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            seen
        }
    })
    .await
}
