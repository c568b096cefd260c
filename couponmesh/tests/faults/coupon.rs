//! Coupon: away for long.

use std::time::{Duration, Instant};

use couponmesh::node::ServiceName;
use tokio::time::sleep;

use crate::{
    audit::Auditor,
    binary::process::eventually_within,
    load::Load,
    production::{PATIENCE, Plan, Production, for_seconds},
    soak::{is_long, say},
};

const REPLICAS: [(ServiceName, usize); 2] = [(ServiceName::Coupon, 0), (ServiceName::Coupon, 1)];
/// Two callers at this pace are a steady ten members a second, which leaves room to catch up.
const PACE: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_go_on_while_coupon_is_away_and_their_coupons_follow() {
    const TEST: &str = "coupon away";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(2)).await;
    let auditor = production.auditor().await;
    let begin = Instant::now();
    let load = Load::begin(TEST, &production, 2, |caller| caller.every(PACE).leavers(0));
    load.goes_on(10).await;
    for (service, number) in REPLICAS {
        production.kill(service, number);
    }
    sleep(for_seconds(8, 60)).await;
    let before = issued(&auditor).await;
    let back = Instant::now();
    production.start_all(&REPLICAS).await;
    let caught_up = eventually_within(PATIENCE, "every member has a coupon", async || {
        let members = auditor.number("member", "SELECT count(*) FROM members");
        let members = members.await;
        let issued = issued(&auditor).await;
        (issued >= members).then_some(issued)
    })
    .await;
    let took = back.elapsed();
    // The start of the replicas included.
    let drain = (caught_up - before) as f64 / took.as_secs_f64();
    let arrive = load.diary().registered() as f64 / begin.elapsed().as_secs_f64();
    say(
        TEST,
        &format!(
            "caught up {took:.1?} after the return: {drain:.0} coupons/s while {arrive:.0} members/s arrived"
        ),
    );
    // Speed is not for short tests, which run beside others.
    if is_long() {
        assert!(drain >= 2.0 * arrive);
    }
    load.goes_on(10).await;
    assert_eq!(load.diary().refused(), 0, "calls that needed coupon");
    let acknowledged = load.go_home().await;
    auditor.check(&acknowledged).await;
}

async fn issued(auditor: &Auditor) -> i64 {
    auditor
        .number("coupon", "SELECT count(*) FROM coupons")
        .await
}
