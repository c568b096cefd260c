//! NATS: killed, and robbed of its store.

use std::time::Duration;

use couponmesh::node::ServiceName;
use couponmesh_runtime::Random;
use tokio::time::sleep;

use crate::{
    binary::process::eventually,
    load::Load,
    production::{Plan, Production},
    soak::{pick, say},
};

const CALLERS: usize = 4;
const COUPON: [(ServiceName, usize); 2] = [(ServiceName::Coupon, 0), (ServiceName::Coupon, 1)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_nats_is_killed_under_load() {
    const TEST: &str = "NATS killed";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(2)).await;
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller);
    let random = Random::seeded(1);
    let kills = pick(3, 20);
    for _ in 0..kills {
        // The moments are what is random here: nothing is waited for.
        sleep(Duration::from_millis(500 + random.below(1_000) as u64)).await;
        production.nats.kill();
        // Registrations need no bus.
        load.goes_on(10).await;
        sleep(Duration::from_millis(random.below(1_000) as u64)).await;
        production.nats.restart();
    }
    load.goes_on(10).await;
    let (_, took) = end(load, &production).await;
    say(TEST, &format!("{kills} kills, at rest after {took:.1?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_is_filled_again_from_the_outboxes() {
    const TEST: &str = "NATS's store lost";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(2)).await;
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller);
    let losses = pick(1, 5);
    for _ in 0..losses {
        // What coupon has yet to read is what is lost.
        for (service, number) in COUPON {
            production.kill(service, number);
        }
        load.goes_on(pick(50, 500)).await;
        let said = "the bus has lost events";
        let before = said_by_all(&production, said);
        production.nats.kill();
        production.nats.lose_store();
        load.goes_on(10).await;
        production.nats.restart();
        production.start_all(&COUPON).await;
        // What the operator sees; there is nothing to be done.
        eventually("the loss is logged", async || {
            (said_by_all(&production, said) > before).then_some(())
        })
        .await;
    }
    load.goes_on(10).await;
    let (_, took) = end(load, &production).await;
    say(TEST, &format!("{losses} losses, at rest after {took:.1?}"));
}

/// As after a loss of power, where the server has not synced everything that it had acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_comes_back_older_is_filled_again_while_all_go_on() {
    const TEST: &str = "NATS's store put back";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(2)).await;
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller);
    let losses = pick(2, 10);
    let said = "the bus has lost events";
    for _ in 0..losses {
        load.goes_on(20).await;
        production.nats.kill();
        let copy = production.nats.copy_store();
        production.nats.restart();
        // What comes now is on the bus, and lost.
        let events = production.nats.events();
        let last = async || events.stream().await.cached_info().state.last_sequence;
        let end = last().await + pick(200, 1_000) as u64;
        eventually("it is on the bus", async || {
            (last().await > end).then_some(())
        })
        .await;
        let before = said_by_all(&production, said);
        production.nats.kill();
        production.nats.put_back(copy);
        production.nats.restart();
        load.goes_on(100).await;
        eventually("the loss is logged", async || {
            (said_by_all(&production, said) > before).then_some(())
        })
        .await;
    }
    let (_, took) = end(load, &production).await;
    say(TEST, &format!("{losses} losses, at rest after {took:.1?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_fills_up_empties_by_itself() {
    const TEST: &str = "NATS's stream full";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    // 3.5 kB a member: 600 of them fill it.
    let plan = Plan::replicas(1).set("BUS__MAX_BYTES", "2097152");
    let mut production = Production::start(plan).await;
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller);
    // Nobody reads on meanwhile, so nothing can be deleted.
    let readers = [(ServiceName::Mypage, 0)];
    for (service, number) in readers {
        production.kill(service, number);
    }
    let full = "maximum bytes exceeded";
    let nearly = "the stream is nearly full of events that some service has not read";
    production.logs(ServiceName::Member, full, 0, 1).await;
    production.logs(ServiceName::Member, nearly, 0, 1).await;
    load.goes_on(100).await;
    production.start_all(&readers).await;
    load.goes_on(100).await;
    let (members, took) = end(load, &production).await;
    let made_room = production.logged(ServiceName::Member, "old events deleted that every service");
    assert!(made_room > 0);
    say(
        TEST,
        &format!("{members} members, room made {made_room} times, at rest after {took:.1?}"),
    );
}

/// Ends the load: no call was refused for the bus, and what was acknowledged is there once. How many members that were,
/// and how long it took until all was at rest.
async fn end(load: Load, production: &Production) -> (usize, Duration) {
    assert_eq!(load.diary().refused(), 0, "calls that needed the bus");
    let acknowledged = load.go_home().await;
    let took = production.auditor().await.check(&acknowledged).await;
    (acknowledged.len(), took)
}

fn said_by_all(production: &Production, what: &str) -> usize {
    let services = ServiceName::all().into_iter();
    services
        .map(|service| production.logged(service, what))
        .sum()
}
