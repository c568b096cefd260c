//! What must hold in the databases in the end. The bundled PostgreSQL is read through a port of this machine.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

use crate::{
    audit::Auditor,
    binary::{caller::Acknowledged, rest::SERVICES},
    cluster::{Cluster, eventually},
};

/// What was in the four databases when they were opened, and what is in them now.
pub(crate) struct Books {
    cluster: Cluster,
    /// Members.
    before: usize,
}

impl Books {
    pub(crate) async fn open(cluster: &Cluster) -> Self {
        let look = Look::into(cluster).await;
        let sql = "SELECT count(*) FROM members";
        let before = look.auditor.number("member", sql).await;
        Self {
            cluster: cluster.clone(),
            before: usize::try_from(before).unwrap(),
        }
    }

    /// Waits until everything came to rest, and compares every row with what was acknowledged since.
    pub(crate) async fn check(&self, acknowledged: &[Acknowledged]) {
        let look = Look::into(&self.cluster).await;
        look.auditor.check_beside(self.before, acknowledged).await;
    }

    /// Waits until no withdrawal is pending any more; returns how long that took.
    pub(crate) async fn nobody_waits(&self, patience: Duration) -> Duration {
        let begin = Instant::now();
        let look = Look::into(&self.cluster).await;
        let sql = "SELECT count(*) FROM withdrawals WHERE state <> 'COMPLETED'";
        eventually(patience, "no withdrawal is pending", async || {
            (look.auditor.number("member", sql).await == 0).then_some(())
        })
        .await;
        begin.elapsed()
    }
}

/// Connections through the API server, which ends those that rest for long.
struct Look {
    auditor: Auditor,
    _forward: Child,
}

impl Look {
    async fn into(cluster: &Cluster) -> Self {
        let mut forward = cluster.spawn_kubectl(&["port-forward", "pod/postgres-0", ":5432"]);
        let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().unwrap();
        // "Forwarding from 127.0.0.1:38571 -> 5432"
        let address = line.split(' ').nth(2).unwrap().to_owned();
        // It says more with every connection, and ends when nobody listens.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut urls = Vec::new();
        for service in SERVICES {
            let secret = format!("secret/couponmesh-{service}");
            let path = "--output=jsonpath={.data.database-url}";
            let url = cluster.kubectl(&["get", &secret, path]).await;
            let url = String::from_utf8(STANDARD.decode(url).unwrap()).unwrap();
            urls.push((service, url.replace("postgres:5432", &address)));
        }
        let auditor = Auditor::open(|service| {
            let found = urls.iter().find(|(name, _)| *name == service);
            found.unwrap().1.clone()
        })
        .await;
        Self {
            auditor,
            _forward: forward,
        }
    }
}
