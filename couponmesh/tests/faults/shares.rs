//! Replicas that share a service's partitions: they come, go, die, and stand still without knowing it.

use std::time::{Duration, Instant};

use couponmesh::node::ServiceName;

use crate::{
    binary::process::eventually_within,
    load::Load,
    production::{PATIENCE, Plan, Production},
    soak::{pick, say},
};

const SERVICES: [ServiceName; 2] = [ServiceName::Coupon, ServiceName::Mypage];

/// How many partitions each replica of a service has.
async fn shares(production: &Production, service: ServiceName) -> Vec<i64> {
    let sql = "SELECT count(*) FROM leases WHERE name LIKE 'partition %' AND end_time > \
               (extract(epoch FROM now()) * 1000000)::bigint GROUP BY holder ORDER BY count(*)";
    production
        .auditor()
        .await
        .numbers(service.name(), sql)
        .await
}

async fn are_shared_as(production: &Production, wanted: &[i64]) -> Duration {
    let begin = Instant::now();
    for service in SERVICES {
        let what = format!("{} is shared as {wanted:?}", service.name());
        eventually_within(PATIENCE, &what, async || {
            (shares(production, service).await == wanted).then_some(())
        })
        .await;
    }
    begin.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_move_between_replicas_that_come_and_go_under_load() {
    const TEST: &str = "partitions move";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(1)).await;
    let load = Load::begin(TEST, &production, 4, |caller| caller);
    let both = |number| SERVICES.map(|service| (service, number));
    let mut took = Vec::new();
    took.push(("one", are_shared_as(&production, &[8]).await));
    production.start_all(&both(1)).await;
    took.push(("two", are_shared_as(&production, &[4, 4]).await));
    load.goes_on(20).await;
    production.start_all(&both(2)).await;
    took.push(("three", are_shared_as(&production, &[2, 3, 3]).await));
    load.goes_on(20).await;
    for (service, number) in both(1) {
        production.terminate(service, number).await;
    }
    took.push(("one left", are_shared_as(&production, &[4, 4]).await));
    load.goes_on(20).await;
    for (service, number) in both(2) {
        production.kill(service, number);
    }
    took.push(("one died", are_shared_as(&production, &[8]).await));
    load.goes_on(20).await;
    let acknowledged = load.go_home().await;
    let rest = production.auditor().await.check(&acknowledged).await;
    say(TEST, &format!("{took:.1?}, at rest after {rest:.1?}"));
}

/// Its share goes to the other, and it goes on in the middle of a batch where it stood still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stood_still_commits_nothing_that_another_has_done() {
    const TEST: &str = "a frozen replica";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let production = Production::start(Plan::replicas(2)).await;
    let load = Load::begin(TEST, &production, 4, |caller| caller.leavers(0));
    are_shared_as(&production, &[4, 4]).await;
    for round in 0..pick(2, 5) {
        load.goes_on(20).await;
        for service in SERVICES {
            production.signal(service, round % 2, "STOP");
        }
        are_shared_as(&production, &[8]).await;
        tokio::time::sleep(Duration::from_secs(pick(2, 60))).await;
        for service in SERVICES {
            production.signal(service, round % 2, "CONT");
        }
        are_shared_as(&production, &[4, 4]).await;
    }
    load.goes_on(20).await;
    let acknowledged = load.go_home().await;
    let took = production.auditor().await.check(&acknowledged).await;
    say(TEST, &format!("at rest after {took:.1?}"));
}
