//! Events that come twice, backwards, late, again, or broken.

use couponmesh::node::ServiceName;
use couponmesh_messaging::Event;
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued, CouponState},
    member::v1::{MemberState, WithdrawalState},
};
use couponmesh_runtime::{
    Context, CorrelationId,
    id::{EventId, MemberId},
};
use prost::Message as _;

use crate::harness::{Mesh, Webhook, eventually};

/// How far a service is.
const POSITIONS: &str = "SELECT sequence FROM positions ORDER BY partition";
const SERVICES: [&str; 4] = ["member", "coupon", "notification", "mypage"];

#[tokio::test]
async fn events_that_come_twice_and_in_reverse_lead_to_the_same_end() {
    let mut mesh = Mesh::idle(|_| {}).await;
    mesh.bus().deliver_twice_and_backwards();
    mesh.start_all().await;
    let stays = mesh.join("stays@example.com").await;
    let leaves = mesh.join("leaves@example.com").await;
    mesh.withdraw(&leaves.member_id).await;
    mesh.settled().await;
    assert_eq!(mesh.member(&stays.member_id).await.version, 3);
    let left = mesh.member(&leaves.member_id).await;
    assert_eq!((left.state(), left.version), (MemberState::Withdrawn, 5));
    mesh.finish().await;
}

#[tokio::test]
async fn a_whole_life_that_is_heard_of_backwards_is_shown_as_it_was() {
    let mut mesh = Mesh::idle(|_| {}).await;
    mesh.bus().deliver_twice_and_backwards();
    mesh.bus().hold("member");
    mesh.bus().hold("mypage");
    mesh.start_all().await;
    let member = mesh.register("ann@example.com").await;
    eventually("coupon and notification did their part", || async {
        let log = mesh.log().await.of(&member.member_id).await;
        log.len() == 3
    })
    .await;
    let withdrawal = mesh.withdraw(&member.member_id).await;
    assert_eq!(withdrawal.state(), WithdrawalState::Completed);
    // Member hears of the cancelling, the notification and the issuing, in this order and all too late.
    mesh.bus().release("member");
    eventually("the member knows it all", || async {
        mesh.member(&member.member_id).await.admin_notified
    })
    .await;
    mesh.bus().release("mypage");
    mesh.settled().await;
    let left = mesh.member(&member.member_id).await;
    assert_eq!(left.state(), MemberState::Withdrawn);
    assert!(left.coupon_issue_time.is_some() && left.coupon_cancelled);
    mesh.finish().await;
}

#[tokio::test]
async fn a_log_that_is_read_once_more_from_its_beginning_changes_nothing_and_sends_nothing() {
    let webhook = Webhook::refusing(0).await;
    let mesh = Mesh::with(|config| webhook.receives(config)).await;
    let members = mesh.join_many(10).await;
    for member in &members[..5] {
        mesh.withdraw(&member.member_id).await;
    }
    mesh.settled().await;
    assert_eq!(webhook.delivered().len(), 10);

    let shut = mesh.shut().await;
    let mut books = Vec::new();
    let mut heard = Vec::new();
    for service in SERVICES {
        let file = shut.file(service).await;
        for table in file.tables().await {
            if !["positions", "leases", "clock_spans"].contains(&table.as_str()) {
                books.push((service, table.clone(), file.rows(&table).await));
            }
        }
        heard.push(file.column::<i64>(POSITIONS).await);
        file.execute("UPDATE positions SET sequence = 0, stamp = NULL")
            .await;
    }

    let mesh = shut.open().await;
    for (service, heard) in SERVICES.into_iter().zip(heard) {
        eventually("every event was heard again", || async {
            let now: Vec<i64> = mesh.file(service).await.column(POSITIONS).await;
            now.iter().zip(&heard).all(|(now, heard)| now >= heard)
        })
        .await;
    }
    for (service, table, rows) in books {
        let now = mesh.file(service).await.rows(&table).await;
        assert_eq!(now, rows, "{service}.{table}");
    }
    // Whatever else was due would be sent before this one.
    mesh.join("one-more@example.com").await;
    assert_eq!(webhook.delivered().len(), 11);
    mesh.finish().await;
}

