//! The relay may die or fail anywhere: the bus gets every event, some of them more than once.

use std::time::Duration;

use couponmesh_messaging::{lease, outbox};
use couponmesh_runtime::id::EventId;
use couponmesh_testbed::on_servers;
use sea_orm::{ActiveModelTrait as _, ActiveValue::Set, EntityTrait as _, IntoActiveModel as _};

use crate::{
    check::violations,
    support::{Mesh, eventually},
};

#[tokio::test]
async fn a_relay_that_dies_before_it_marks_publishes_again_and_nothing_happens_twice() {
    for point in ["relay.mark:begin", "relay.mark:commit"] {
        let (home, mesh) = Mesh::new().await;
        mesh.start();
        // Until the end of this life: what is published is never marked.
        mesh.publisher.faults().arm(point, u32::MAX);
        let members = mesh.register(10).await.unwrap();
        eventually("they are handled", async || {
            mesh.handler.count_of(&mesh.consumer, members[9]).await > 0
        })
        .await;
        assert_eq!(mesh.outbox().await, (10, 10), "{point}");
        mesh.close().await;

        let mesh = Mesh::open(&home).await;
        mesh.start();
        mesh.settle().await;
        eventually("all is marked", async || mesh.outbox().await.1 == 0).await;
        assert_eq!(violations(&mesh).await, [""; 0], "{point}");
        let published = mesh.log().await;
        if on_servers() {
            // NATS was given them, too, and knew them by their message ids.
            assert_eq!(published.len(), 11);
        } else {
            assert!(published.len() > 11, "the bus was to get duplicates");
        }
        mesh.close().await;
    }
}

#[tokio::test]
async fn a_relay_gets_over_every_step_that_fails() {
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    let faults = mesh.publisher.faults();
    for point in [
        "lease:begin",
        "relay.mark:begin",
        "relay.mark:commit",
        "relay.mark:committed",
    ] {
        faults.arm(point, 2);
        mesh.register(5).await.unwrap();
        mesh.settle().await;
    }
    eventually("all is marked", async || mesh.outbox().await.1 == 0).await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn an_event_whose_wake_up_is_lost_is_published_all_the_same() {
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.settle().await;
    // Committed, but the one who committed never hears of it and wakes nobody.
    mesh.publisher.faults().arm("register:committed", 1);
    mesh.register(3).await.unwrap_err();
    eventually("all is marked", async || mesh.outbox().await == (4, 0)).await;
    mesh.settle().await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn a_lease_that_a_dead_replica_s_wrong_clock_made_long_is_over() {
    let (_home, mesh) = Mesh::new().await;
    // The term of a lease, and an hour.
    let end = mesh.publisher.now().plus(Duration::from_secs(3_610));
    let dead = lease::ActiveModel {
        name: Set("relay".to_owned()),
        holder: Set(mesh.publisher.new_id()),
        end_time: Set(end),
    };
    let tx = mesh.publisher.begin("test").await.unwrap();
    let held = lease::Entity::insert(dead).exec_without_returning(&*tx);
    held.await.unwrap();
    tx.commit().await.unwrap();
    mesh.start();
    mesh.register(3).await.unwrap();
    mesh.settle().await;
    mesh.close().await;
}

#[tokio::test]
async fn an_event_that_commits_long_after_others_that_follow_it_is_published_all_the_same() {
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.register(1).await.unwrap();
    eventually("it is marked", async || mesh.outbox().await == (1, 0)).await;
    // First the later one, far beyond it, then the earlier one, far before that.
    for (count, seq) in [(2, 1_000_000), (3, 500)] {
        let tx = mesh.publisher.begin("test").await.unwrap();
        let published = outbox::Entity::find().one(&*tx).await.unwrap().unwrap();
        let row = outbox::Model {
            seq,
            event_id: EventId(tx.new_id()),
            publish_time: None,
            ..published
        };
        let row = row.into_active_model().reset_all();
        outbox::Entity::insert(row)
            .exec_without_returning(&*tx)
            .await
            .unwrap();
        // Wakes nobody: it holds no event of its own.
        tx.commit().await.unwrap();
        eventually("it is marked, too", async || {
            mesh.outbox().await == (count, 0)
        })
        .await;
    }
    mesh.close().await;
}
