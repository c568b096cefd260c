//! Lists, page by page.

use std::collections::BTreeSet;

use couponmesh_proto::{
    coupon::v1::ListCouponsRequest,
    member::v1::{ListMembersRequest, ListMembersResponse, MemberState},
    notification::v1::{ListNotificationsRequest, NotificationState},
};
use tonic::{Code, Status};

use crate::harness::{Mesh, calls::refused};

async fn list(
    mesh: &Mesh,
    page_size: i32,
    page_token: &str,
    state: MemberState,
) -> Result<ListMembersResponse, Status> {
    let request = ListMembersRequest {
        page_size,
        page_token: page_token.to_owned(),
        state: state.into(),
        email: String::new(),
    };
    Ok(mesh.members().list_members(request).await?.into_inner())
}

#[tokio::test]
async fn pages_show_each_member_once_and_the_newest_first_while_others_join() {
    let mesh = Mesh::start().await;
    let registered = mesh.register_many(120).await;
    let expected: BTreeSet<String> = registered.into_iter().map(|m| m.member_id).collect();
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(&mesh, 25, &token, MemberState::Unspecified)
            .await
            .unwrap();
        seen.extend(page.members.into_iter().map(|member| member.member_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        mesh.register(&format!("late{}@example.com", seen.len()))
            .await;
    }
    let newest_first: Vec<String> = expected.into_iter().rev().collect();
    assert_eq!(seen, newest_first);
    mesh.finish().await;
}

#[tokio::test]
async fn filters_choose_by_state_and_by_address() {
    let mesh = Mesh::start().await;
    let members = mesh.join_many(6).await;
    for member in &members[..2] {
        mesh.withdraw(&member.member_id).await;
    }
    for (state, count) in [
        (MemberState::Registered, 0),
        (MemberState::Active, 4),
        (MemberState::Withdrawing, 0),
        (MemberState::Withdrawn, 2),
        (MemberState::Unspecified, 6),
    ] {
        let page = list(&mesh, 0, "", state).await.unwrap();
        assert_eq!(page.members.len(), count, "{state:?}");
    }
    let found = mesh.members_with(" Member5@EXAMPLE.com").await;
    assert_eq!(found[0].email, "member5@example.com");
    let request = ListNotificationsRequest {
        state: NotificationState::Failed.into(),
        ..Default::default()
    };
    let failed = mesh.notifications().list_notifications(request).await;
    assert!(failed.unwrap().into_inner().notifications.is_empty());
    mesh.finish().await;
}

#[tokio::test]
async fn a_token_leads_on_only_in_the_list_and_with_the_filters_it_came_from() {
    let mesh = Mesh::start().await;
    mesh.join_many(3).await;
    let page = list(&mesh, 1, "", MemberState::Active).await.unwrap();
    let token = page.next_page_token;
    let page = list(&mesh, 1, &token, MemberState::Active).await.unwrap();
    assert_eq!(page.members.len(), 1);

    let invalid = (Code::InvalidArgument, "PAGE_TOKEN_INVALID".to_owned());
    let answer = list(&mesh, 1, &token, MemberState::Unspecified).await;
    assert_eq!(refused(answer), invalid);
    let altered = format!("{token}A");
    for token in ["!", "AAAA", &altered] {
        let answer = list(&mesh, 1, token, MemberState::Active).await;
        assert_eq!(refused(answer), invalid, "{token}");
    }
    let request = ListCouponsRequest {
        page_token: token.clone(),
        ..Default::default()
    };
    assert_eq!(refused(mesh.coupons().list_coupons(request).await), invalid);
    let request = ListNotificationsRequest {
        page_token: token,
        ..Default::default()
    };
    let answer = mesh.notifications().list_notifications(request).await;
    assert_eq!(refused(answer), invalid);
    mesh.finish().await;
}
