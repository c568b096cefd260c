//! Whose a stream is, and what each service may do on the server.
//!
//! Each test ends at once where there is no server to be had.

use std::time::Duration;

use async_nats::jetstream;
use couponmesh_messaging::{
    Bus as _,
    bus::{NatsBus, NatsConfig, Place, Publisher as _, Role, StartError, logins},
};
use couponmesh_testbed::{Nats, on_servers};
use futures::StreamExt as _;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    log::Log,
    nats_bus::{events, ids},
    support::{TICKED, TICKS, config, eventually, nats_config, nats_config_at, role},
};

const SOON: Duration = Duration::from_millis(500);
const CONSUMERS: &[&str] = &["member", "coupon"];
/// An event of the service coupon.
const CUT: &str = "couponmesh.coupon.v1.Cut";

fn server() -> Option<Nats> {
    on_servers().then(Nats::start)
}

/// The bus of a service whose database has that id.
fn start(config: &NatsConfig, service: &'static str, database: u128) -> NatsBus {
    let bus = NatsBus::start(config, &self::config(), role(service, CONSUMERS), service);
    bus.serve(Uuid::from_u128(database));
    bus
}

async fn refused(bus: &NatsBus) -> String {
    match bus.reached().await.unwrap_err() {
        StartError::Stranger(stranger) => stranger.to_string(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_installation_keeps_off_the_stream_of_another() {
    let Some(nats) = server() else { return };
    let config = nats_config(&nats);
    let (member, coupon) = (start(&config, "member", 1), start(&config, "coupon", 2));
    member.reached().await.unwrap();
    coupon.reached().await.unwrap();
    let ours = events(TICKED, 3);
    member.publish(ours.clone(), 0).await.unwrap();

    // Whichever of its services comes, each by itself.
    for (service, id, known) in [("member", 3, 1), ("coupon", 4, 2)] {
        let strange = start(&config, service, id);
        let told = refused(&strange).await;
        for word in [
            "bus.prefix",
            "stream COUPONMESH belongs to another installation",
            &Uuid::from_u128(known).to_string(),
            &Uuid::from_u128(id).to_string(),
            &format!("nats kv del couponmesh {service}"),
        ] {
            assert!(told.contains(word), "{word:?} in {told}");
        }
        assert!(strange.publish(events(TICKED, 1), 0).await.is_err());
        assert!(strange.partitions("coupon", TICKS).await.is_err());
        strange.close().await;
    }

    // Both side by side, each with a prefix of its own.
    let other = NatsConfig {
        prefix: "shop-2".to_owned(),
        ..config.clone()
    };
    let others = start(&other, "member", 3);
    others.reached().await.unwrap();
    let theirs = events(TICKED, 2);
    others.publish(theirs.clone(), 0).await.unwrap();
    for (bus, published) in [(&coupon, &ours), (&others, &theirs)] {
        let mut reading = bus.read("coupon", "0", TICKS, 0).await.unwrap();
        let mut seen = Vec::new();
        while let Ok(Some(delivery)) = timeout(SOON, reading.next()).await {
            seen.extend(delivery.unwrap().event);
        }
        assert_eq!(ids(&seen), ids(published));
    }
    for bus in [member, coupon, others] {
        bus.close().await;
    }
}

#[tokio::test]
async fn a_database_takes_the_place_of_another_when_an_operator_says_so() {
    let Some(nats) = server() else { return };
    let config = nats_config(&nats);
    let before = start(&config, "member", 1);
    before.reached().await.unwrap();
    before.close().await;
    // As `nats kv del couponmesh member` does.
    let js = jetstream::new(nats.events().client().await);
    let claims = js.get_key_value("couponmesh").await.unwrap();
    claims.delete("member").await.unwrap();
    let after = start(&config, "member", 2);
    after.reached().await.unwrap();
    after.publish(events(TICKED, 1), 0).await.unwrap();
    // From now on it is the other that has to keep off.
    refused(&start(&config, "member", 1)).await;
    after.close().await;
}

#[tokio::test]
async fn services_wait_for_the_one_that_keeps_the_stream() {
    let Some(nats) = server() else { return };
    let config = nats_config(&nats);
    let coupon = start(&config, "coupon", 2);
    assert!(timeout(SOON, coupon.reached()).await.is_err());
    let member = start(&config, "member", 1);
    member.reached().await.unwrap();
    coupon.reached().await.unwrap();
    member.close().await;
    coupon.close().await;
}

#[tokio::test]
async fn who_has_claimed_the_stream_goes_on_when_the_claims_are_lost() {
    let Some(nats) = server() else { return };
    let config = nats_config(&nats);
    let member = start(&config, "member", 1);
    member.reached().await.unwrap();
    let coupon = start(&config, "coupon", 2);
    coupon.reached().await.unwrap();
    let js = jetstream::new(nats.events().client().await);
    js.delete_key_value("couponmesh").await.unwrap();
    // After a look in vain everything is looked for anew.
    let nowhere = Place {
        sequence: 1_000,
        stamp: Uuid::nil(),
    };
    for bus in [&coupon, &member] {
        assert!(!bus.publisher().unwrap().holds(nowhere).await.unwrap());
    }
    coupon.publish(events(CUT, 1), 0).await.unwrap();
    // Who keeps the stream makes them again, and is known there again.
    member.publish(events(TICKED, 1), 0).await.unwrap();
    refused(&start(&config, "member", 3)).await;
    member.close().await;
    coupon.close().await;
}

fn guarded(partitions: u16) -> Nats {
    let roles: Vec<Role> = CONSUMERS
        .iter()
        .map(|service| role(service, CONSUMERS))
        .collect();
    Nats::start_with_logins(&logins("couponmesh", partitions, &roles))
}

#[tokio::test]
async fn a_login_with_the_least_permissions_is_enough() {
    if !on_servers() {
        return;
    }
    let mut nats = guarded(1);
    let log = Log::default();
    let _listening = log.listen();
    let of = |service| nats_config_at(nats.url_of(service));
    let (member, coupon) = (
        start(&of("member"), "member", 1),
        start(&of("coupon"), "coupon", 2),
    );
    member.reached().await.unwrap();
    coupon.reached().await.unwrap();
    // One by one, and as a batch; and what keeps the stream.
    for count in [3, 40] {
        let place = member.publish(events(TICKED, count), 0).await.unwrap();
        assert!(
            member
                .publisher()
                .unwrap()
                .holds(place.unwrap())
                .await
                .unwrap()
        );
        coupon.publish(events(CUT, count), 0).await.unwrap();
    }
    let mut readings = Vec::new();
    for (bus, service, types) in [(&coupon, "coupon", TICKS), (&member, "member", &[CUT] as _)] {
        assert_eq!(bus.partitions(service, types).await.unwrap().len(), 1);
        let mut reading = bus.read(service, "0", types, 0).await.unwrap();
        for _ in 0..43 {
            let delivery = reading.next().await.unwrap().unwrap();
            bus.passed(delivery.receipt.into_iter().collect()).await;
        }
        readings.push(reading);
    }
    // Also what the client asks for when it comes back.
    nats.kill();
    nats.restart();
    for (reading, (bus, service, types)) in readings.iter_mut().zip([
        (&coupon, "coupon", TICKS),
        (&member, "member", &[CUT] as &[&str]),
    ]) {
        while let Some(Ok(_)) = reading.next().await {}
        eventually("it is read again", async || {
            bus.read(service, "0", types, 86).await.is_ok()
        })
        .await;
    }
    eventually("all is deleted", async || {
        let now = couponmesh_runtime::Clock::system().now();
        member.delete_before(now, now).await.unwrap();
        nats.events().messages().await.is_empty()
    })
    .await;
    assert_eq!(log.lines_with("refuses something to this login"), 0);
    member.close().await;
    coupon.close().await;
}

#[tokio::test]
async fn a_login_speaks_for_its_service_alone_and_what_it_may_not_is_named() {
    if !on_servers() {
        return;
    }
    let nats = guarded(1);
    let of = |service| nats_config_at(nats.url_of(service));
    let member = start(&of("member"), "member", 1);
    member.reached().await.unwrap();
    let log = Log::default();
    let _listening = log.listen();
    let coupon = start(&of("coupon"), "coupon", 2);
    coupon.reached().await.unwrap();
    // An event of member's, under the login of coupon.
    let forged = coupon.publish(events(TICKED, 1), 0).await;
    assert!(forged.is_err());
    assert_eq!(nats.events().messages().await.len(), 0);
    eventually("the subject is named", async || {
        log.lines_with("couponmesh.0.couponmesh.member.v1.Ticked") > 0
    })
    .await;
    assert_eq!(log.lines_with("couponmesh bus logins"), 1);

    // Nor does it read for another, claim for another, or touch the stream.
    assert!(coupon.read("member", "0", TICKS, 0).await.is_err());
    let client = async_nats::ConnectOptions::new()
        .user_and_password(
            "couponmesh-coupon".to_owned(),
            "the-password-of-couponmesh-coupon".to_owned(),
        )
        .custom_inbox_prefix("_INBOX.couponmesh.coupon")
        .request_timeout(Some(SOON))
        .connect(nats.url_of("coupon"))
        .await
        .unwrap();
    for subject in [
        "$KV.couponmesh.member",
        "$JS.API.STREAM.PURGE.COUPONMESH",
        "$JS.API.STREAM.DELETE.COUPONMESH",
        "$JS.API.STREAM.UPDATE.COUPONMESH",
        "$JS.API.CONSUMER.DELETE.COUPONMESH.member-0",
    ] {
        let answer = client.request(subject, "{}".into()).await;
        assert!(answer.is_err(), "{subject}: {answer:?}");
    }
    // Nor can it have its own event delivered where it may not publish.
    let mut small = events(CUT, 1);
    small[0].payload.clear();
    coupon.publish(small, 0).await.unwrap();
    for target in [
        "$KV.couponmesh.member",
        "$JS.API.STREAM.PURGE.COUPONMESH",
        "couponmesh.0.couponmesh.member.v1.Ticked",
    ] {
        for headers_only in [false, true] {
            let delete = "$JS.API.CONSUMER.DELETE.COUPONMESH.coupon-0";
            client.request(delete, "".into()).await.unwrap();
            let body = format!(
                r#"{{"stream_name":"COUPONMESH","config":{{"durable_name":"coupon-0","deliver_subject":"{target}",
                "headers_only":{headers_only},"deliver_policy":"all","ack_policy":"none","replay_policy":"instant"}}}}"#
            );
            let make = "$JS.API.CONSUMER.CREATE.COUPONMESH.coupon-0";
            client.request(make, body.into()).await.unwrap();
            tokio::time::sleep(SOON).await;
        }
    }
    let kept = nats.events().messages().await;
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].header("ce-type"), Some(CUT));
    let js = jetstream::new(nats.events().client().await);
    let claims = js.get_key_value("couponmesh").await.unwrap();
    let claim = claims.get("member").await.unwrap().unwrap();
    assert_eq!(claim, Uuid::from_u128(1).to_string());
    // Nor does it hear what others are told.
    let mut heard = client
        .subscribe("_INBOX.couponmesh.member.>")
        .await
        .unwrap();
    member.publish(events(TICKED, 1), 0).await.unwrap();
    assert!(matches!(
        timeout(SOON, heard.next()).await,
        Ok(None) | Err(_)
    ));
    member.close().await;
    coupon.close().await;
}
