//! Outages that last longer than any number of attempts.

use couponmesh::node::ServiceName;

use crate::{
    load::Load,
    production::{Plan, Production},
    soak::{pick, say},
    way::Mode,
};

/// More attempts than a handler that fails has until its event is parked.
const ATTEMPTS: usize = 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_outage_of_database_and_bus_parks_nothing() {
    const TEST: &str = "a long outage";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    // One replica, so that one consumer meets the whole outage.
    let plan = Plan::replicas(1).ways();
    let plan = plan.set("DATABASE__ACQUIRE_TIMEOUT", "1s");
    let mut production = Production::start(plan).await;
    let load = Load::begin(TEST, &production, 2, |caller| caller);
    let (for_database, for_bus) = (
        "consumer waits for the database",
        "consumer waits for the bus",
    );
    for _ in 0..pick(1, 3) {
        load.goes_on(20).await;
        // First the database: events are at hand, and cannot be handled.
        let before = production.logged(ServiceName::Coupon, for_database);
        production
            .database_way(ServiceName::Coupon)
            .set(Mode::Refuse);
        production
            .logs(ServiceName::Coupon, for_database, before, ATTEMPTS)
            .await;
        // Then the bus, too. The consumer sees that only with its database back.
        production.nats.kill();
        load.goes_on(20).await;
        let before = production.logged(ServiceName::Coupon, for_bus);
        production.database_way(ServiceName::Coupon).set(Mode::Pass);
        production
            .logs(ServiceName::Coupon, for_bus, before, pick(2, ATTEMPTS))
            .await;
        production.nats.restart();
    }
    load.goes_on(20).await;
    let acknowledged = load.go_home().await;
    // Which finds no dead letter.
    let took = production.auditor().await.check(&acknowledged).await;
    say(TEST, &format!("at rest after {took:.1?}"));
}
