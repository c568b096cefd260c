//! PostgreSQL: killed.

use std::time::Duration;

use couponmesh_runtime::Random;
use tokio::time::sleep;

use crate::{
    load::Load,
    production::{Plan, Production},
    soak::{pick, say},
};

const CALLERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_postgresql_is_killed_under_load() {
    const TEST: &str = "PostgreSQL killed";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(2).own_postgres()).await;
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller);
    let random = Random::seeded(3);
    let kills = pick(2, 10);
    for _ in 0..kills {
        load.goes_on(50).await;
        sleep(Duration::from_millis(random.below(500) as u64)).await;
        let server = production.postgres.as_mut().unwrap();
        server.kill();
        sleep(Duration::from_millis(random.below(3_000) as u64)).await;
        server.restart();
    }
    // By itself: no replica is restarted.
    load.goes_on(50).await;
    let acknowledged = load.go_home().await;
    let took = production.auditor().await.check(&acknowledged).await;
    say(TEST, &format!("{kills} kills, at rest after {took:.1?}"));
}
