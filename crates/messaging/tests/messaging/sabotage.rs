//! Checks that cannot fail prove nothing: with one safety property switched off, they go red.

use std::time::Duration;

use couponmesh_messaging::outbox;
use sea_orm::EntityTrait as _;

use couponmesh_testbed::on_servers;

use crate::{
    check::{Trouble, violations},
    lives::{home, life, published},
    support::{Mesh, eventually},
};

/// A replica takes so long for a batch that another gets it, too; what the check finds after both have committed, or
/// tried to.
async fn after_a_replica_that_lost_its_turn(sabotage: Option<&str>) -> Vec<String> {
    let (_home, mesh) = Mesh::new().await;
    if let Some(property) = sabotage {
        mesh.consumer.faults().sabotage(property);
    }
    mesh.start_relay();
    // Until it came to that, but for the sabotage only.
    for _ in 0..if sabotage.is_some() { 30 } else { 3 } {
        mesh.start_consumer();
        mesh.register_one_troubled(Trouble::Waits).await;
        mesh.handler.hangs().await;
        // It has the other's identity, and so the other's share.
        let another = mesh.start_another_consumer();
        tokio::time::sleep(Duration::from_millis(300)).await;
        mesh.handler.go_on();
        mesh.settle().await;
        another.stop().await;
        mesh.stop_consumer().await;
        if !violations(&mesh).await.is_empty() {
            break;
        }
    }
    let violations = violations(&mesh).await;
    mesh.close().await;
    violations
}

#[tokio::test]
async fn the_exactly_once_check_goes_red_when_positions_are_not_compared() {
    assert_eq!(after_a_replica_that_lost_its_turn(None).await, [""; 0]);
    let violations = after_a_replica_that_lost_its_turn(Some("positions.compare")).await;
    assert!(!violations.is_empty());
    assert!(
        violations.iter().all(|one| one.contains(" is counted ")),
        "{violations:?}"
    );
}

/// A process dies while it handles an event; what the check finds after the next life.
fn after_a_handler_that_died(sabotage: Option<&str>) -> Vec<String> {
    let home = home();
    let members = published(&home);
    life(&home, async |mesh| {
        if let Some(property) = sabotage {
            mesh.consumer.faults().sabotage(property);
        }
        mesh.handler.troubled_by(members[3], Trouble::Hangs);
        mesh.start_consumer();
        mesh.handler.hangs().await;
    });
    life(&home, async |mesh| {
        mesh.start();
        mesh.settle().await;
        let violations = violations(mesh).await;
        mesh.close().await;
        violations
    })
}

#[test]
fn the_loss_check_goes_red_when_the_position_moves_in_a_transaction_of_its_own() {
    assert_eq!(after_a_handler_that_died(None), [""; 0]);
    let violations = after_a_handler_that_died(Some("positions.in_transaction"));
    assert_eq!(violations.len(), 12, "{violations:?}");
    assert!(
        violations.iter().all(|one| one.ends_with("is lost")),
        "{violations:?}"
    );
}

/// Loses the bus, and what retention has cut from the outbox with it; what the check finds after others filled it.
async fn after_a_bus_that_came_back_shorter(sabotage: Option<&str>) -> Vec<String> {
    let (mut home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.register(40).await.unwrap();
    mesh.settle().await;
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    mesh.stop().await;
    let tx = mesh.publisher.begin("test").await.unwrap();
    let cut = outbox::Entity::delete_many();
    cut.exec(&*tx).await.unwrap();
    tx.commit().await.unwrap();
    mesh.close().await;
    home.lose_bus();
    let mesh = Mesh::open(&home).await;
    if let Some(property) = sabotage {
        mesh.consumer.faults().sabotage(property);
    }
    mesh.start_relay();
    mesh.register(10).await.unwrap();
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    // Beyond where the consumer was.
    mesh.register(100).await.unwrap();
    mesh.start_consumer();
    mesh.settle().await;
    let violations = violations(&mesh).await;
    mesh.close().await;
    violations
}

#[tokio::test]
async fn the_loss_check_goes_red_when_no_consumer_looks_whether_the_bus_lost_events() {
    if !on_servers() {
        return;
    }
    assert_eq!(after_a_bus_that_came_back_shorter(None).await, [""; 0]);
    let violations = after_a_bus_that_came_back_shorter(Some("positions.loss")).await;
    assert!(!violations.is_empty());
    assert!(
        violations.iter().all(|one| one.ends_with("is lost")),
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
    if !on_servers() {
        return;
    }
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
    if !on_servers() {
        return;
    }
    assert_eq!(after_a_lost_bus(None).await, [""; 0]);
    let violations = after_a_lost_bus(Some("relay.loss")).await;
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].ends_with("is lost"), "{violations:?}");
}
