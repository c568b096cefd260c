//! `couponmesh dlq` beside a running mesh.

use couponmesh_proto::coupon::v1::{
    ListCouponsRequest, coupon_service_client::CouponServiceClient,
};
use serde_json::Value;

use crate::{
    binary::process::{channel, eventually},
    desk::{Desk, REGISTERED},
};

#[tokio::test]
async fn a_dead_letter_is_listed_and_shown_without_what_it_holds() {
    let desk = Desk::new();
    let (process, _) = desk.run().start().await;
    let nothing = desk.told(&["dlq", "--service", "coupon", "list"]).await;
    assert_eq!(nothing, "0 dead letters at coupon\n");
    let poison = desk.poison().await;
    let (id, member_id) = (poison.id.to_string(), poison.member_id.to_string());

    let list = desk.told(&["dlq", "--service", "coupon", "list"]).await;
    let lines: Vec<&str> = list.lines().collect();
    let [heading, letter, count] = lines[..] else {
        panic!("{list}");
    };
    assert!(heading.starts_with("EVENT ID "), "{list}");
    for told in [
        &id,
        &member_id,
        REGISTERED,
        " open ",
        "cannot be understood",
    ] {
        assert!(letter.contains(told), "{told} is not in {list}");
    }
    // Columns stand below each other.
    assert_eq!(heading.find("STATE"), letter.find("open"), "{list}");
    assert_eq!(count, "1 dead letter at coupon");

    let show = desk
        .told(&["dlq", "show", &id, "--service", "coupon"])
        .await;
    for told in [&id, &member_id, REGISTERED, "a-test", "5 bytes"] {
        assert!(show.contains(told), "{told} is not in {show}");
    }
    let list = ["dlq", "list", "--service", "coupon", "--json"];
    let listed: Value = serde_json::from_str(&desk.told(&list).await).unwrap();
    assert_eq!(listed[0]["event_id"], id);
    assert_eq!(listed[0]["state"], "open");
    let show_json = ["dlq", "show", &id, "--service", "coupon", "--json"];
    let text = desk.told(&show_json).await;
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shown["payload_bytes"], 5);
    for text in [show, text] {
        assert!(!text.contains("Ann"), "{text}");
    }

    // Filters narrow it.
    for (filter, count) in [
        (["--type", REGISTERED], 1),
        (["--type", "MemberRegistered"], 1),
        (["--type", "Registered"], 0),
        (["--member-id", &member_id], 1),
        (["--member-id", &id], 0),
        (["--parked-since", "1h"], 1),
        (["--parked-before", "1h"], 0),
        (["--parked-before", "2000-01-01T00:00:00Z"], 0),
    ] {
        let list = ["dlq", "list", "--service", "coupon", "--json"];
        let text = desk.told(&[&list[..], &filter[..]].concat()).await;
        let listed: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(listed.len(), count, "{filter:?}");
    }
    let (status, _) = process.terminate().await;
    assert!(status.success());
}

#[tokio::test]
async fn a_redriven_event_is_handled_by_the_service_that_runs() {
    let desk = Desk::new();
    let (process, address) = desk.run().start().await;
    let poison = desk.poison().await;
    let id = poison.id.to_string();
    let redrive = ["dlq", "redrive", &id, "--service", "coupon"];

    let told = desk.told(&[&redrive[..], &["--dry-run"]].concat()).await;
    assert!(told.contains("would be redriven"), "{told}");
    let letter = desk.letter("coupon", poison.id).await.unwrap();
    assert!(letter.redrive_time.is_none());

    // Nothing has changed: it fails again, and waits as before.
    let attempts = letter.attempts;
    let told = desk.told(&redrive).await;
    assert!(
        told.contains("1 dead letter to be redriven by coupon"),
        "{told}"
    );
    eventually("it failed again", async || {
        let letter = desk.letter("coupon", poison.id).await?;
        (letter.attempts > attempts && letter.redrive_time.is_none()).then_some(())
    })
    .await;

    desk.mend("coupon", poison).await;
    desk.told(&["dlq", "redrive", "--all", "--service", "coupon"])
        .await;
    let letter = eventually("it is handled", async || {
        let letter = desk.letter("coupon", poison.id).await?;
        letter.close_time.is_some().then_some(letter)
    })
    .await;
    assert_eq!(letter.attempts, attempts + 1);
    let request = ListCouponsRequest {
        member_id: poison.member_id.to_string(),
        ..Default::default()
    };
    let mut coupons = CouponServiceClient::new(channel(address));
    let coupons = coupons.list_coupons(request).await.unwrap().into_inner();
    assert_eq!(coupons.coupons.len(), 1);
    let list = desk.told(&["dlq", "list", "--service", "coupon"]).await;
    assert_eq!(list, "0 dead letters at coupon\n");
    // What is done cannot be asked for, and nothing else is done either.
    let refused = desk.ask(&redrive).await;
    refused.assert_refused(&[&id, "handled", "nothing was done"]);
    let (status, _) = process.terminate().await;
    assert!(status.success());
}

#[tokio::test]
async fn a_dropped_event_is_gone_for_good() {
    let desk = Desk::new();
    let (process, _) = desk.run().start().await;
    let (first, second) = (desk.poison().await, desk.poison().await);
    let id = first.id.to_string();
    let drop = ["dlq", "drop", "--service", "coupon"];

    let told = desk
        .told(&[&drop[..], &["--all", "--dry-run"]].concat())
        .await;
    assert!(
        told.contains("2 dead letters of coupon would be dropped"),
        "{told}"
    );
    let told = desk.told(&[&drop[..], &[&id]].concat()).await;
    assert!(told.contains("1 dead letter dropped"), "{told}");
    assert!(desk.letter("coupon", first.id).await.is_none());
    assert!(desk.letter("coupon", second.id).await.is_some());

    // All or nothing: one id is unknown by now.
    let other = second.id.to_string();
    let refused = desk.ask(&[&drop[..], &[&other, &id]].concat()).await;
    refused.assert_refused(&[&id, "no dead letter", "nothing was done"]);
    assert!(desk.letter("coupon", second.id).await.is_some());
    let member_id = second.member_id.to_string();
    let by_member = [&drop[..], &["--member-id", &member_id]].concat();
    desk.told(&by_member).await;
    assert!(desk.letter("coupon", second.id).await.is_none());
    // A filter that matches nothing is no mistake.
    let told = desk.told(&by_member).await;
    assert_eq!(told, "0 dead letters to drop at coupon\n");
    let (status, _) = process.terminate().await;
    assert!(status.success());
}
