//! Three NATS servers as one cluster: how many of them have an event, and what is said about it.
//!
//! Each test ends at once where there is no server to be had.

use std::{collections::HashSet, sync::Mutex, time::Duration};

use async_nats::jetstream::{self, stream::Info};
use couponmesh_messaging::{
    Bus as _,
    bus::{NatsBus, NatsConfig, Publisher},
};
use couponmesh_testbed::{NatsCluster, on_servers};
use futures::StreamExt as _;
use tokio::time::timeout;

use crate::{
    log::Log,
    nats_bus::{events, ids},
    support::{TICKED, TICKS, eventually, nats_config_at, start_bus},
};

const ONE_COPY: &str = "keeps one copy of the events, and loses them with one server";
const EDIT: &str = "nats stream edit COUPONMESH --replicas 3";

/// A replica's bus, and what it logs.
async fn bus(cluster: &NatsCluster, replicas: usize) -> (NatsBus, Log) {
    let config = NatsConfig {
        replicas,
        start_timeout: Duration::from_secs(60),
        ..nats_config_at(cluster.url())
    };
    let log = Log::default();
    let _listening = log.listen();
    let bus = start_bus(&config, &[]);
    bus.reached().await.unwrap();
    (bus, log)
}

async fn info(cluster: &NatsCluster) -> Info {
    cluster.events().stream().await.cached_info().clone()
}

async fn leader(cluster: &NatsCluster) -> String {
    let cluster = info(cluster).await.cluster.unwrap();
    cluster.leader.unwrap()
}

#[tokio::test]
async fn one_copy_in_a_cluster_is_warned_of_and_three_outlive_a_server() {
    if !on_servers() {
        return;
    }
    let mut cluster = NatsCluster::start();
    let (one, log) = bus(&cluster, 1).await;
    assert_eq!(log.lines_with(ONE_COPY), 1, "made by this process");
    assert_eq!(log.lines_with(EDIT), 1);
    let mut sent = events(TICKED, 100);
    one.publish(sent.clone(), 0).await.unwrap();
    one.close().await;

    let (three, log) = bus(&cluster, 3).await;
    assert_eq!(log.lines_with("replicas is 1, not 3"), 1);
    assert_eq!(log.lines_with(ONE_COPY), 1, "found by this process");
    assert_eq!(log.lines_with(EDIT), 2);
    three.close().await;

    // What the warnings tell to do.
    let js = jetstream::new(cluster.events().client().await);
    for name in ["COUPONMESH", "KV_couponmesh"] {
        let edit = format!("nats stream edit {name} --replicas 3");
        assert!(log.lines_with(&edit) > 0, "{edit}");
        let stream = js.get_stream(name).await.unwrap();
        let mut more = stream.cached_info().config.clone();
        more.num_replicas = 3;
        js.update_stream(more).await.unwrap();
    }
    eventually("both new copies are complete", async || {
        let peers = info(&cluster).await.cluster.unwrap().replicas;
        peers.len() == 2 && peers.iter().all(|peer| peer.current)
    })
    .await;
    let (three, log) = bus(&cluster, 3).await;
    // Others may come of a cluster that is at work.
    for told in [
        ONE_COPY,
        EDIT,
        "replicas is",
        "which says whose the stream is",
    ] {
        assert_eq!(log.lines_with(told), 0);
    }

    let lost = leader(&cluster).await;
    cluster.lose(&lost);
    let late = events(TICKED, 40);
    eventually("events are taken again", async || {
        three.publish(late.clone(), 0).await.is_ok()
    })
    .await;
    sent.extend(late);
    // A cluster without one of its servers may keep a consumer waiting for a leader.
    let seen = Mutex::new(HashSet::new());
    let pause = Duration::from_secs(1);
    eventually("all events are read", async || {
        if let Ok(mut reading) = three.read("a", "0", TICKS, 0).await {
            let mut next = async || timeout(pause, reading.next()).await;
            while let Ok(Some(Ok(delivery))) = next().await {
                let id = delivery.event.map(|event| event.id);
                seen.lock().unwrap().extend(id);
            }
        }
        seen.lock().unwrap().len() == sent.len()
    })
    .await;
    assert_eq!(seen.into_inner().unwrap(), ids(&sent));
    three.close().await;
}

/// The cluster itself makes such a stream anew, empty and with the old one's time of creation.
#[tokio::test]
async fn the_loss_of_the_only_copy_is_seen_however_much_is_published_afterwards() {
    if !on_servers() {
        return;
    }
    let mut cluster = NatsCluster::start();
    let (bus, _) = bus(&cluster, 1).await;
    bus.publish(events(TICKED, 100), 0).await.unwrap();
    let place = bus.publish(events(TICKED, 5), 0).await.unwrap().unwrap();
    assert_eq!(place.sequence, 105);
    assert!(Publisher::holds(&bus, place).await.unwrap());
    let before = info(&cluster).await;
    let only = leader(&cluster).await;
    cluster.lose(&only);
    cluster.restart(&only);

    let late = events(TICKED, 3);
    eventually("events are taken again", async || {
        bus.publish(late.clone(), 0).await.is_ok()
    })
    .await;
    let after = info(&cluster).await;
    assert_eq!(after.created, before.created);
    assert_eq!(after.state.last_sequence, 3, "the cluster kept its events");
    eventually("the loss is seen", async || {
        Publisher::holds(&bus, place)
            .await
            .is_ok_and(|holds| !holds)
    })
    .await;
    let place_of_others = bus.publish(events(TICKED, 200), 0).await.unwrap().unwrap();
    assert!(place_of_others.sequence > place.sequence);
    assert!(!Publisher::holds(&bus, place).await.unwrap());
    // What was deleted for its age is not lost.
    let stream = cluster.events().stream().await;
    stream.purge().sequence(204).await.unwrap();
    assert!(Publisher::holds(&bus, place_of_others).await.unwrap());
    stream.purge().await.unwrap();
    assert!(Publisher::holds(&bus, place_of_others).await.unwrap());
    bus.close().await;
}
