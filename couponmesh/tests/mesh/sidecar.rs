//! What a sidecar counts and how it is configured.

use serde_json::Value;

use crate::cluster::Cluster;

/// The port of every service.
pub(crate) const PORT: u16 = 50_051;
/// The subset that CancelCoupon goes through.
pub(crate) const SUBSET: &str = "cancel";

/// The Envoy beside a pod's app.
#[derive(Clone, Debug)]
pub(crate) struct Sidecar<'a> {
    cluster: &'a Cluster,
    pod: String,
}

/// What member's sidecar counts of CancelCoupon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Breaker {
    /// Pods of coupon that get no cancels at the moment.
    pub(crate) ejected: u64,
    /// Ejections so far, for failures in a row.
    pub(crate) ejections: u64,
    /// Calls refused since too many were in flight.
    pub(crate) overflow: u64,
    /// Calls so far.
    pub(crate) calls: u64,
}

impl<'a> Sidecar<'a> {
    pub(crate) fn of(cluster: &'a Cluster, pod: &str) -> Self {
        let pod = pod.to_owned();
        Self { cluster, pod }
    }

    /// The sidecars of member's pods.
    pub(crate) async fn of_members(cluster: &'a Cluster) -> Vec<Self> {
        let pods = cluster.ready("member").await;
        pods.iter().map(|pod| Self::of(cluster, pod)).collect()
    }

    /// The numbers of the circuit breaker.
    pub(crate) async fn breaker(&self) -> Breaker {
        let host = self.host("coupon");
        let filter = format!("stats?format=json&filter={PORT}.{SUBSET}.{host}");
        let stats: Value = serde_json::from_str(&self.admin("GET", &filter).await).unwrap();
        let all = stats["stats"].as_array().unwrap();
        assert!(
            !all.is_empty(),
            "{} keeps no statistics: see proxyStatsMatcher",
            self.pod
        );
        // Envoy makes a counter when it first counts.
        let number = |name: &str| {
            all.iter()
                .filter(|stat| stat["name"].as_str().is_some_and(|is| is.ends_with(name)))
                .find_map(|stat| stat["value"].as_u64())
                .unwrap_or_default()
        };
        Breaker {
            ejected: number(".outlier_detection.ejections_active"),
            ejections: number(".outlier_detection.ejections_enforced_consecutive_gateway_failure"),
            overflow: number(".upstream_rq_active_overflow"),
            calls: number(".upstream_rq_total"),
        }
    }

    /// Calls Envoy's administration.
    pub(crate) async fn admin(&self, method: &str, path: &str) -> String {
        let command = ["pilot-agent", "request", method, path];
        let mut arguments = vec!["exec", &self.pod, "--container", "istio-proxy", "--"];
        arguments.extend(command);
        self.cluster.kubectl(&arguments).await
    }

    /// How the sidecar knows a service, or a subset of it.
    pub(crate) async fn cluster_of(&self, service: &str, subset: &str) -> Vec<Value> {
        let host = self.host(service);
        let pod = self.address();
        let mut arguments = vec!["proxy-config", "cluster", &pod, "--fqdn", &host];
        arguments.extend(["--direction", "outbound", "--subset", subset]);
        match self.cluster.istioctl(&arguments).await {
            Value::Array(clusters) => clusters,
            _ => Vec::new(),
        }
    }

    /// The routes by which the sidecar sends calls to a service.
    pub(crate) async fn routes_to(&self, service: &str) -> Vec<Value> {
        let (pod, port) = (self.address(), PORT.to_string());
        let arguments = ["proxy-config", "route", &pod, "--name", &port];
        let config = self.cluster.istioctl(&arguments).await;
        let hosts = config[0]["virtualHosts"].as_array().unwrap().iter();
        let prefix = self.host(service);
        let host = hosts
            .into_iter()
            .find(|host| host["name"].as_str().unwrap().starts_with(&prefix));
        let host = host.unwrap_or_else(|| panic!("no route to {service} in {config}"));
        host["routes"].as_array().unwrap().clone()
    }

    fn address(&self) -> String {
        format!("{}.{}", self.pod, self.cluster.namespace)
    }

    fn host(&self, service: &str) -> String {
        format!("{service}.{}.svc.cluster.local", self.cluster.namespace)
    }
}
