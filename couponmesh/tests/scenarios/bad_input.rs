//! What is no sensible request is refused, and the answer says what is wrong with it.

use std::fmt::Debug;

use couponmesh_proto::{
    coupon::v1::{CancelCouponRequest, GetCouponRequest, ListCouponsRequest},
    member::v1::{
        GetMemberRequest, GetWithdrawalRequest, ListMembersRequest, RegisterMemberRequest,
        WithdrawMemberRequest,
    },
    mypage::v1::{GetMyPageRequest, WatchMyPageRequest},
    notification::v1::{GetNotificationRequest, ListNotificationsRequest},
};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::harness::{
    Mesh,
    calls::{refused, registration},
};

const NO_IDS: [&str; 5] = [
    "x",
    "0198c1f0-5c3e-7d7a-a1b5",
    "0198c1f05c3e7d7aa1b53f2d9c0e8b11",
    "{0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11}",
    "0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b1g",
];

/// Checks that `answer` is FIELD_INVALID and names `field` everywhere.
#[track_caller]
fn names<T: Debug>(field: &str, answer: Result<Response<T>, Status>) {
    names_all(&[field], answer);
}

/// Checks that `answer` is FIELD_INVALID and names `fields` everywhere, in this order.
#[track_caller]
fn names_all<T: Debug>(fields: &[&str], answer: Result<Response<T>, Status>) {
    let status = answer.expect_err("nothing is wrong");
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    assert_eq!(
        refused::<()>(Err(status.clone())),
        invalid,
        "{fields:?}: {status:?}"
    );
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let named: Vec<&str> = violations.iter().map(|each| each.field.as_str()).collect();
    assert_eq!(named, fields);
    assert!(violations.iter().all(|each| !each.description.is_empty()));
    let said = violations
        .iter()
        .map(|each| format!("{}: {}", each.field, each.description));
    assert_eq!(status.message(), said.collect::<Vec<_>>().join("; "));
}

/// No id, or an empty one where there must be one.
fn no_ids() -> impl Iterator<Item = String> {
    NO_IDS.into_iter().chain([""]).map(ToOwned::to_owned)
}

#[tokio::test]
async fn addresses_and_names_that_are_none_are_refused_by_name() {
    let mesh = Mesh::start().await;
    let ann = registration("ann@example.com");
    let long = format!("{}@example.com", "x".repeat(250));
    let huge = format!("{}@example.com", "x".repeat(20_000));
    let emails = [
        "",
        "  ",
        "ann",
        "@example.com",
        "ann@",
        "a b@example.com",
        "a@b@c",
    ];
    let odd = [
        "ann@localhost",
        "ann@127.0.0.1",
        "a\u{200b}nn@example.com",
        "ann@ex\u{7}ample.com",
        "a\0@example.com",
        "Ann <ann@example.com>",
    ];
    for email in emails
        .into_iter()
        .chain(odd)
        .chain([long.as_str(), huge.as_str()])
    {
        let request = RegisterMemberRequest {
            email: email.to_owned(),
            ..ann.clone()
        };
        names("email", mesh.members().register_member(request).await);
        if !email.is_empty() {
            let request = ListMembersRequest {
                email: email.to_owned(),
                ..Default::default()
            };
            names("email", mesh.members().list_members(request).await);
        }
    }
    for name in [
        "",
        " \t ",
        "a\nb",
        "a\u{9f}b",
        "\u{200b}",
        "\u{202e}nnA",
        "\u{2800}",
        "Ann \u{fffd}",
        "Ann \u{e000}",
        &"x".repeat(101),
        &"x".repeat(20_000),
    ] {
        let request = RegisterMemberRequest {
            display_name: name.to_owned(),
            ..ann.clone()
        };
        names(
            "display_name",
            mesh.members().register_member(request).await,
        );
    }
    assert_eq!(mesh.file("member").await.count("members").await, 0);
    mesh.finish().await;
}

