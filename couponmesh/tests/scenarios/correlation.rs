//! What one call causes can be followed through every service.

use couponmesh_member::withdrawals;
use couponmesh_notification::notifications;
use couponmesh_proto::member::v1::WithdrawMemberRequest;
use sea_orm::EntityTrait as _;
use tonic::{Request, metadata::MetadataMap};

use crate::harness::{Logged, Mesh, Way, calls::registration};

const JOINING: [(&str, &str); 2] = [
    ("x-correlation-id", "joining-17"),
    (
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
];
const LEAVING: [(&str, &str); 2] = [
    ("x-correlation-id", "leaving-17"),
    (
        "traceparent",
        "00-1bf7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01",
    ),
];

fn with<T>(headers: [(&'static str, &'static str); 2], message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    request
}

fn header<'a>(metadata: &'a MetadataMap, name: &str) -> &'a str {
    metadata.get(name).unwrap().to_str().unwrap()
}

#[tokio::test]
async fn ids_travel_with_every_event_row_and_call_that_a_request_causes() {
    let mesh = Mesh::start().await;
    let request = with(JOINING, registration("ann@example.com"));
    let answer = mesh.members().register_member(request).await.unwrap();
    assert_eq!(header(answer.metadata(), "x-correlation-id"), JOINING[0].1);
    let member_id = answer.into_inner().member.unwrap().member_id;
    mesh.joined(&member_id).await;
    // The worker's calls carry it too. Without the event, which would complete the withdrawal as well.
    mesh.coupon_way().set(Way::Refuse);
    mesh.bus().hold("member");
    let message = WithdrawMemberRequest {
        request_id: String::new(),
        member_id: member_id.clone(),
    };
    let request = with(LEAVING, message);
    let answer = mesh.members().withdraw_member(request).await.unwrap();
    assert_eq!(header(answer.metadata(), "x-correlation-id"), LEAVING[0].1);
    let withdrawal_id = answer.into_inner().withdrawal.unwrap().withdrawal_id;
    mesh.coupon_way().set(Way::Pass);
    mesh.completed(&withdrawal_id).await;
    mesh.bus().release("member");
    mesh.settled().await;

    let log = mesh.log().await.of(&member_id).await;
    let mut story: Vec<_> = log.iter().map(|event| chapter(event, &log)).collect();
    story.sort_unstable();
    let (joining, leaving) = (JOINING.map(|(_, id)| id), LEAVING.map(|(_, id)| id));
    assert_eq!(
        story,
        [
            ("CouponCancelled", None, leaving),
            ("CouponIssued", Some("MemberRegistered"), joining),
            ("MemberChanged", None, leaving),
            ("MemberChanged", Some("CouponIssued"), joining),
            ("MemberChanged", Some("NotificationSent"), joining),
            ("MemberRegistered", None, joining),
            ("MemberWithdrawn", None, leaving),
            ("NotificationSent", Some("MemberRegistered"), joining),
        ]
    );

    let file = mesh.file("notification").await;
    let notification = notifications::Entity::find()
        .one(file.db())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(notification.correlation_id, JOINING[0].1);
    assert_eq!(notification.traceparent.as_deref(), Some(JOINING[1].1));
    let file = mesh.file("member").await;
    let withdrawal = withdrawals::Entity::find()
        .one(file.db())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(withdrawal.correlation_id, LEAVING[0].1);
    let calls = mesh.coupon_way().calls();
    assert!(!calls.is_empty());
    for call in calls {
        for (name, value) in LEAVING {
            assert_eq!(header(&call.metadata, name), value);
        }
    }
    mesh.finish().await;
}

/// What happened, what event caused it, and under which ids.
fn chapter<'a>(event: &'a Logged, log: &'a [Logged]) -> (&'a str, Option<&'a str>, [&'a str; 2]) {
    let cause = event.causation_id.map(|id| {
        let cause = log.iter().find(|event| event.event_id == id);
        name(cause.unwrap())
    });
    let traceparent = event.traceparent.as_deref().unwrap_or_default();
    (name(event), cause, [&event.correlation_id, traceparent])
}

fn name(event: &Logged) -> &str {
    event.event_type.rsplit('.').next().unwrap()
}

#[tokio::test]
async fn who_sends_no_id_gets_one_and_a_malformed_one_is_replaced() {
    let mesh = Mesh::start().await;
    let too_long: &'static str = "x".repeat(129).leak();
    for headers in [
        [("x-other", "y"), ("x-another", "z")],
        [
            ("x-correlation-id", "has a space"),
            ("traceparent", "nonsense"),
        ],
        [("x-correlation-id", too_long), ("traceparent", "")],
    ] {
        let email = format!("{}@example.com", mesh.new_id());
        let request = with(headers, registration(&email));
        let answer = mesh.members().register_member(request).await.unwrap();
        let minted = header(answer.metadata(), "x-correlation-id").to_owned();
        assert!(minted.parse::<uuid::Uuid>().is_ok(), "{minted}");
        let member_id = answer.into_inner().member.unwrap().member_id;
        mesh.joined(&member_id).await;
        for event in mesh.log().await.of(&member_id).await {
            assert_eq!(event.correlation_id, minted);
            assert_eq!(event.traceparent, None);
        }
    }
    // Refusals carry it too.
    let request = with(JOINING, registration("nobody"));
    let refusal = mesh.members().register_member(request).await.unwrap_err();
    assert_eq!(header(refusal.metadata(), "x-correlation-id"), JOINING[0].1);
    mesh.finish().await;
}
