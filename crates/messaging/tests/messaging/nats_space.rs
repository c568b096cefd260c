//! A stream that fills up.
//!
//! Each test ends at once where there is no server to be had.

use std::time::Duration;

use couponmesh_messaging::{
    Bus as _,
    bus::{NatsConfig, Publisher as _},
};
use couponmesh_testbed::{Nats, on_servers};
use futures::StreamExt as _;

use crate::{
    log::Log,
    nats_bus::events,
    support::{TICKED, TICKS, eventually, nats_config, start_bus},
};

const SIZE: i64 = 200_000;

fn small(nats: &Nats) -> NatsConfig {
    NatsConfig {
        max_bytes: SIZE,
        ..nats_config(nats)
    }
}

async fn bytes(nats: &Nats) -> u64 {
    let stream = nats.events().stream().await;
    stream.cached_info().state.bytes
}

#[tokio::test]
async fn what_everybody_is_past_makes_room_however_young_it_is() {
    if !on_servers() {
        return;
    }
    let nats = Nats::start();
    let log = Log::default();
    let _listening = log.listen();
    let bus = start_bus(&small(&nats), &["fast", "slow"]);
    bus.reached().await.unwrap();
    let mut fast = bus.read("fast", "0", TICKS, 0).await.unwrap();
    let mut slow = bus.read("slow", "0", TICKS, 0).await.unwrap();
    // 1.3 kB each.
    bus.publish(events(TICKED, 130), 0).await.unwrap();
    let before = bytes(&nats).await;
    assert!(before > 80 * 2_000, "{before}");
    let mut receipts = Vec::new();
    for _ in 0..130 {
        let delivery = fast.next().await.unwrap().unwrap();
        bus.passed(delivery.receipt.into_iter().collect()).await;
        receipts.push(slow.next().await.unwrap().unwrap().receipt);
    }
    // One of them has not said that it is past anything.
    eventually("it is told", async || {
        log.lines_with("nearly full of events that some service has not read") == 1
    })
    .await;
    assert_eq!(bytes(&nats).await, before);

    // It has dealt with some.
    bus.passed(receipts.drain(..20).flatten().collect()).await;
    eventually("those go", async || {
        nats.events().messages().await.len() == 110
    })
    .await;
    // And with all: the younger half stays.
    bus.passed(receipts.into_iter().flatten().collect()).await;
    bus.publish(events(TICKED, 10), 0).await.unwrap();
    eventually("there is room", async || bytes(&nats).await < 60 * 2_000).await;
    assert!(bytes(&nats).await > 40 * 2_000);
    bus.close().await;
}

#[tokio::test]
async fn a_stream_too_small_for_what_is_expected_is_warned_of() {
    if !on_servers() {
        return;
    }
    let nats = Nats::start();
    let told = "the stream of 67108864 bytes is 80 % full after 167 hours";
    // 80 % of 64 MiB for seven days: 2,191 members a day.
    for (registrations_per_day, warned) in [(2_190, 0), (2_195, 1)] {
        let config = NatsConfig {
            registrations_per_day,
            ..nats_config(&nats)
        };
        let log = Log::default();
        let _listening = log.listen();
        let bus = start_bus(&config, &[]);
        bus.reached().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(log.lines_with(told), warned, "{registrations_per_day}");
        bus.close().await;
    }
}