#[tokio::test]
async fn ids_that_are_none_are_refused_by_name() {
    let mesh = Mesh::start().await;
    let real = mesh.new_id().to_string();
    for id in NO_IDS {
        let request = RegisterMemberRequest {
            request_id: id.to_owned(),
            ..registration("ann@example.com")
        };
        names("request_id", mesh.members().register_member(request).await);
        let request = WithdrawMemberRequest {
            request_id: id.to_owned(),
            member_id: real.clone(),
        };
        names("request_id", mesh.members().withdraw_member(request).await);
        let member_id = id.to_owned();
        let request = ListCouponsRequest {
            member_id: member_id.clone(),
            ..Default::default()
        };
        names("member_id", mesh.coupons().list_coupons(request).await);
        let request = ListNotificationsRequest {
            member_id,
            ..Default::default()
        };
        names(
            "member_id",
            mesh.notifications().list_notifications(request).await,
        );
    }
    for id in no_ids() {
        let (member_id, withdrawal_id) = (id.clone(), id.clone());
        let request = GetMemberRequest { member_id };
        names("member_id", mesh.members().get_member(request).await);
        let request = WithdrawMemberRequest {
            member_id: id.clone(),
            ..Default::default()
        };
        names("member_id", mesh.members().withdraw_member(request).await);
        let request = GetWithdrawalRequest { withdrawal_id };
        names(
            "withdrawal_id",
            mesh.members().get_withdrawal(request).await,
        );
        let coupon_id = id.clone();
        let request = GetCouponRequest { coupon_id };
        names("coupon_id", mesh.coupons().get_coupon(request).await);
        let request = CancelCouponRequest {
            member_id: id.clone(),
            withdrawal_id: real.clone(),
            ..Default::default()
        };
        names("member_id", mesh.coupons().cancel_coupon(request).await);
        let request = CancelCouponRequest {
            member_id: real.clone(),
            withdrawal_id: id.clone(),
            ..Default::default()
        };
        names("withdrawal_id", mesh.coupons().cancel_coupon(request).await);
        let notification_id = id.clone();
        let request = GetNotificationRequest { notification_id };
        names(
            "notification_id",
            mesh.notifications().get_notification(request).await,
        );
        let request = GetMyPageRequest {
            member_id: id.clone(),
            min_version: 0,
        };
        names("member_id", mesh.pages().get_my_page(request).await);
        let request = WatchMyPageRequest { member_id: id };
        let answer = mesh.pages().watch_my_page(request).await;
        names("member_id", answer.map(|_| Response::new(())));
    }
    mesh.finish().await;
}

#[tokio::test]
async fn numbers_texts_and_states_out_of_range_are_refused_by_name() {
    let mesh = Mesh::start().await;
    let real = mesh.new_id().to_string();
    for page_size in [-1, i32::MIN] {
        let request = ListMembersRequest {
            page_size,
            ..Default::default()
        };
        names("page_size", mesh.members().list_members(request).await);
        let request = ListCouponsRequest {
            page_size,
            ..Default::default()
        };
        names("page_size", mesh.coupons().list_coupons(request).await);
        let request = ListNotificationsRequest {
            page_size,
            ..Default::default()
        };
        names(
            "page_size",
            mesh.notifications().list_notifications(request).await,
        );
    }
    for state in [99, -1] {
        let request = ListMembersRequest {
            state,
            ..Default::default()
        };
        names("state", mesh.members().list_members(request).await);
        let request = ListNotificationsRequest {
            state,
            ..Default::default()
        };
        names(
            "state",
            mesh.notifications().list_notifications(request).await,
        );
    }
    let request = CancelCouponRequest {
        member_id: real.clone(),
        withdrawal_id: real.clone(),
        reason: "x".repeat(201),
    };
    names("reason", mesh.coupons().cancel_coupon(request).await);
    let request = GetMyPageRequest {
        member_id: real,
        min_version: -1,
    };
    names("min_version", mesh.pages().get_my_page(request).await);
    mesh.finish().await;
}

