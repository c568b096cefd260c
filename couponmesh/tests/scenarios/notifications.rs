//! Telling the administrator, by webhook.

use couponmesh_proto::{member::v1::MemberState, notification::v1::NotificationState};

use crate::harness::{Mesh, Webhook, eventually};

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
async fn a_notification_that_never_arrives_is_given_up_and_the_member_is_none_the_worse() {
    let webhook = Webhook::refusing(usize::MAX).await;
    let mesh = Mesh::with(|config| {
        webhook.receives(config);
        config.notification.max_attempts = 3;
    })
    .await;
    let member_id = mesh.register("ann@example.com").await.member_id;
    let notification = eventually("it is given up", || async {
        let notification = mesh.notifications_of(&member_id).await.pop()?;
        (notification.state() == NotificationState::Failed).then_some(notification)
    })
    .await;
    assert_eq!(notification.attempt_count, 3);
    assert!(
        notification.last_error.contains("503"),
        "{}",
        notification.last_error
    );
    assert!(notification.send_time.is_none());
    mesh.settled().await;
    let member = mesh.member(&member_id).await;
    assert_eq!(member.state(), MemberState::Active);
    assert!(!member.admin_notified);
    assert_eq!(webhook.delivered().len(), 3);
    mesh.finish().await;
}

#[tokio::test]
async fn claiming_what_is_due_reads_the_index_of_what_waits_and_sorts_nothing() {
    let mesh = Mesh::start().await;
    let file = mesh.file("notification").await;
    let query = "SELECT notification_id FROM notifications \
                 WHERE next_attempt_time <= 1 ORDER BY next_attempt_time LIMIT 64";
    let plan = file.plan(query).await.join("\n");
    assert!(plan.contains("notifications_pending"), "{plan}");
    assert!(
        !plan.to_lowercase().contains("sort") && !plan.contains("TEMP B-TREE"),
        "{plan}"
    );
    drop(file);
    mesh.finish().await;
}
