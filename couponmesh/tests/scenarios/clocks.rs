//! Clocks that are wrong, now or once.

use std::time::Duration;

use couponmesh::node::ServiceName;
use couponmesh_proto::member::v1::WithdrawalState;
use couponmesh_runtime::{Clock, Timestamp};
use couponmesh_testbed::on_servers;

use crate::harness::{Mesh, eventually};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn what_a_wrong_clock_put_off_for_years_is_done_at_once() {
    let mut mesh = Mesh::start().await;
    let members = mesh.join_many(2).await;
    mesh.stop(ServiceName::Coupon).await;
    let mut withdrawals = Vec::new();
    for member in &members {
        let withdrawal = mesh.withdraw(&member.member_id).await;
        assert_eq!(withdrawal.state(), WithdrawalState::Pending);
        withdrawals.push(withdrawal);
    }
    let shut = mesh.shut().await;
    let years = Clock::system().now().plus(HOUR * 24 * 365 * 3).0;
    let member = shut.file("member").await;
    member
        .execute(&format!("UPDATE gates SET probe_time = {years}"))
        .await;
    // As if the one had been under way, and the other had paused.
    member
        .execute(&format!(
            "UPDATE withdrawals SET next_attempt_time = {years}, \
             claim_end_time = CASE WHEN member_id = (SELECT member_id FROM withdrawals LIMIT 1) \
             THEN NULL ELSE {years} END"
        ))
        .await;
    shut.file("notification")
        .await
        .execute(&format!(
            "UPDATE notifications SET state = 'PENDING', send_time = NULL, next_attempt_time = {years}"
        ))
        .await;
    for service in ServiceName::all() {
        let dead = if on_servers() {
            "'0198c1f0-5c3e-7d7a-a1b5-000000000001'"
        } else {
            "X'0198c1f05c3e7d7aa1b5000000000001'"
        };
        shut.file(service.name())
            .await
            .execute(&format!(
                "INSERT INTO leases (name, holder, end_time) VALUES ('relay', {dead}, {years})"
            ))
            .await;
    }

    let mesh = shut.open().await;
    for withdrawal in &withdrawals {
        mesh.completed(&withdrawal.withdrawal_id).await;
    }
    let file = mesh.file("notification").await;
    eventually("the notifications are sent", async || {
        let waiting = "SELECT count(*) FROM notifications WHERE state = 'PENDING'";
        file.column::<i64>(waiting).await == [0]
    })
    .await;
    mesh.finish().await;
}

#[tokio::test]
async fn a_machine_whose_clock_is_ahead_goes_by_its_database_server_s() {
    let mut shut = Mesh::start().await.shut().await;
    shut.set_clock(Clock::shifted(HOUR));
    let mesh = shut.open().await;
    let member = mesh.join("ann@example.com").await;
    let registered = Timestamp::from(member.register_time.unwrap());
    let ahead = registered.since(Clock::system().now());
    // A file has no other clock than its machine's.
    assert_eq!(ahead > HOUR / 2, !on_servers(), "{ahead:?} ahead");
    mesh.withdraw(&member.member_id).await;
    mesh.finish().await;
}

#[tokio::test]
async fn a_machine_that_runs_for_five_minutes_a_day_deletes_what_is_old() {
    let clock = Clock::manual(Clock::system().now());
    let mut mesh = Mesh::by(&clock, |_| {}).await;
    mesh.join("ann@example.com").await;
    mesh.settled().await;
    // The default retention of 7 days, and one more: the last stop counts for nothing yet. Two are to spare, for notes
    // of the time that a busy machine leaves out.
    for day in 0..10 {
        let events = mesh.file("member").await.count("outbox").await;
        assert!(events > 0 || day >= 8, "gone after {day} days");
        clock.advance(HOUR / 12);
        let shut = mesh.shut().await;
        clock.advance(HOUR * 24);
        mesh = shut.open().await;
    }
    for service in ["member", "coupon", "notification"] {
        let file = mesh.file(service).await;
        eventually("old events are gone", || async {
            file.count("outbox").await == 0
        })
        .await;
    }
    mesh.shut().await.remove().await;
}