#[tokio::test]
async fn everything_wrong_with_a_request_is_said_at_once() {
    let mesh = Mesh::start().await;
    let wrong = || "x".to_owned();
    let request = RegisterMemberRequest {
        request_id: wrong(),
        email: wrong(),
        display_name: String::new(),
    };
    let answer = mesh.members().register_member(request).await;
    names_all(&["request_id", "email", "display_name"], answer);
    let request = WithdrawMemberRequest {
        request_id: wrong(),
        member_id: wrong(),
    };
    let answer = mesh.members().withdraw_member(request).await;
    names_all(&["request_id", "member_id"], answer);
    let request = ListMembersRequest {
        page_size: -1,
        page_token: wrong(),
        state: 99,
        email: wrong(),
    };
    let answer = mesh.members().list_members(request).await;
    names_all(&["page_size", "page_token", "state", "email"], answer);
    let request = CancelCouponRequest {
        member_id: wrong(),
        withdrawal_id: wrong(),
        reason: "x".repeat(201),
    };
    let answer = mesh.coupons().cancel_coupon(request).await;
    names_all(&["member_id", "withdrawal_id", "reason"], answer);
    let request = ListCouponsRequest {
        page_size: -1,
        page_token: wrong(),
        member_id: wrong(),
    };
    let answer = mesh.coupons().list_coupons(request).await;
    names_all(&["page_size", "page_token", "member_id"], answer);
    let request = ListNotificationsRequest {
        page_size: -1,
        page_token: wrong(),
        member_id: wrong(),
        state: 99,
    };
    let answer = mesh.notifications().list_notifications(request).await;
    names_all(&["page_size", "page_token", "member_id", "state"], answer);
    let request = GetMyPageRequest {
        member_id: wrong(),
        min_version: -1,
    };
    let answer = mesh.pages().get_my_page(request).await;
    names_all(&["member_id", "min_version"], answer);
    mesh.finish().await;
}

/// Texts that the bound on messages lets through, and no field does.
#[tokio::test]
async fn every_text_is_bounded() {
    let mesh = Mesh::start().await;
    // Two of them fit into one message.
    let long = "a".repeat(30_000);
    let request = RegisterMemberRequest {
        request_id: long.clone(),
        email: format!("ann@{long}.example"),
        ..registration("ann@example.com")
    };
    let answer = mesh.members().register_member(request).await;
    names_all(&["request_id", "email"], answer);
    for email in [
        format!("{long}@example.com"),
        format!("\"{long}\"@example.com"),
    ] {
        let request = ListMembersRequest {
            email,
            ..Default::default()
        };
        names("email", mesh.members().list_members(request).await);
    }
    for display_name in [long.clone(), "\u{1112}\u{1161}".repeat(10_000)] {
        let request = RegisterMemberRequest {
            display_name,
            ..registration("ann@example.com")
        };
        let answer = mesh.members().register_member(request).await;
        names("display_name", answer);
    }
    let request = ListMembersRequest {
        page_token: long.clone(),
        ..Default::default()
    };
    let answer = mesh.members().list_members(request).await;
    let not_ours = (Code::InvalidArgument, "PAGE_TOKEN_INVALID".to_owned());
    assert_eq!(refused(answer), not_ours);
    let request = CancelCouponRequest {
        member_id: mesh.new_id().to_string(),
        withdrawal_id: long.clone(),
        reason: long,
    };
    let answer = mesh.coupons().cancel_coupon(request).await;
    names_all(&["withdrawal_id", "reason"], answer);
    mesh.finish().await;
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_for_its_own_reason() {
    let mesh = Mesh::start().await;
    let id = mesh.new_id().to_string();
    let not_found = |reason: &str| (Code::NotFound, reason.to_owned());

    let request = GetMemberRequest {
        member_id: id.clone(),
    };
    let answer = mesh.members().get_member(request).await;
    assert_eq!(refused(answer), not_found("MEMBER_NOT_FOUND"));
    let answer = mesh.try_withdraw("", &id).await;
    assert_eq!(refused(answer), not_found("MEMBER_NOT_FOUND"));
    let request = GetWithdrawalRequest {
        withdrawal_id: id.clone(),
    };
    let answer = mesh.members().get_withdrawal(request).await;
    assert_eq!(refused(answer), not_found("WITHDRAWAL_NOT_FOUND"));
    let request = GetCouponRequest {
        coupon_id: id.clone(),
    };
    let answer = mesh.coupons().get_coupon(request).await;
    assert_eq!(refused(answer), not_found("COUPON_NOT_FOUND"));
    let request = GetNotificationRequest {
        notification_id: id.clone(),
    };
    let answer = mesh.notifications().get_notification(request).await;
    assert_eq!(refused(answer), not_found("NOTIFICATION_NOT_FOUND"));
    assert_eq!(
        refused(mesh.try_page(&id).await),
        not_found("PAGE_NOT_FOUND")
    );
    mesh.finish().await;
}
