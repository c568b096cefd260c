//! `couponmesh serve`: one service on PostgreSQL and NATS; and `couponmesh migrate`.

use std::{collections::BTreeSet, path::Path};

use couponmesh::{
    config::Config,
    migrate,
    node::{Node, ServiceName},
    stack::{Sources, Stack, connect},
};

use crate::{
    cli::ServeArgs,
    output,
    run::{BoxError, serve_until_told, with_telemetry},
    stopping::Stopping,
};

/// Serves until SIGTERM, SIGHUP or Ctrl-C.
pub(crate) fn serve(args: &ServeArgs, file: Option<&Path>) -> Result<(), BoxError> {
    let config = Config::load(file)?;
    let service = args.service;
    needs_database(&config)?;
    if config.bus.url.is_empty() {
        return Err(
            "bus.url: must be set, e.g. to nats://nats:4222; the embedded bus lives inside one process \
             and no other service could hear it (for everything in one process: couponmesh run)"
                .into(),
        );
    }
    if service == ServiceName::Member && config.member.coupon_address.is_empty() {
        return Err("member.coupon_address: must be set, e.g. to http://coupon:50051".into());
    }
    with_telemetry(&config, service.name(), async {
        let mut stopping = Stopping::listen()?;
        let listen = args.listen.resolve().await?;
        let stack = Stack::servers(&config, service, Sources::system());
        let services = BTreeSet::from([service]);
        let none = BTreeSet::new();
        let started = tokio::select! {
            started = Node::start(&stack, &config, listen, &services, &none) => Some(started),
            () = stopping.told() => None,
        };
        let Some(node) = started else {
            stack.close().await;
            return Ok(());
        };
        let greet = |node: &Node| {
            let (service, address) = (service.name(), node.address());
            output::announce(&format!("couponmesh {service} is listening on {address}\n"));
        };
        serve_until_told(&config, stack, node, stopping, greet).await
    })
}

/// Brings a database up to date.
pub(crate) fn migrate(service: ServiceName, file: Option<&Path>) -> Result<(), BoxError> {
    let config = Config::load(file)?;
    needs_database(&config)?;
    with_telemetry(&config, service.name(), async {
        let database = connect(&config.database, service.name()).await?;
        let migrated = migrate::migrate(service, &database).await;
        database.close().await?;
        migrated.map_err(|error| format!("the {} database: {error}", service.name()))?;
        output::print(&format!("the {} database is up to date\n", service.name()));
        Ok(())
    })
}

fn needs_database(config: &Config) -> Result<(), BoxError> {
    if config.database.url.is_empty() {
        return Err(
            "database.url: must be set, e.g. to postgres://member:password@postgres:5432/member \
             (COUPONMESH__DATABASE__URL)"
                .into(),
        );
    }
    Ok(())
}
