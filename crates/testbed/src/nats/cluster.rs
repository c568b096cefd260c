//! Three NATS servers of a test's own that are one cluster.

use super::{Events, Nats, free_port};

const SERVERS: usize = 3;

/// A running cluster with JetStream. Its servers are named `nats-0`, `nats-1` and `nats-2`.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<Nats>,
}

impl NatsCluster {
    /// Starts three servers with empty stores. They take some seconds to elect a leader.
    #[must_use]
    pub fn start() -> Self {
        loop {
            let mut servers = servers();
            // Another program may have taken one of the ports meanwhile.
            if servers.iter_mut().all(Nats::try_start) {
                return Self { servers };
            }
        }
    }

    /// Where they listen, with commas between them.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.servers.iter().map(Nats::url).collect();
        urls.join(",")
    }

    /// The cluster's stream of all events.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.url())
    }

    /// Ends the server with that name, and deletes everything that it had.
    pub fn lose(&mut self, name: &str) {
        let server = self.server(name);
        server.kill();
        server.lose_store();
    }

    /// Starts it again.
    pub fn restart(&mut self, name: &str) {
        self.server(name).restart();
    }

    fn server(&mut self, name: &str) -> &mut Nats {
        let index: usize = name.strip_prefix("nats-").unwrap().parse().unwrap();
        &mut self.servers[index]
    }
}

/// Three servers that know of each other, and do not run yet.
fn servers() -> Vec<Nats> {
    let ports: Vec<u16> = std::iter::repeat_with(free_port).take(SERVERS).collect();
    let routes: Vec<String> = ports
        .iter()
        .map(|port| format!("nats://127.0.0.1:{port}"))
        .collect();
    let config = |(index, port): (usize, &u16)| {
        format!(
            "server_name: nats-{index}\n\
             cluster {{ name: couponmesh, listen: 127.0.0.1:{port}, routes: [{}] }}\n",
            routes.join(", ")
        )
    };
    let configs = ports.iter().enumerate().map(config);
    configs.map(|more| Nats::new(more, "")).collect()
}
