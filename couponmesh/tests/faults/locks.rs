//! PostgreSQL: a row that somebody holds and does not let go.

use couponmesh_proto::member::v1::{
    WithdrawMemberRequest, Withdrawal, WithdrawalState, member_service_client::MemberServiceClient,
};
use futures::future::join_all;
use tonic::{Code, Status, transport::Channel};

use crate::{
    binary::{
        caller::{randomness, registration, request_id},
        process::{eventually_within, patient_channel},
    },
    production::{PATIENCE, Plan, Production},
};

const OTHERS: usize = 20;

async fn withdraw(
    mut members: MemberServiceClient<Channel>,
    id: String,
) -> Result<Withdrawal, Status> {
    let request = WithdrawMemberRequest {
        request_id: String::new(),
        member_id: id,
    };
    let answer = members.withdraw_member(request).await?;
    Ok(answer.into_inner().withdrawal.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_what_somebody_holds_keeps_nobody_else() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let production = Production::start(Plan::replicas(1)).await;
    let address = production.members().borrow()[0];
    let members = MemberServiceClient::new(patient_channel(address, PATIENCE));
    let random = randomness(7, 0);
    let mut ids = Vec::new();
    for number in 0..=OTHERS {
        let request = registration(&request_id(&random), &format!("{number}@example.com"));
        let answer = members.clone().register_member(request).await.unwrap();
        ids.push(answer.into_inner().member.unwrap().member_id);
    }
    let auditor = production.auditor().await;
    // Nothing else goes on with them.
    auditor.rest(ids.len()).await;
    let held = ids.remove(0);
    let sql = format!("SELECT 1 FROM members WHERE member_id = '{held}' FOR UPDATE");
    let holder = auditor.hold("member", &sql).await;

    let refused = tokio::spawn(withdraw(members.clone(), held.clone()));
    eventually_within(PATIENCE, "somebody waits for the lock", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (auditor.number("member", sql).await > 0).then_some(())
    })
    .await;
    let others = ids.into_iter().map(|id| withdraw(members.clone(), id));
    for answer in join_all(others).await {
        assert_eq!(answer.unwrap().state(), WithdrawalState::Completed);
    }
    assert!(!refused.is_finished(), "the others waited for it");
    let refused = refused.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");

    holder.rollback().await.unwrap();
    let withdrawal = withdraw(members, held).await.unwrap();
    assert_eq!(withdrawal.state(), WithdrawalState::Completed);
}
