//! The relay may die or fail anywhere: the bus gets every event, some of them more than once.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use couponmesh_messaging::{
    Bus, BusError, Event,
    bus::{Partition, Place, Publisher, Reading, Receipt},
    checkpoint, lease,
};
use couponmesh_runtime::{Timestamp, running::Running};
use couponmesh_testbed::on_servers;
use sea_orm::{ActiveValue::Set, EntityTrait as _, sea_query::Expr};

use crate::{
    check::{Idle, violations, violations_of},
    support::{Mesh, config, eventually},
};

#[tokio::test]
async fn a_relay_that_dies_before_it_stores_its_checkpoint_publishes_again_and_nothing_happens_twice()
 {
    if !on_servers() {
        return;
    }
    for point in ["relay.checkpoint:begin", "relay.checkpoint:commit"] {
        let (home, mesh) = Mesh::new().await;
        mesh.start();
        // Until the end of this life: of what is published nothing is noted.
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
        eventually("all is published", async || mesh.outbox().await.1 == 0).await;
        assert_eq!(violations_of(&mesh, 1..=2).await, [""; 0], "{point}");
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
    if !on_servers() {
        return;
    }
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    let faults = mesh.publisher.faults();
    for point in [
        "lease:begin",
        "relay.checkpoint:begin",
        "relay.checkpoint:commit",
        "relay.checkpoint:committed",
    ] {
        faults.arm(point, 2);
        mesh.register(5).await.unwrap();
        mesh.settle().await;
    }
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    // Each failure may have it publish all of it once more.
    assert_eq!(violations_of(&mesh, 1..=9).await, [""; 0]);
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
    eventually("all is published", async || mesh.outbox().await == (4, 0)).await;
    mesh.settle().await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn a_lease_that_a_dead_replica_s_wrong_clock_made_long_is_over() {
    if !on_servers() {
        return;
    }
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
async fn a_relay_that_stops_in_peace_leaves_nothing_to_be_published_twice() {
    if !on_servers() {
        return;
    }
    let (home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.register(10).await.unwrap();
    mesh.settle().await;
    mesh.close().await;
    let mesh = Mesh::open(&home).await;
    mesh.start();
    mesh.settle().await;
    assert_eq!(mesh.log().await.len(), 12);
    mesh.close().await;
}

#[tokio::test]
async fn what_is_wanted_once_more_is_published_by_a_relay_that_runs() {
    if !on_servers() {
        return;
    }
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.register(10).await.unwrap();
    eventually("all is published", async || mesh.outbox().await == (10, 0)).await;
    // Twice, and within the time in which NATS drops what it knows.
    for times in 1..3 {
        let tx = mesh.publisher.begin("test").await.unwrap();
        let older = checkpoint::Entity::update_many()
            .col_expr(checkpoint::Column::OlderPosition, Expr::value(9));
        older.exec(&*tx).await.unwrap();
        checkpoint::rewind(&*tx, 4).await.unwrap();
        tx.commit().await.unwrap();
        // What it says to be on the bus may be what is missing there.
        let stored = checkpoint::load(mesh.publisher.read()).await.unwrap();
        assert_eq!(stored.older_position, None);
        eventually("all is published again", async || {
            mesh.outbox().await == (10, 0)
        })
        .await;
        assert_eq!(mesh.log().await.len(), 10 + 6 * times);
    }
    mesh.settle().await;
    assert_eq!(violations_of(&mesh, 1..=3).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn a_checkpoint_from_the_future_loses_nothing() {
    if !on_servers() {
        return;
    }
    let (_home, mesh) = Mesh::new().await;
    mesh.register(10).await.unwrap();
    let tx = mesh.publisher.begin("test").await.unwrap();
    checkpoint::Entity::update_many()
        .col_expr(checkpoint::Column::Position, Expr::value(1_000_000))
        .exec(&*tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    mesh.start();
    mesh.settle().await;
    assert_eq!(mesh.log().await.len(), 11);
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

/// On the wrong side of a network that is cut in two.
struct CutOff;

#[async_trait]
impl Publisher for CutOff {
    async fn publish(&self, _: Vec<Event>, _: i64) -> Result<Option<Place>, BusError> {
        std::future::pending().await
    }

    fn connection(&self) -> u64 {
        0
    }

    async fn holds(&self, _: Place) -> Result<bool, BusError> {
        std::future::pending().await
    }

    async fn delete_before(&self, _: Timestamp, _: Timestamp) -> Result<(), BusError> {
        std::future::pending().await
    }
}

#[async_trait]
impl Bus for CutOff {
    fn publisher(&self) -> Option<Arc<dyn Publisher>> {
        Some(Arc::new(Self))
    }

    async fn holds(&self, _: &str, _: Place) -> Result<bool, BusError> {
        std::future::pending().await
    }

    async fn partitions(
        &self,
        _: &'static str,
        _: &'static [&'static str],
    ) -> Result<Vec<Partition>, BusError> {
        Err(BusError("cut off".into()))
    }

    async fn read(
        &self,
        _: &'static str,
        _: &str,
        _: &'static [&'static str],
        _: i64,
    ) -> Result<Reading, BusError> {
        Err(BusError("cut off".into()))
    }

    async fn passed(&self, _: Vec<Receipt>) {}
}

#[tokio::test]
async fn a_relay_that_the_bus_does_not_hear_leaves_the_outbox_to_another() {
    if !on_servers() {
        return;
    }
    let (_home, mesh) = Mesh::new().await;
    let cut_off = Running::new();
    let bus: Arc<dyn Bus> = Arc::new(CutOff);
    let replica = mesh.publisher.new_id();
    let store = mesh.publisher_as(replica, mesh.publisher.clock());
    couponmesh_messaging::start(&store, &bus, Idle, &config(), &cut_off);
    let leases = async || lease::Entity::find_by_id("relay").one(store.read()).await;
    eventually("it has the lease", async || {
        let lease = leases().await.unwrap();
        lease.is_some_and(|lease| lease.holder == replica)
    })
    .await;
    mesh.start();
    mesh.register(10).await.unwrap();
    eventually("all is published", async || mesh.outbox().await == (10, 0)).await;
    let holder = leases().await.unwrap().unwrap().holder;
    assert_ne!(holder, replica);
    cut_off.stop().await;
    mesh.settle().await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}
