//! Telling the administrator, by webhook.

use std::{collections::BTreeSet, time::Duration};

use couponmesh_proto::{
    member::v1::MemberState,
    notification::v1::{Notification, NotificationState},
};
use couponmesh_runtime::Clock;

use crate::harness::{File, Mesh, Webhook, eventually};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

/// The one notification about a member, once it is in `state`.
async fn once_in(mesh: &Mesh, member_id: &str, state: NotificationState) -> Notification {
    eventually(state.as_str_name(), || async {
        let notification = mesh.notifications_of(member_id).await.pop()?;
        (notification.state() == state).then_some(notification)
    })
    .await
}

/// A receiver that is away, and a mesh whose time stands still.
struct Outage {
    mesh: Mesh,
    clock: Clock,
    webhook: Webhook,
    file: File,
}

impl Outage {
    async fn begin() -> Self {
        let webhook = Webhook::refusing(0).await;
        webhook.answers(503);
        let clock = Clock::manual(Clock::system().now());
        let mesh = Mesh::by(&clock, |config| webhook.receives(config)).await;
        let file = mesh.file("notification").await;
        eventually("the time is noted", || async {
            file.count("clock_spans").await == 1
        })
        .await;
        Self {
            mesh,
            clock,
            webhook,
            file,
        }
    }

    /// Waits until as many attempts were made, and the failure of the last is noted.
    async fn has_failed(&self, attempts: usize) {
        let now = self.clock.now();
        eventually("an attempt has failed", || async {
            let probe_times: Vec<i64> = self.file.column("SELECT probe_time FROM gates").await;
            // While a probe is under way it is further ahead.
            let waits = |time: &i64| (now.0 + 1..now.plus(SECOND).0).contains(time);
            let made = self.webhook.delivered().len();
            (made == attempts && probe_times.iter().any(waits))
                .then_some(())
                .ok_or(format!("{made} attempts of {attempts}, {probe_times:?}"))
        })
        .await;
    }

    /// Lets time pass in which the service runs, and one more attempt fails.
    async fn goes_on_for(&self, time: Duration) {
        let before = self.webhook.delivered().len();
        let end = self.clock.now().plus(time).0;
        self.file
            .execute(&format!("UPDATE clock_spans SET end_time = {end}"))
            .await;
        self.clock.advance(time);
        self.has_failed(before + 1).await;
    }

    /// The receiver is back. Returns the mesh, on which time goes on standing still.
    fn end(self) -> (Mesh, Webhook) {
        self.webhook.answers(200);
        self.clock.advance(HOUR);
        (self.mesh, self.webhook)
    }
}

#[tokio::test]
async fn a_refused_notification_is_sent_again_under_the_same_identity() {
    let webhook = Webhook::refusing(2).await;
    let mesh = Mesh::with(|config| webhook.receives(config)).await;
    let member = mesh.join("ann@example.com").await;
    let notifications = mesh.notifications_of(&member.member_id).await;
    let notification = &notifications[0];
    assert_eq!(notification.state(), NotificationState::Sent);
    assert_eq!(notification.attempt_count, 3);
    assert_eq!(notification.channel, "webhook");
    assert_eq!(notification.last_error, "");
    let delivered = webhook.delivered();
    assert_eq!(delivered.len(), 3);
    for delivery in &delivered {
        assert_eq!(delivery.id(), notification.notification_id);
        assert_eq!(delivery.body, delivered[0].body);
        assert!(delivery.body.contains(&member.member_id));
        assert!(!delivery.body.contains("Ann") && !delivery.body.contains("ann@"));
    }
    mesh.finish().await;
}

#[tokio::test]
async fn a_receiver_that_was_away_for_half_a_day_gets_every_notification_once() {
    let outage = Outage::begin().await;
    let ann = outage.mesh.register("ann@example.com").await.member_id;
    outage.has_failed(1).await;
    for _ in 0..12 {
        outage.goes_on_for(HOUR).await;
    }
    // One who comes meanwhile causes no further attempt.
    let ben = outage.mesh.register("ben@example.com").await.member_id;
    once_in(&outage.mesh, &ben, NotificationState::Pending).await;
    outage.goes_on_for(HOUR).await;
    assert_eq!(outage.webhook.delivered().len(), 14);

    let (mesh, webhook) = outage.end();
    for member_id in [&ann, &ben] {
        let notification = once_in(&mesh, member_id, NotificationState::Sent).await;
        mesh.joined(member_id).await;
        assert_eq!(notification.last_error, "");
        let delivered = webhook.delivered();
        let about = delivered
            .iter()
            .filter(|delivery| delivery.body.contains(member_id));
        let identities: BTreeSet<&str> = about.map(|delivery| delivery.id()).collect();
        let identity = notification.notification_id.as_str();
        assert_eq!(identities, BTreeSet::from([identity]));
    }
    assert!(mesh.notifications_of(&ann).await[0].attempt_count > 10);
    mesh.finish().await;
}

