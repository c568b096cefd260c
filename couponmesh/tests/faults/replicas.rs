//! Replicas: killed one by one, and started many at once.

use std::time::{Duration, Instant};

use couponmesh::node::ServiceName;
use couponmesh_runtime::Random;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    load::Load,
    production::{Plan, Production, for_seconds},
    soak::{pick, say},
};

const CALLERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_random_replicas_are_killed_and_started_again() {
    const TEST: &str = "replicas killed";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(2).counts_cancels()).await;
    let auditor = production.auditor().await;
    let watched = CancellationToken::new();
    let watch = auditor.watch_leavers(watched.clone());
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller);
    let random = Random::seeded(6);
    let mut pace = interval(Duration::from_secs(pick(1, 3)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (begin, lasts) = (Instant::now(), for_seconds(15, 120));
    let mut kills = 0;
    while begin.elapsed() < lasts {
        pace.tick().await;
        let running = production.running();
        let (service, number) = running[random.below(running.len())];
        production.kill(service, number);
        production.start_all(&[(service, number)]).await;
        kills += 1;
    }
    load.goes_on(10).await;
    let acknowledged = load.go_home().await;
    let took = auditor.check(&acknowledged).await;
    watched.cancel();
    let left = watch.await.unwrap();
    let cancels = production.cancels();
    assert_eq!(
        cancels.overlaps(),
        0,
        "CancelCoupon calls of one withdrawal"
    );
    say(
        TEST,
        &format!(
            "{kills} kills, {left} members seen leaving, {} CancelCoupon calls, at rest after {took:.1?}",
            cancels.calls().len()
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing() {
    const TEST: &str = "rolling restart";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(2)).await;
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller);
    for _ in 0..pick(1, 10) {
        for (service, number) in production.running() {
            load.goes_on(5).await;
            production.terminate(service, number).await;
            production.start_all(&[(service, number)]).await;
        }
    }
    load.goes_on(10).await;
    let acknowledged = load.go_home().await;
    let took = production.auditor().await.check(&acknowledged).await;
    // Whoever leaves gives back what came to it and what was on its way.
    say(TEST, &format!("at rest after {took:.1?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_replicas_that_start_at_once_on_an_empty_database_make_its_tables_once() {
    const MIGRATIONS: &str = "SELECT count(*) FROM seaql_migrations";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::idle(Plan::replicas(10)).await;
    let ten: Vec<(ServiceName, usize)> = (0..10).map(|n| (ServiceName::Member, n)).collect();
    production.start_all(&ten).await;
    assert_eq!(production.addresses(ServiceName::Member).len(), 10);
    let auditor = production.auditor().await;
    let applied = auditor.number("member", MIGRATIONS).await;
    let different = "SELECT count(DISTINCT version) FROM seaql_migrations";
    assert_eq!(auditor.number("member", different).await, applied);
    // Those who came later have nothing left to do either.
    production.start_all(&[(ServiceName::Member, 10)]).await;
    assert_eq!(auditor.number("member", MIGRATIONS).await, applied);
    // The last one is what PostgreSQL says of tables that are there: no news.
    for what in ["ERROR", "panicked", "already exists"] {
        let logged = production.logged(ServiceName::Member, what);
        assert_eq!(logged, 0, "lines with {what}");
    }
    // And every one of them works.
    let load = Load::begin("ten replicas", &production, 20, |caller| caller.leavers(0));
    load.goes_on(100).await;
    assert_eq!(load.diary().refused(), 0);
    let acknowledged = load.go_home().await;
    let members = auditor.number("member", "SELECT count(*) FROM members");
    assert_eq!(usize::try_from(members.await), Ok(acknowledged.len()));
}
