//! `couponmesh run`: all services in one process.

use std::{collections::BTreeSet, error::Error, future::Future, path::Path, time::Duration};

use couponmesh::{
    config::Config,
    listen::is_local,
    node::{Node, ServiceName},
    stack::{Sources, Stack},
};
use couponmesh_runtime::{config::Problems, telemetry};

use crate::{cli::RunArgs, output, stopping::Stopping, supervisor::Supervisor};

/// How long background work may go on after the last call has ended.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) type BoxError = Box<dyn Error>;

/// Runs until SIGTERM, SIGHUP or Ctrl-C.
pub(crate) fn run(args: &RunArgs, file: Option<&Path>) -> Result<(), BoxError> {
    let mut config = Config::load(file)?;
    if let Some(address) = &args.coupon_address {
        config.member.coupon_address.clone_from(address);
        let problems = Problems::of(&config.member);
        if let Some(problem) = problems.first() {
            return Err(format!("--coupon-address: {problem}").into());
        }
    }
    let without: BTreeSet<ServiceName> = args.without.iter().copied().collect();
    let services: BTreeSet<ServiceName> =
        ServiceName::all().difference(&without).copied().collect();
    if services.is_empty() {
        return Err("--without leaves no service to run".into());
    }
    with_telemetry(&config, "couponmesh", async {
        let stopping = Stopping::listen()?;
        let listen = args.listen.resolve().await?;
        let stack = Stack::embedded(&args.data_dir, Sources::system()).await?;
        let node = Node::start(&stack, &config, listen, &services, &without).await;
        let greet = |node: &Node| greet(node, args, &services);
        serve_until_told(&config, stack, node, stopping, greet).await
    })
}

/// Runs a command's future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(future);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(outcome)
}

/// The same with logs and traces.
pub(crate) fn with_telemetry(
    config: &Config,
    service: &str,
    work: impl Future<Output = Result<(), BoxError>>,
) -> Result<(), BoxError> {
    block_on(async {
        let telemetry = telemetry::init(&config.telemetry, service)?;
        let outcome = work.await;
        telemetry.shutdown().await;
        outcome
    })?
}

/// Serves until told to stop, or until the bus was not reached for too long or is another installation's; then stops in
/// good order.
pub(crate) async fn serve_until_told<E: Error + 'static>(
    config: &Config,
    stack: Stack,
    node: Result<Node, E>,
    mut stopping: Stopping,
    greet: impl FnOnce(&Node),
) -> Result<(), BoxError> {
    let node = match node {
        Ok(node) => node,
        Err(error) => {
            stack.close().await;
            return Err(error.into());
        }
    };
    greet(&node);
    let mut supervisor = Supervisor::default();
    supervisor.ready();
    let address = node.address();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, "started");
    if !is_local(address) {
        tracing::warn!(
            %address,
            "nobody is authenticated yet: whoever reaches this address can do everything"
        );
    }
    let no_bus = async {
        match stack.bus_reached().await {
            Ok(()) => stack.bus_refused().await,
            Err(error) => error,
        }
    };
    let outcome = tokio::select! {
        () = stopping.told() => Ok(()),
        error = no_bus => Err(error.into()),
    };
    supervisor.stopping();
    tracing::info!("told to stop: running calls come to their end");
    let stopped = async {
        node.stop().await;
        stack.close().await;
    };
    // Whatever is cut off here is safe on the disk and goes on at the next start.
    tokio::select! {
        () = stopped => tracing::info!("stopped"),
        () = tokio::time::sleep(config.grpc.drain_timeout + BACKGROUND_TIMEOUT) => {
            tracing::warn!("background work did not end in time and was cut off");
        }
        () = stopping.told_again() => tracing::warn!("told to stop twice: cut off"),
    }
    outcome
}

/// What a newcomer needs: where it is, where the data is, and one line to try.
fn greet(node: &Node, args: &RunArgs, services: &BTreeSet<ServiceName>) {
    let names: Vec<&str> = services.iter().map(|name| name.name()).collect();
    let (address, data_dir) = (node.address(), args.data_dir.display());
    output::announce(&format!(
        "couponmesh is listening on {address} ({})\n\
         data directory: {data_dir}\n\
         try: grpcurl -plaintext -d '{{\"email\":\"ann@example.com\",\"display_name\":\"Ann\"}}' {address} \
         couponmesh.member.v1.MemberService/RegisterMember\n",
        names.join(", "),
    ));
}
