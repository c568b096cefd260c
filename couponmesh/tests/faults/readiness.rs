//! Readiness: a service is ready while its own database is there, whatever else is away.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use couponmesh::node::ServiceName;
use couponmesh_proto::member::v1::{
    ListMembersRequest, member_service_client::MemberServiceClient,
};
use sea_orm::ConnectionTrait as _;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    binary::process::{channel, eventually},
    load::Load,
    production::{Plan, Production},
    soak::say,
    way::Mode,
};

/// Longer than anything that is away stays unnoticed.
const LONG_ENOUGH: Duration = Duration::from_secs(6);

/// Lists members of `address`, as callers do.
pub(crate) async fn reads(address: SocketAddr) {
    let mut members = MemberServiceClient::new(channel(address));
    let asked = members.list_members(ListMembersRequest::default());
    asked.await.unwrap();
}

/// What a probe asks of member: the whole, the service, whether the process lives.
pub(crate) async fn probe(address: SocketAddr) -> [ServingStatus; 3] {
    let mut health = HealthClient::new(channel(address));
    let mut told = [ServingStatus::Unknown; 3];
    let names = ["", ServiceName::Member.grpc_name(), "liveness"];
    for (told, name) in told.iter_mut().zip(names) {
        let request = HealthCheckRequest {
            service: name.to_owned(),
        };
        *told = health.check(request).await.unwrap().into_inner().status();
    }
    told
}

pub(crate) const READY: [ServingStatus; 3] = [ServingStatus::Serving; 3];
pub(crate) const UNREADY: [ServingStatus; 3] = [
    ServingStatus::NotServing,
    ServingStatus::NotServing,
    // A restart would not bring the database back.
    ServingStatus::Serving,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_its_own_database_makes_a_service_unready() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(1).ways()).await;
    let [address] = production.addresses(ServiceName::Member)[..] else {
        panic!("one replica");
    };
    assert_eq!(probe(address).await, READY);
    for away in [Mode::Refuse, Mode::Stall] {
        let database = production.database_way(ServiceName::Member).clone();
        database.set(away);
        eventually(&format!("unready: {away:?}"), async || {
            (probe(address).await == UNREADY).then_some(())
        })
        .await;
        database.set(Mode::Pass);
        eventually(&format!("ready again after {away:?}"), async || {
            (probe(address).await == READY).then_some(())
        })
        .await;
    }

    production.nats.kill();
    production.kill(ServiceName::Coupon, 0);
    production
        .database_way(ServiceName::Coupon)
        .set(Mode::Refuse);
    let end = Instant::now() + LONG_ENOUGH;
    while Instant::now() < end {
        assert_eq!(probe(address).await, READY, "without bus and coupon");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn set_read_only(server: &str, value: &str) {
    let operator = sea_orm::Database::connect(server).await.unwrap();
    let set = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
    operator.execute_unprepared(&set).await.unwrap();
    let reload = "SELECT pg_reload_conf()";
    operator.execute_unprepared(reload).await.unwrap();
    operator.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_take_no_writes_make_services_unready_and_park_nothing() {
    const TEST: &str = "read-only databases";
    /// How often a consumer meets it: more often than an event's own failure would be forgiven.
    const TIMES: usize = 6;
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let plan = Plan::replicas(1).own_postgres().ways();
    // No connection is to be had meanwhile.
    let plan = plan.set("DATABASE__ACQUIRE_TIMEOUT", "1s");
    let production = Production::start(plan).await;
    let server = production.postgres.as_ref().unwrap().url();
    let [address] = production.addresses(ServiceName::Member)[..] else {
        panic!("one replica");
    };
    let load = Load::begin(TEST, &production, 2, |caller| caller);
    // Coupon has events at hand before its database takes no writes, and cannot handle them.
    let database = production.database_way(ServiceName::Coupon);
    let waits = "consumer waits for the database";
    database.set(Mode::Refuse);
    load.goes_on(20).await;
    production.logs(ServiceName::Coupon, waits, 0, 1).await;
    set_read_only(&server, "on").await;
    let before = production.logged(ServiceName::Coupon, waits);
    database.set(Mode::Pass);
    production
        .logs(ServiceName::Coupon, waits, before, TIMES)
        .await;
    eventually("unready", async || {
        (probe(address).await == UNREADY).then_some(())
    })
    .await;
    set_read_only(&server, "off").await;
    eventually("ready again", async || {
        (probe(address).await == READY).then_some(())
    })
    .await;
    load.goes_on(20).await;
    let acknowledged = load.go_home().await;
    // Which finds no dead letter.
    let took = production.auditor().await.check(&acknowledged).await;
    say(TEST, &format!("at rest after {took:.1?}"));
}