#[tokio::test]
async fn a_receiver_that_is_away_gets_one_attempt_at_a_time_whatever_waits_for_it() {
    /// More than one round delivers, so that a round of them all would be seen.
    const MEMBERS: usize = 150;
    let outage = Outage::begin().await;
    let members = outage.mesh.register_many(MEMBERS).await;
    // What was begun before the first failure was noted has come to its end.
    let first = eventually("all are stored, and no attempt is under way", || async {
        let numbers: Vec<i64> = outage
            .file
            .column(
                "SELECT count(*) FROM notifications \
                 UNION ALL SELECT CAST(coalesce(sum(attempt_count), 0) AS BIGINT) FROM notifications \
                 UNION ALL SELECT count(*) FROM notifications WHERE last_error <> ''",
            )
            .await;
        let [stored, attempts, failed] = numbers.try_into().unwrap();
        let numbers = [stored, attempts].map(|number| usize::try_from(number).unwrap());
        let made = outage.webhook.delivered().len();
        (numbers == [MEMBERS, made] && failed == attempts && made > 0).then_some(made)
    })
    .await;
    assert!(first <= 64, "{first} attempts in the first round");
    for _ in 0..3 {
        outage.goes_on_for(HOUR).await;
    }
    assert_eq!(outage.webhook.delivered().len(), first + 3);

    let (mesh, _) = outage.end();
    for member in members {
        mesh.joined(&member.member_id).await;
    }
    mesh.finish().await;
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it() {
    let outage = Outage::begin().await;
    outage.webhook.asks_for("1800");
    let ann = outage.mesh.register("ann@example.com").await.member_id;
    let waits = "SELECT next_attempt_time FROM notifications WHERE last_error LIKE '%429%' \
                 UNION ALL SELECT probe_time FROM gates";
    let until = eventually("it waits", || async {
        let until: Vec<i64> = outage.file.column(waits).await;
        (until.len() == 2).then_some(until)
    })
    .await;
    let asked_for = outage.clock.now().plus(1_800 * SECOND).0;
    assert_eq!(until, [asked_for, asked_for]);
    outage.clock.advance(1_799 * SECOND);
    // A second notification does not get through either.
    let ben = outage.mesh.register("ben@example.com").await.member_id;
    once_in(&outage.mesh, &ben, NotificationState::Pending).await;
    assert_eq!(outage.webhook.delivered().len(), 1);
    let (mesh, _) = outage.end();
    for member_id in [ann, ben] {
        once_in(&mesh, &member_id, NotificationState::Sent).await;
    }
    mesh.finish().await;
}

#[tokio::test]
async fn a_receiver_that_stays_away_is_given_up_after_three_days_and_its_members_are_as_ever() {
    let outage = Outage::begin().await;
    let ann = outage.mesh.register("ann@example.com").await.member_id;
    outage.has_failed(1).await;
    let ben = outage.mesh.register("ben@example.com").await.member_id;
    once_in(&outage.mesh, &ben, NotificationState::Pending).await;
    outage.goes_on_for(71 * HOUR).await;
    let late = outage.mesh.register("late@example.com").await.member_id;
    for member_id in [&ann, &ben, &late] {
        once_in(&outage.mesh, member_id, NotificationState::Pending).await;
    }
    // When that goes wrong it is done again.
    outage.mesh.faults().arm("notification.give_up:commit", 1);
    outage.goes_on_for(HOUR).await;
    outage.goes_on_for(HOUR).await;
    for member_id in [&ann, &ben] {
        let notification = once_in(&outage.mesh, member_id, NotificationState::Failed).await;
        let error = &notification.last_error;
        assert!(error.contains("503"), "{error}");
        assert!(notification.send_time.is_none());
    }
    assert!(outage.mesh.faults().spent());
    // It has waited for two hours only.
    once_in(&outage.mesh, &late, NotificationState::Pending).await;
    let (mesh, _) = outage.end();
    mesh.joined(&late).await;
    mesh.settled().await;
    for member_id in [&ann, &ben] {
        let member = mesh.member(member_id).await;
        assert_eq!(member.state(), MemberState::Active);
        assert!(!member.admin_notified);
    }
    mesh.finish().await;
}

#[tokio::test]
async fn time_in_which_the_service_was_stopped_is_no_reason_to_give_a_notification_up() {
    let outage = Outage::begin().await;
    let ann = outage.mesh.register("ann@example.com").await.member_id;
    outage.has_failed(1).await;
    // It waits behind the gate.
    let ben = outage.mesh.register("ben@example.com").await.member_id;
    once_in(&outage.mesh, &ben, NotificationState::Pending).await;
    outage.goes_on_for(HOUR).await;
    let Outage {
        mesh,
        clock,
        webhook,
        file,
    } = outage;
    drop(file);
    let shut = mesh.shut().await;
    clock.advance(24 * 5 * HOUR);
    let before = webhook.delivered().len();
    let mesh = shut.open().await;
    let file = mesh.file("notification").await;
    let outage = Outage {
        mesh,
        clock,
        webhook,
        file,
    };
    outage.has_failed(before + 1).await;
    for member_id in [&ann, &ben] {
        once_in(&outage.mesh, member_id, NotificationState::Pending).await;
    }
    let (mesh, _) = outage.end();
    for member_id in [&ann, &ben] {
        mesh.joined(member_id).await;
    }
    mesh.finish().await;
}

#[tokio::test]
async fn a_notification_that_is_refused_is_tried_once_and_holds_up_no_other() {
    let webhook = Webhook::refusing(0).await;
    webhook.answers(410);
    let mesh = Mesh::with(|config| webhook.receives(config)).await;
    let ann = mesh.register("ann@example.com").await.member_id;
    let notification = once_in(&mesh, &ann, NotificationState::Failed).await;
    assert_eq!(notification.attempt_count, 1);
    assert_eq!(notification.last_error, "the webhook answered 410 Gone");
    webhook.answers(200);
    mesh.join("ben@example.com").await;
    assert_eq!(webhook.delivered().len(), 2);
    mesh.finish().await;
}

#[tokio::test]
async fn what_a_wrong_clock_put_off_for_years_is_due() {
    let webhook = Webhook::refusing(0).await;
    webhook.answers(503);
    let mesh = Mesh::with(|config| webhook.receives(config)).await;
    let member_id = mesh.register("ann@example.com").await.member_id;
    eventually("an attempt", || async { !webhook.delivered().is_empty() }).await;
    let shut = mesh.shut().await;
    let file = shut.file("notification").await;
    // In 2100, and as the release before this one leaves it: it tried ten times.
    for change in [
        "UPDATE notifications \
         SET next_attempt_time = 4102444800000000, attempt_count = 9, failing_since = NULL",
        "UPDATE gates SET probe_time = 4102444800000000, close_time = 4102444800000000",
    ] {
        file.execute(change).await;
    }
    assert_eq!(file.count("gates").await, 1);
    drop(file);
    let mesh = shut.open().await;
    eventually("a tenth attempt fails", || async {
        let notification = mesh.notifications_of(&member_id).await.pop()?;
        (notification.attempt_count > 10).then_some(())
    })
    .await;
    webhook.answers(200);
    mesh.joined(&member_id).await;
    mesh.finish().await;
}

#[tokio::test]
async fn claiming_what_is_due_reads_the_index_of_what_waits_and_sorts_nothing() {
    let mesh = Mesh::start().await;
    let file = mesh.file("notification").await;
    for query in [
        "SELECT notification_id FROM notifications \
         WHERE next_attempt_time <= 1 ORDER BY next_attempt_time LIMIT 64",
        "SELECT notification_id FROM notifications WHERE next_attempt_time <= 1 \
         AND COALESCE(failing_since, next_attempt_time) <= 1 ORDER BY next_attempt_time LIMIT 500",
        "SELECT notification_id FROM notifications WHERE next_attempt_time > 1",
    ] {
        let plan = file.plan(query).await.join("\n");
        assert!(plan.contains("notifications_pending"), "{plan}");
        assert!(
            !plan.to_lowercase().contains("sort") && !plan.contains("TEMP B-TREE"),
            "{plan}"
        );
    }
    drop(file);
    mesh.finish().await;
}
