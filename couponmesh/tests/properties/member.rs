//! Members: what other services did is noted whole, and moves no state back.

use couponmesh_member::{
    NAME,
    consumer::MemberHandler,
    members::{self, State},
    migrations::Migrator,
    withdrawals,
};
use couponmesh_messaging::Event;
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued},
    member::v1::{MemberChanged, MemberSnapshot, MemberWithdrawn},
    notification::v1::NotificationSent,
};
use couponmesh_runtime::id::{CouponId, MemberId, WithdrawalId};
use proptest::prelude::*;
use prost::{Message as _, Name as _};
use sea_orm::{ActiveModelTrait as _, EntityTrait as _, IntoActiveModel as _};
use uuid::Uuid;

use crate::support::{Bench, NOW, at, delivery};

/// Where a member stands, and what the events tell of it.
#[derive(Clone, Copy, Debug)]
struct Story {
    withdrawing: bool,
    issued: bool,
    cancelled: bool,
    notified: bool,
}

fn story() -> impl Strategy<Value = Story> {
    any::<(bool, bool, bool, bool)>().prop_map(|(withdrawing, issued, cancelled, notified)| Story {
        withdrawing,
        issued,
        cancelled,
        notified,
    })
}

fn coupon_of(member_id: MemberId) -> CouponId {
    CouponId(member_id.0)
}

impl Story {
    /// Stores a member to whom the story happens.
    async fn begin(self, bench: &Bench) -> MemberId {
        let member_id = bench.new_member();
        let tx = bench.store.begin("property").await.unwrap();
        let member = members::Model {
            member_id,
            email: Some(format!("{member_id}@example.com")),
            display_name: "Ann".to_owned(),
            state: if self.withdrawing {
                State::Withdrawing
            } else {
                State::Registered
            },
            coupon_id: None,
            register_time: at(0),
            coupon_issue_time: None,
            admin_notify_time: None,
            coupon_cancel_time: None,
            withdraw_time: None,
            version: 1,
            account_id: None,
        };
        let insert = members::Entity::insert(member.into_active_model().reset_all());
        insert.exec_without_returning(&*tx).await.unwrap();
        if self.withdrawing {
            let withdrawal = withdrawals::Model {
                withdrawal_id: WithdrawalId(member_id.0),
                member_id,
                state: withdrawals::State::Pending,
                attempt_count: 1,
                next_attempt_time: Some(NOW),
                claim_end_time: None,
                pending_reason: None,
                request_time: at(1),
                complete_time: None,
                correlation_id: "a-test".to_owned(),
                traceparent: None,
            };
            let insert = withdrawals::Entity::insert(withdrawal.into_active_model().reset_all());
            insert.exec_without_returning(&*tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        member_id
    }

    /// The events about it, in the order in which they come about.
    fn events(self, bench: &Bench, member_id: MemberId) -> Vec<Event> {
        let coupon_id = coupon_of(member_id).to_string();
        let issue_time = self.issued.then(|| at(2).into());
        let mut events = Vec::new();
        if self.issued {
            let issued = CouponIssued {
                coupon_id: coupon_id.clone(),
                issue_time,
                ..Default::default()
            };
            events.push(bench.event(member_id, &issued));
        }
        if self.notified {
            let sent = NotificationSent {
                send_time: Some(at(3).into()),
                ..Default::default()
            };
            events.push(bench.event(member_id, &sent));
        }
        if self.cancelled {
            let cancelled = CouponCancelled {
                coupon_id,
                issue_time,
                cancel_time: Some(at(4).into()),
                ..Default::default()
            };
            events.push(bench.event(member_id, &cancelled));
        }
        events
    }
}

/// A member and its withdrawal, without what differs from case to case.
async fn rows(bench: &Bench, member_id: MemberId) -> (members::Model, Option<withdrawals::Model>) {
    let db = bench.store.read();
    let member = members::Entity::find_by_id(member_id).one(db).await;
    let withdrawal = withdrawals::Entity::find_by_id(WithdrawalId(member_id.0));
    let withdrawal = withdrawal.one(db).await.unwrap();
    let member = member.unwrap().unwrap();
    check_history(bench, &member).await;
    let nobody = MemberId(Uuid::nil());
    let member = members::Model {
        member_id: nobody,
        email: member.email.map(|_| String::new()),
        coupon_id: member.coupon_id.map(|id| {
            assert_eq!(id, coupon_of(member_id));
            coupon_of(nobody)
        }),
        // Depends on how many changes one event brings; the history is right for each.
        version: 0,
        ..member
    };
    let withdrawal = withdrawal.map(|withdrawal| withdrawals::Model {
        withdrawal_id: WithdrawalId(nobody.0),
        member_id: nobody,
        ..withdrawal
    });
    (member, withdrawal)
}

/// Every version after the first is one event, in order, and the last tells of the member as it is.
async fn check_history(bench: &Bench, member: &members::Model) {
    let events = bench.caused(member.member_id).await;
    let told: Vec<MemberSnapshot> = events
        .iter()
        .map(|event| {
            let payload = event.payload.as_slice();
            let left = event.event_type == MemberWithdrawn::full_name();
            let told = if left {
                MemberWithdrawn::decode(payload).unwrap().member
            } else {
                assert_eq!(event.event_type, MemberChanged::full_name());
                MemberChanged::decode(payload).unwrap().member
            };
            told.unwrap()
        })
        .collect();
    let versions: Vec<i64> = told.iter().map(|snapshot| snapshot.version).collect();
    assert_eq!(versions, (2..=member.version).collect::<Vec<i64>>());
    if let Some(last) = told.last() {
        assert_eq!(*last, MemberSnapshot::from(member));
    }
}

#[test]
fn news_of_any_order_end_in_the_same_member() {
    let bench = Bench::new::<Migrator>(NAME);
    let stories = proptest::collection::vec(story(), 1..5);
    bench.check((stories, delivery()), async |(stories, delivery)| {
        let mut events = Vec::new();
        let mut members = Vec::new();
        for story in stories {
            // In its order, one event at a time …
            let model = story.begin(&bench).await;
            for event in story.events(&bench, model) {
                bench.deliver(&MemberHandler, &[&event]).await;
            }
            // … and the same story of another member in any other way, together with the others'.
            let member_id = story.begin(&bench).await;
            events.extend(story.events(&bench, member_id));
            members.push((story, member_id, model));
        }
        for batch in delivery.batches(&events) {
            bench.deliver(&MemberHandler, &batch).await;
        }
        for (story, member_id, model) in members {
            let (member, model) = (rows(&bench, member_id).await, rows(&bench, model).await);
            assert!(member == model, "{story:?}: {member:?} is not {model:?}");
            let left = member.0.state == State::Withdrawn;
            assert_eq!(left, story.withdrawing && story.cancelled, "{story:?}");
        }
    });
}
