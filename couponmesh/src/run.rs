//! `couponmesh run`.

use std::{collections::BTreeSet, error::Error, future::Future, path::Path, time::Duration};

use couponmesh::{
    config::Config,
    node::{Node, ServiceName},
    stack::{Sources, Stack},
};
use couponmesh_runtime::{config::Problems, telemetry};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::RunArgs;

/// How long background work may go on after the last call has ended.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(5);

type BoxError = Box<dyn Error>;

/// Runs until SIGTERM or Ctrl-C.
pub(crate) fn run(args: &RunArgs, file: Option<&Path>) -> Result<(), BoxError> {
    let mut config = Config::load(file)?;
    if let Some(address) = &args.coupon_address {
        config.member.coupon_address.clone_from(address);
        let problems = Problems::of(&config.member);
        if let Some(problem) = problems.first() {
            return Err(format!("--coupon-address: {problem}").into());
        }
    }
    block_on(serve(args, &config))?
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

async fn serve(args: &RunArgs, config: &Config) -> Result<(), BoxError> {
    let telemetry = telemetry::init(&config.telemetry, "couponmesh")?;
    let outcome = serve_until_told(args, config).await;
    telemetry.shutdown().await;
    outcome
}

async fn serve_until_told(args: &RunArgs, config: &Config) -> Result<(), BoxError> {
    // Before anything is served: a signal that comes early must not go unheard.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let without: BTreeSet<ServiceName> = args.without.iter().copied().collect();
    let services: BTreeSet<ServiceName> =
        ServiceName::all().difference(&without).copied().collect();
    if services.is_empty() {
        return Err("--without leaves no service to run".into());
    }
    let stack = Stack::open(&args.data_dir, &config.messaging, Sources::system()).await?;
    let node = match Node::start(&stack, config, args.listen, &services).await {
        Ok(node) => node,
        Err(error) => {
            stack.close().await;
            return Err(error.into());
        }
    };
    greet(&node, args, &services);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    let stopped = async {
        node.stop().await;
        stack.close().await;
    };
    // Whatever is cut off here is safe on the disk and goes on at the next start.
    tokio::select! {
        () = stopped => {}
        () = tokio::time::sleep(config.grpc.drain_timeout + BACKGROUND_TIMEOUT) => {
            tracing::warn!("background work did not end in time and was cut off");
        }
        _ = terminate.recv() => tracing::warn!("told to stop twice: cut off"),
        _ = interrupt.recv() => tracing::warn!("told to stop twice: cut off"),
    }
    Ok(())
}

/// What a newcomer needs: where it is, where the data is, and one line to try.
fn greet(node: &Node, args: &RunArgs, services: &BTreeSet<ServiceName>) {
    let names: Vec<String> = services
        .iter()
        .map(|name| format!("{name:?}").to_lowercase())
        .collect();
    let (address, data_dir) = (node.address(), args.data_dir.display());
    crate::print(&format!(
        "couponmesh is listening on {address} ({})\n\
         data directory: {data_dir}\n\
         try: grpcurl -plaintext -d '{{\"email\":\"ann@example.com\",\"display_name\":\"Ann\"}}' {address} \
         couponmesh.member.v1.MemberService/RegisterMember\n",
        names.join(", "),
    ));
}
