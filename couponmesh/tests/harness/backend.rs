//! What is under a mesh: files and the embedded bus, or PostgreSQL and NATS. Chosen here and nowhere else.

use couponmesh::{
    config::Config,
    node::ServiceName,
    stack::{Sources, Stack},
};
use couponmesh_testbed::{Home, Nats};

use super::{files::File, log::Log};

/// Databases and the bus's store, which outlive a restart.
pub(super) struct Backend(Home);

impl Backend {
    pub(super) async fn new() -> Self {
        let services = ServiceName::all();
        let names: Vec<&str> = services.iter().map(|service| service.name()).collect();
        let logins = ServiceName::logins(&Config::load(None).unwrap());
        let nats = || Nats::start_with_logins(&logins);
        Self(Home::with_bus(&names, nats).await)
    }

    /// The stack that all services share; none where each replica has its own.
    pub(super) async fn shared_stack(&self, sources: &Sources) -> Option<Stack> {
        match &self.0 {
            Home::Files(dir) => {
                let stack = Stack::embedded(dir.path(), sources.clone()).await;
                Some(stack.unwrap())
            }
            Home::Servers { .. } => None,
        }
    }

    /// A replica's own stack, as its own process would have it; none where all share one.
    pub(super) fn own_stack(
        &self,
        config: &Config,
        service: ServiceName,
        sources: &Sources,
    ) -> Option<Stack> {
        let Home::Servers { databases, nats } = &self.0 else {
            return None;
        };
        let mut config = config.clone();
        config.database = couponmesh_testbed::config(&databases.url(service.name()));
        config.bus.url = nats.url_of(service.name());
        Some(Stack::servers(&config, service, sources.clone()))
    }

    /// The database of a service.
    pub(super) async fn file(&self, service: &str) -> File {
        match &self.0 {
            Home::Files(dir) => File::open_sqlite(dir.path(), service).await,
            Home::Servers { databases, .. } => File::connect(&databases.url(service)).await,
        }
    }

    /// What the bus has.
    pub(super) async fn log(&self) -> Log {
        match &self.0 {
            Home::Files(dir) => {
                let mut outboxes = Vec::new();
                for service in ServiceName::all() {
                    let file = File::open_sqlite(dir.path(), service.name()).await;
                    outboxes.push((service.name(), file));
                }
                Log::Outboxes(outboxes)
            }
            Home::Servers { nats, .. } => Log::Stream(nats.events()),
        }
    }

    /// The files of ours in which `needle` stands; none of a server's.
    pub(super) fn files_that_hold(&self, needle: &str) -> Vec<String> {
        let Home::Files(dir) = &self.0 else {
            return Vec::new();
        };
        let needle = needle.to_ascii_lowercase();
        let holds = |path: &std::path::Path| {
            let bytes = std::fs::read(path).unwrap().to_ascii_lowercase();
            String::from_utf8_lossy(&bytes).contains(&needle)
        };
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let found = paths.filter(|path| holds(path));
        found.map(|path| path.display().to_string()).collect()
    }

    /// Removes everything.
    ///
    /// # Panics
    /// When something in a directory is still in use.
    pub(super) fn remove(self) {
        if let Home::Files(dir) = self.0 {
            dir.close().unwrap();
        }
    }
}
