//! PgBouncer before PostgreSQL, as people run it.

use std::time::{Duration, Instant};

use couponmesh_testbed::{Databases, Nats, PgBouncer};

use crate::{
    binary::process::Call,
    load::Load,
    production::{Plan, Production},
    soak::say,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_services_work_behind_pgbouncer() {
    const TEST: &str = "behind PgBouncer";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let production = Production::start(Plan::replicas(2).pooler("session")).await;
    let load = Load::begin(TEST, &production, 4, |caller| caller.roaming());
    load.goes_on(100).await;
    assert_eq!(load.diary().refusals(), [""; 0]);
    let acknowledged = load.go_home().await;
    let took = production.auditor().await.check(&acknowledged).await;
    say(TEST, &format!("at rest after {took:.1?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooling_by_transaction_is_refused_at_the_start() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let databases = Databases::create(&["coupon"]).await;
    let direct = databases.url("coupon");
    let bouncer = PgBouncer::start(&direct, "transaction");
    let nats = Nats::start();
    let serve = Call::serve("coupon")
        .set("DATABASE__URL", &bouncer.url(&direct))
        .set("BUS__URL", &nats.url());
    let begin = Instant::now();
    let refused = serve.finish().await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let last = refused.stderr.lines().last().unwrap();
    for what in ["database.url", "set PgBouncer's pool_mode to session"] {
        assert!(last.contains(what), "{refused:?}");
    }
    // At once: it will not be another one when it is tried again.
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}: {refused:?}");
}
