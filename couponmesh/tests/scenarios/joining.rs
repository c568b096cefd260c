//! Registering: one address, one member, however often and by however many it is asked for.

use std::{collections::BTreeSet, time::Duration};

use couponmesh::node::ServiceName;
use couponmesh_proto::member::v1::{
    RegisterMemberRequest, WithdrawalState, member_service_client::MemberServiceClient,
};
use futures::future::join_all;
use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use tonic::Code;

use crate::harness::{
    Mesh, Way,
    calls::{refused, registration},
    eventually,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_want_one_address_at_once_one_gets_it() {
    let mesh = Mesh::start().await;
    let forms = ["ann@example.com", "Ann@Example.COM", " ann@example.com "];
    let calls = forms.into_iter().cycle().take(64);
    let calls = calls.map(|email| mesh.try_register(registration(email)));
    let (got_it, too_late): (Vec<_>, Vec<_>) =
        join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!((got_it.len(), too_late.len()), (1, 63));
    for answer in too_late {
        assert_eq!(
            refused(answer),
            (Code::AlreadyExists, "EMAIL_TAKEN".to_owned())
        );
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_in_many_forms_is_one_members() {
    let mesh = Mesh::start().await;
    let first = mesh.register("Ann@BÜCHER.example").await;
    assert_eq!(first.email, NEW_FORM);
    for form in [
        OLD_FORM,
        NEW_FORM,
        "\"ann\"@bu\u{308}cher.example",
        "ａｎｎ@ｂücher。example",
    ] {
        let answer = mesh.try_register(registration(form)).await;
        let taken = (Code::AlreadyExists, "EMAIL_TAKEN".to_owned());
        assert_eq!(refused(answer), taken, "{form}");
        let found = mesh.members_with(form).await;
        assert_eq!(found[0].member_id, first.member_id);
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_of_one_request_all_get_the_same_member() {
    let mesh = Mesh::start().await;
    let request = RegisterMemberRequest {
        request_id: mesh.new_id().to_string(),
        ..registration("ann@example.com")
    };
    let calls = (0..64).map(|_| mesh.try_register(request.clone()));
    let members = join_all(calls).await;
    let first = members[0].as_ref().unwrap().member_id.clone();
    for member in members {
        assert_eq!(member.unwrap().member_id, first);
    }

    let other_name = RegisterMemberRequest {
        display_name: "Bob".to_owned(),
        ..request.clone()
    };
    let other_address = RegisterMemberRequest {
        email: "bob@example.com".to_owned(),
        ..request.clone()
    };
    for other in [other_name, other_address] {
        let answer = mesh.try_register(other).await;
        let reused = (Code::InvalidArgument, "REQUEST_ID_REUSED".to_owned());
        assert_eq!(refused(answer), reused);
    }

    mesh.joined(&first).await;
    mesh.withdraw(&first).await;
    // What it asked for is erased, so nobody can tell any more whether this is the same.
    let other = RegisterMemberRequest {
        email: "bob@example.com".to_owned(),
        ..request.clone()
    };
    for again in [request, other] {
        let answer = mesh.try_register(again).await;
        let withdrawn = (Code::FailedPrecondition, "MEMBER_WITHDRAWN".to_owned());
        assert_eq!(refused(answer), withdrawn);
    }
    mesh.finish().await;
}

#[tokio::test]
async fn a_request_is_remembered_for_seven_days() {
    const DAY: Duration = Duration::from_secs(86_400);
    let mesh = Mesh::start().await;
    let request = RegisterMemberRequest {
        request_id: mesh.new_id().to_string(),
        ..registration("ann@example.com")
    };
    let member = mesh.try_register(request.clone()).await.unwrap();
    let leaves = mesh.join("leaves@example.com").await;
    let withdrawal_request = mesh.new_id().to_string();
    let withdrawal = mesh.try_withdraw(&withdrawal_request, &leaves.member_id);
    assert_eq!(
        withdrawal.await.unwrap().state(),
        WithdrawalState::Completed
    );
    mesh.settled().await;
    let mut shut = mesh.shut().await;
    shut.later(DAY * 6).await;
    let mesh = shut.open().await;
    let again = mesh.try_register(request.clone()).await.unwrap();
    assert_eq!(again.member_id, member.member_id);
    assert_eq!(mesh.file("member").await.count("requests").await, 2);

    let mut shut = mesh.shut().await;
    shut.later(DAY + Duration::from_secs(60)).await;
    let mesh = shut.open().await;
    let file = mesh.file("member").await;
    eventually("it is forgotten", async || {
        file.count("requests").await == 0
    })
    .await;
    let taken = (Code::AlreadyExists, "EMAIL_TAKEN".to_owned());
    assert_eq!(refused(mesh.try_register(request).await), taken);
    mesh.shut().await.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_another_replica_is_about_to_forget_holds_up_no_other() {
    // A file has one process.
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mesh = Mesh::start().await;
    for email in ["ann@example.com", "ben@example.com"] {
        let request = RegisterMemberRequest {
            request_id: mesh.new_id().to_string(),
            ..registration(email)
        };
        mesh.try_register(request).await.unwrap();
    }
    mesh.settled().await;
    let mut shut = mesh.shut().await;
    shut.later(Duration::from_secs(7 * 86_400 + 60)).await;
    let other = shut.file("member").await;
    let forgets = other.db().begin().await.unwrap();
    let oldest = "SELECT 1 FROM requests ORDER BY resource_id LIMIT 1 FOR UPDATE";
    forgets.execute_unprepared(oldest).await.unwrap();
    let mesh = shut.open().await;
    let file = mesh.file("member").await;
    eventually("the other one is forgotten", async || {
        file.count("requests").await == 1
    })
    .await;
    forgets.rollback().await.unwrap();
    mesh.shut().await.remove().await;
}

// At two replicas at once, most rounds find nothing when they look, and one of each comes too late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_agree_on_who_gets_an_address_and_what_a_request_made() {
    let mut mesh = Mesh::start().await;
    let other = mesh.start_another(ServiceName::Member).await;
    let replicas = [mesh.members(), MemberServiceClient::new(other)];
    let at_both = async |request: RegisterMemberRequest| {
        let calls = replicas.iter().cycle().take(8).map(|replica| {
            let (mut replica, request) = (replica.clone(), request.clone());
            async move { replica.register_member(request).await }
        });
        join_all(calls).await
    };
    for round in 0..20 {
        let answers = at_both(registration(&format!("wanted{round}@example.com"))).await;
        let (got_it, too_late): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(got_it.len(), 1);
        for answer in too_late {
            let taken = (Code::AlreadyExists, "EMAIL_TAKEN".to_owned());
            assert_eq!(refused(answer), taken);
        }
        let repeated = RegisterMemberRequest {
            request_id: mesh.new_id().to_string(),
            ..registration(&format!("repeated{round}@example.com"))
        };
        let answers = at_both(repeated).await.into_iter();
        let members = answers.map(|answer| answer.unwrap().into_inner().member.unwrap().member_id);
        assert_eq!(members.collect::<BTreeSet<_>>().len(), 1);
    }
    mesh.finish().await;
}

#[tokio::test]
async fn who_left_joins_again_as_somebody_new() {
    let mesh = Mesh::start().await;
    let before = mesh.join("ann@example.com").await;
    mesh.coupon_way().set(Way::Refuse);
    let withdrawal = mesh.withdraw(&before.member_id).await;
    assert_eq!(withdrawal.state(), WithdrawalState::Pending);
    let answer = mesh.try_register(registration("ann@example.com")).await;
    assert_eq!(
        refused(answer),
        (Code::AlreadyExists, "EMAIL_TAKEN".to_owned())
    );

    mesh.coupon_way().set(Way::Pass);
    mesh.completed(&withdrawal.withdrawal_id).await;
    let after = mesh.join("ann@example.com").await;
    assert_ne!(after.member_id, before.member_id);
    assert_ne!(after.coupon_id, before.coupon_id);
    let codes = [&before, &after].map(|member| mesh.coupons_of(&member.member_id));
    let codes = join_all(codes).await;
    assert_ne!(codes[0][0].code, codes[1][0].code);
    mesh.finish().await;
}

/// As the release before the domains' ASCII form stored it.
const OLD_FORM: &str = "ann@bücher.example";
const NEW_FORM: &str = "ann@xn--bcher-kva.example";
/// Another one's, which is the same address now.
const OLD_TWIN: &str = "\"ann\"@xn--bcher-kva.example";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_an_older_release_stays_one_members() {
    let mesh = Mesh::start().await;
    let ann = mesh.register("ann@example.com").await;
    let twin = mesh.register("twin@example.com").await;
    let local = mesh.register("local@example.com").await;
    let shut = mesh.shut().await;
    let file = shut.file("member").await;
    for (email, stored) in [
        ("ann@example.com", OLD_FORM),
        ("twin@example.com", OLD_TWIN),
        ("local@example.com", "ann@bücher"),
    ] {
        let sql = format!("UPDATE members SET email = '{stored}' WHERE email = '{email}'");
        file.execute(&sql).await;
    }
    file.execute("DELETE FROM seaql_migrations WHERE version = 'm0005_normalise_addresses'")
        .await;
    let mesh = shut.open().await;

    assert_eq!(mesh.member(&ann.member_id).await.email, NEW_FORM);
    // The first of two who have one address now, and who has none, keep what they have.
    let kept = mesh.member(&twin.member_id).await.email;
    assert_eq!(kept, OLD_TWIN);
    assert_eq!(mesh.member(&local.member_id).await.email, "ann@bücher");
    for taken in [OLD_FORM, NEW_FORM, "Ann@BÜCHER.example"] {
        let answer = mesh.try_register(registration(taken)).await;
        assert_eq!(
            refused(answer),
            (Code::AlreadyExists, "EMAIL_TAKEN".to_owned())
        );
    }
    mesh.finish().await;
}
