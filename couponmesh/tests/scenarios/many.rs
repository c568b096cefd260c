//! A thousand at once.

use std::time::{Duration, Instant};

use couponmesh::node::ServiceName;
use couponmesh_proto::member::v1::{ListMembersRequest, MemberState, WithdrawalState};
use futures::{StreamExt as _, stream};

use crate::harness::{Mesh, eventually_within};

const MEMBERS: usize = 1_001;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pending_withdrawals_complete_soon_after_coupon_is_back() {
    let mut mesh = Mesh::with(|config| {
        // A tenth of the defaults.
        config.member.withdrawal.first_pause = Duration::from_millis(100);
        config.member.withdrawal.longest_pause = Duration::from_secs(1);
    })
    .await;
    let members = mesh.register_many(MEMBERS).await;
    mesh.settled().await;

    // The largest page is a thousand, whatever is asked for.
    let request = ListMembersRequest {
        page_size: 5_000,
        ..Default::default()
    };
    let page = mesh
        .members()
        .list_members(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (page.members.len(), page.next_page_token.is_empty()),
        (1_000, false)
    );

    mesh.stop(ServiceName::Coupon).await;
    let withdrawals = members
        .iter()
        .map(|member| mesh.withdraw(&member.member_id));
    let withdrawals: Vec<_> = stream::iter(withdrawals)
        .buffer_unordered(64)
        .collect()
        .await;
    for withdrawal in &withdrawals {
        assert_eq!(withdrawal.state(), WithdrawalState::Pending);
    }
    mesh.start_one(ServiceName::Coupon).await;
    let back = Instant::now();
    eventually_within(Duration::from_secs(60), "nobody is WITHDRAWING", || async {
        let request = ListMembersRequest {
            page_size: 1,
            state: MemberState::Withdrawing.into(),
            ..Default::default()
        };
        let page = mesh.members().list_members(request).await.unwrap();
        page.into_inner().members.is_empty()
    })
    .await;
    println!(
        "{MEMBERS} pending withdrawals completed in {:?}",
        back.elapsed()
    );
    mesh.finish().await;
}
