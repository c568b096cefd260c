//! Checks that cannot fail prove nothing: with one safety property switched off, they go red.

use crate::{
    check::violations,
    support::{Mesh, eventually},
};

/// Delivers every registration twice and returns what the check finds.
async fn after_duplicates(sabotage: Option<&str>) -> Vec<String> {
    let (_home, mesh) = Mesh::new().await;
    if let Some(property) = sabotage {
        mesh.consumer.faults().sabotage(property);
    }
    mesh.start();
    mesh.register(5).await.unwrap();
    mesh.settle().await;
    mesh.deliver_again(mesh.log().await).await;
    mesh.settle().await;
    let violations = violations(&mesh).await;
    mesh.close().await;
    violations
}

#[tokio::test]
async fn the_exactly_once_check_goes_red_without_the_inbox() {
    assert_eq!(after_duplicates(None).await, [""; 0]);
    let violations = after_duplicates(Some("inbox")).await;
    assert_eq!(violations.len(), 6, "{violations:?}");
    assert!(
        violations
            .iter()
            .all(|violation| violation.ends_with("is counted 2 times")),
        "{violations:?}"
    );
}

/// Dies between commit and what comes after it, and returns what the check finds.
async fn after_dying_at_the_commit(sabotage: Option<&str>) -> Vec<String> {
    let (_home, mesh) = Mesh::new().await;
    if let Some(property) = sabotage {
        mesh.publisher.faults().sabotage(property);
    }
    mesh.start();
    mesh.publisher.faults().arm("register:committed", 1);
    mesh.register(1).await.unwrap_err();
    mesh.settle().await;
    // The relay may still be about to find what nobody woke it for.
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    let violations = violations(&mesh).await;
    mesh.close().await;
    violations
}

#[tokio::test]
async fn the_loss_check_goes_red_when_events_are_stored_after_the_commit() {
    assert_eq!(after_dying_at_the_commit(None).await, [""; 0]);
    let violations = after_dying_at_the_commit(Some("outbox.in_transaction")).await;
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].ends_with("is lost"), "{violations:?}");
}

/// Dies between two steps of the relay, and returns what the check finds.
async fn after_a_relay_that_died(sabotage: Option<&str>) -> Vec<String> {
    let (_home, mesh) = Mesh::new().await;
    if let Some(property) = sabotage {
        mesh.publisher.faults().sabotage(property);
    }
    mesh.publisher.faults().arm("relay.checkpoint:committed", 1);
    mesh.start();
    mesh.register(1).await.unwrap();
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    mesh.settle().await;
    let violations = violations(&mesh).await;
    mesh.close().await;
    violations
}

#[tokio::test]
async fn the_loss_check_goes_red_when_the_checkpoint_moves_before_the_bus_has_the_events() {
    assert_eq!(after_a_relay_that_died(None).await, [""; 0]);
    let violations = after_a_relay_that_died(Some("relay.order")).await;
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].ends_with("is lost"), "{violations:?}");
}

/// Loses the bus with an event that nobody has handled yet, and returns what the check finds.
async fn after_a_lost_bus(sabotage: Option<&str>) -> Vec<String> {
    let (mut home, mesh) = Mesh::new().await;
    mesh.start_relay();
    mesh.register(1).await.unwrap();
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    mesh.close().await;
    home.lose_bus();
    let mesh = Mesh::open(&home).await;
    if let Some(property) = sabotage {
        mesh.publisher.faults().sabotage(property);
    }
    mesh.start();
    mesh.settle().await;
    let violations = violations(&mesh).await;
    mesh.close().await;
    violations
}

#[tokio::test]
async fn the_loss_check_goes_red_when_nobody_looks_whether_the_bus_lost_events() {
    assert_eq!(after_a_lost_bus(None).await, [""; 0]);
    let violations = after_a_lost_bus(Some("relay.loss")).await;
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].ends_with("is lost"), "{violations:?}");
}
