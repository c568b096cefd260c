//! The relay may die or fail anywhere: the bus gets every event, some of them more than once.

use couponmesh_testbed::on_servers;

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
