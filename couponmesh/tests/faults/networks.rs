//! Networks that hang rather than refuse: connections stay, and nothing arrives.

use std::time::{Duration, Instant};

use couponmesh::node::ServiceName;
use tokio::time::sleep;

use crate::{
    load::Load,
    production::{Plan, Production, for_seconds},
    soak::{pick, say},
    way::Mode,
};

const CALLERS: usize = 4;
const REQUEST_TIMEOUT: &str = "4s";
/// Less than half of that.
const COMMIT_TIMEOUT: &str = "1s";
/// No call may take longer than the request timeout and a margin for a busy machine.
const LONGEST_CALL: Duration = Duration::from_secs(4 + 3);

/// A statement is given up after 12 seconds, and its connection 2 seconds later; then there is a margin.
const FORGOTTEN: Duration = Duration::from_secs(12 + 2 + 16);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_ends_in_time_while_a_network_hangs_and_all_goes_on_after() {
    const TEST: &str = "networks that hang";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let plan = Plan::replicas(2).ways();
    let plan = plan
        .set("GRPC__REQUEST_TIMEOUT", REQUEST_TIMEOUT)
        .set("DATABASE__COMMIT_TIMEOUT", COMMIT_TIMEOUT);
    let production = Production::start(plan).await;
    // Callers who wait for the answer, however long the service lets them.
    let load = Load::begin(TEST, &production, CALLERS, |caller| {
        caller.patient(Duration::from_secs(60))
    });
    load.goes_on(10).await;

    production.bus_way().set(Mode::Stall);
    sleep(for_seconds(10, 60)).await;
    load.goes_on(10).await;
    production.bus_way().set(Mode::Pass);
    load.goes_on(10).await;
    assert_eq!(load.diary().refused(), 0, "calls that needed the bus");

    let database = production.database_way(ServiceName::Member);
    database.set(Mode::Stall);
    sleep(for_seconds(10, 30)).await;
    database.set(Mode::Pass);
    load.goes_on(10).await;
    let refused = load.diary().refused();
    assert!(refused > 0, "the database was to hang");

    production.coupon_way.set(Mode::Stall);
    sleep(for_seconds(10, 30)).await;
    load.goes_on(10).await;
    production.coupon_way.set(Mode::Pass);
    load.goes_on(10).await;
    let refused_more = load.diary().refused() - refused;
    assert_eq!(refused_more, 0, "calls that needed coupon");

    let slowest = load.diary().slowest();
    assert!(slowest < LONGEST_CALL, "a call took {slowest:?}");
    let acknowledged = load.go_home().await;
    let took = production.auditor().await.check(&acknowledged).await;
    say(TEST, &format!("at rest after {took:.1?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_network_forgot_are_made_anew() {
    const TEST: &str = "connections forgotten";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let plan = Plan::replicas(2).ways();
    let plan = plan
        .set("GRPC__REQUEST_TIMEOUT", REQUEST_TIMEOUT)
        .set("DATABASE__COMMIT_TIMEOUT", COMMIT_TIMEOUT);
    let production = Production::start(plan).await;
    let load = Load::begin(TEST, &production, CALLERS, |caller| {
        caller.patient(Duration::from_secs(60))
    });
    for _ in 0..pick(1, 5) {
        load.goes_on(50).await;
        production.bus_way().forget_connections();
        production.coupon_way.forget_connections();
        for service in ServiceName::all() {
            production.database_way(service).forget_connections();
        }
        let begin = Instant::now();
        load.goes_on(50).await;
        let took = begin.elapsed();
        say(TEST, &format!("50 registrations later after {took:.1?}"));
        assert!(took < FORGOTTEN, "registrations took {took:?} to go on");
    }
    let slowest = load.diary().slowest();
    assert!(slowest < LONGEST_CALL, "a call took {slowest:?}");
    let acknowledged = load.go_home().await;
    let took = production.auditor().await.check(&acknowledged).await;
    say(TEST, &format!("at rest after {took:.1?}"));
}
