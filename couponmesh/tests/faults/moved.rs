//! A primary that moves: to a standby that was promoted, while connections, or the address, lead to the server that
//! was the primary before. And a standby that is away, without which no commit is answered.

use std::time::{Duration, Instant};

use couponmesh::node::ServiceName;
use sea_orm::{ConnectionTrait as _, Database};
use tokio::time::sleep;

use crate::{
    binary::process::eventually,
    load::Load,
    production::{Plan, Production},
    readiness::{READY, UNREADY, probe},
    soak::say,
};

const CALLERS: usize = 8;
/// How soon callers are answered again once the address leads to the primary.
const SOON: Duration = Duration::from_secs(10);
/// Lines that eight replicas may log of it all. A line per call that was refused would be many more.
const LINES: usize = 1_000;

/// Eight callers, and what was logged before them.
async fn begin(test: &'static str) -> (Production, Load, usize) {
    let production = Production::start(Plan::replicas(2).standby()).await;
    let load = Load::begin(test, &production, CALLERS, |caller| {
        caller.roaming().patient(Duration::from_secs(60))
    });
    load.goes_on(50).await;
    let lines = production.lines();
    (production, load, lines)
}

/// The address leads to the primary by now: callers are answered soon, by every replica, and what was acknowledged is
/// there once.
async fn check(test: &'static str, production: Production, load: Load, lines: usize) {
    let begin = Instant::now();
    load.goes_on(50).await;
    let took = begin.elapsed();
    assert!(took < SOON, "registrations took {took:?} to go on");
    let members = production.addresses(ServiceName::Member);
    load.is_answered_by(&members, 20).await;
    eventually("every replica is ready", async || {
        for &address in &members {
            if probe(address).await != READY {
                return None;
            }
        }
        Some(())
    })
    .await;
    let (auditor, replicas) = (production.auditor().await, production.running().len());
    eventually("every replica listens on the primary", async || {
        let listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'";
        let listening = auditor.number("member", listening).await;
        (usize::try_from(listening) == Ok(replicas)).then_some(())
    })
    .await;
    let acknowledged = load.go_home().await;
    let rest = auditor.check(&acknowledged).await;
    // The administrator is told of each member by a line.
    let lines = (production.lines() - lines).saturating_sub(acknowledged.len());
    assert!(lines < LINES, "{lines} lines were logged");
    say(
        test,
        &format!("went on after {took:.1?}, at rest after {rest:.1?}, {lines} lines"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_after_a_switchover_although_the_address_follows_late() {
    const TEST: &str = "switchover";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let (mut production, load, lines) = begin(TEST).await;
    production.postgres.as_mut().unwrap().stop();
    production.promote();
    // The address still leads to what is a standby now.
    let primary = production.postgres.as_ref().unwrap();
    production.standby.as_mut().unwrap().follow(primary);
    for address in production.addresses(ServiceName::Member) {
        eventually("unready", async || {
            (probe(address).await == UNREADY).then_some(())
        })
        .await;
    }
    sleep(Duration::from_secs(5)).await;
    production.address_follows();
    check(TEST, production, load, lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_although_connections_to_the_demoted_server_stay() {
    const TEST: &str = "demoted with its connections";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let (mut production, load, lines) = begin(TEST).await;
    let operator = Database::connect(production.postgres.as_ref().unwrap().url());
    let operator = operator.await.unwrap();
    for sql in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        operator.execute_unprepared(sql).await.unwrap();
    }
    production.promote();
    production.address_follows();
    check(TEST, production, load, lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_primary_crashes_and_a_standby_takes_over() {
    const TEST: &str = "crash and promotion";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let (mut production, load, lines) = begin(TEST).await;
    production.postgres.as_mut().unwrap().kill();
    production.promote();
    production.address_follows();
    check(TEST, production, load, lines).await;
}

/// Processes of the server that commits of one replica of each service may leave behind, waiting for the standby.
const LEFT_WAITING: i64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_away_is_told_in_time_and_ends_no_reading() {
    const TEST: &str = "standby away";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::start(Plan::replicas(1).standby()).await;
    let load = Load::begin(TEST, &production, CALLERS, |caller| {
        caller.patient(Duration::from_secs(60))
    });
    load.goes_on(20).await;
    let lines = production.lines();
    let [address] = production.addresses(ServiceName::Member)[..] else {
        panic!("one replica");
    };
    let auditor = production.auditor().await;
    let before = load.diary().refused();
    production.standby.as_mut().unwrap().kill();
    eventually("unready", async || {
        (probe(address).await == UNREADY).then_some(())
    })
    .await;
    let end = Instant::now() + Duration::from_secs(15);
    while Instant::now() < end {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let waiting = auditor.number("member", waiting).await;
        assert!(waiting < LEFT_WAITING, "{waiting} commits are left waiting");
        crate::readiness::reads(address).await;
        sleep(Duration::from_millis(100)).await;
    }
    let refusals = load.diary().refusals().split_off(before);
    assert!(!refusals.is_empty(), "commits were to wait");
    for refusal in refusals {
        assert!(refusal.contains("database is not available"), "{refusal}");
    }
    production.standby.as_mut().unwrap().restart();
    check(TEST, production, load, lines).await;
}