#[tokio::test]
async fn a_cancel_before_the_coupon_is_issued_leaves_nothing_to_issue() {
    let mesh = Mesh::start().await;
    mesh.bus().hold("coupon");
    let member = mesh.register("ann@example.com").await;
    let withdrawal = mesh.withdraw(&member.member_id).await;
    assert_eq!(withdrawal.state(), WithdrawalState::Completed);
    let before = mesh.coupons_of(&member.member_id).await;
    let [coupon] = before.as_slice() else {
        panic!("{before:?}")
    };
    assert_eq!(
        (coupon.state(), coupon.code.as_str()),
        (CouponState::Cancelled, "")
    );
    assert!(coupon.issue_time.is_none());

    mesh.bus().release("coupon");
    eventually("coupon heard of the registration", || async {
        let file = mesh.file("coupon").await;
        file.column::<i64>(POSITIONS)
            .await
            .iter()
            .any(|one| *one > 0)
    })
    .await;
    assert_eq!(mesh.coupons_of(&member.member_id).await, before);
    mesh.settled().await;
    let left = mesh.member(&member.member_id).await;
    assert_eq!(left.state(), MemberState::Withdrawn);
    assert!(left.coupon_issue_time.is_none());
    mesh.finish().await;
}

#[tokio::test]
async fn a_poisoned_event_is_put_aside_and_holds_nothing_up() {
    const REGISTERED: &str = "couponmesh.member.v1.MemberRegistered";
    const ISSUED: &str = "couponmesh.coupon.v1.CouponIssued";
    let mesh = Mesh::start().await;
    let garbage = vec![0xff; 20];
    let of_nobody = CouponIssued {
        coupon_id: mesh.new_id().to_string(),
        issue_time: Some(Default::default()),
        ..Default::default()
    };
    let events = [
        (REGISTERED, garbage.clone()),
        (ISSUED, garbage),
        (ISSUED, of_nobody.encode_to_vec()),
    ];
    let events = events.map(|(event_type, payload)| poison(&mesh, event_type, payload));
    mesh.publish(events.to_vec()).await;

    for (service, letters) in SERVICES.into_iter().zip([2, 1, 1, 2]) {
        eventually("the poison is put aside", || async {
            let parked = mesh.file(service).await.count("dead_letters").await;
            (parked == letters)
                .then_some(())
                .ok_or(format!("{parked} at {service}"))
        })
        .await;
    }
    let member = mesh.join("ann@example.com").await;
    mesh.withdraw(&member.member_id).await;
    mesh.page_at(&member.member_id, 5).await;
    mesh.shut().await.remove().await;
}

#[tokio::test]
async fn a_cancellation_that_another_service_makes_up_is_refused_and_withdraws_nobody() {
    let mesh = Mesh::start().await;
    let member = mesh.join("ann@example.com").await;
    let coupons = mesh.coupons_of(&member.member_id).await;
    let made_up = CouponCancelled {
        coupon_id: coupons[0].coupon_id.clone(),
        member_id: member.member_id.clone(),
        withdrawal_id: mesh.new_id().to_string(),
        cancel_time: Some(Default::default()),
        version: 2,
        ..Default::default()
    };
    let event = Event {
        member_id: MemberId::parse(&member.member_id).unwrap(),
        ..poison(
            &mesh,
            "couponmesh.coupon.v1.CouponCancelled",
            made_up.encode_to_vec(),
        )
    };
    // In one process nobody else can publish.
    let Some(published) = mesh.publish_as(ServiceName::Mypage, event).await else {
        return mesh.shut().await.remove().await;
    };
    assert!(published.is_err());
    mesh.settled().await;
    let after = mesh.member(&member.member_id).await;
    assert_eq!((after.state(), after.version), (MemberState::Active, 3));
    assert!(!after.coupon_cancelled);
    mesh.finish().await;
}

fn poison(mesh: &Mesh, event_type: &str, payload: Vec<u8>) -> Event {
    let id = mesh.new_id();
    Event {
        id: EventId(id),
        event_type: event_type.to_owned(),
        source: event_type.split('.').nth(1).unwrap().to_owned(),
        member_id: MemberId(mesh.new_id()),
        time: mesh.now(),
        context: Context::new(CorrelationId::from(id)),
        payload,
    }
}
