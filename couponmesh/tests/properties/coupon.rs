//! Coupons: one record per member, ever, and a cancellation that holds whenever it comes.

use couponmesh_coupon::{
    NAME,
    cancel::{Canceller, Cancelling},
    consumer::CouponHandler,
    coupons::{self, State},
    migrations::Migrator,
};
use couponmesh_messaging::Event;
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued},
    member::v1::MemberRegistered,
};
use couponmesh_runtime::{
    id::{MemberId, WithdrawalId},
    running::Running,
};
use proptest::prelude::*;
use prost::Name as _;
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _};

use crate::support::{Bench, context, delivery};

/// What may happen to a member's coupon.
enum Step {
    Registered(Event),
    Cancelled(MemberId),
}

async fn cancel(bench: &Bench, member_id: MemberId) {
    let cancelling = Cancelling {
        member_id,
        withdrawal_id: WithdrawalId(member_id.0),
        context: context(),
    };
    let cancelled = Canceller::new(&bench.store, &Running::new())
        .cancel(cancelling)
        .await;
    assert_eq!(cancelled.unwrap().state, State::Cancelled);
}

async fn check(bench: &Bench, member_id: MemberId, leaves: bool) {
    let records = coupons::Entity::find()
        .filter(coupons::Column::MemberId.eq(member_id))
        .all(bench.store.read())
        .await
        .unwrap();
    let [coupon] = &records[..] else {
        panic!("not one record: {records:?}");
    };
    let events = bench.caused(member_id).await;
    let count = |name: String| {
        events
            .iter()
            .filter(|event| event.event_type == name)
            .count()
    };
    let issued = coupon.code.is_some();
    assert_eq!(coupon.issue_time.is_some(), issued);
    assert_eq!(count(CouponIssued::full_name()), usize::from(issued));
    assert_eq!(count(CouponCancelled::full_name()), usize::from(leaves));
    assert_eq!(i64::try_from(events.len()).unwrap(), coupon.version);
    if leaves {
        assert_eq!(coupon.state, State::Cancelled);
        assert_eq!(coupon.withdrawal_id, Some(WithdrawalId(member_id.0)));
    } else {
        assert_eq!(coupon.state, State::Issued);
        assert!(issued);
    }
}

#[test]
fn registrations_and_cancellations_of_any_order_leave_one_record_each() {
    let bench = Bench::new::<Migrator>(NAME);
    let members = proptest::collection::vec(any::<bool>(), 1..5);
    bench.check((members, delivery()), async |(leaving, delivery)| {
        let members: Vec<(MemberId, bool)> = leaving
            .into_iter()
            .map(|leaves| (bench.new_member(), leaves))
            .collect();
        let mut steps = Vec::new();
        for (member_id, leaves) in &members {
            let registered = bench.event(*member_id, &MemberRegistered::default());
            steps.push(Step::Registered(registered));
            if *leaves {
                steps.push(Step::Cancelled(*member_id));
            }
        }
        for batch in delivery.batches(&steps) {
            let mut events = Vec::new();
            for step in batch {
                match step {
                    Step::Registered(event) => events.push(event),
                    // A call of its own, before or between the batches.
                    Step::Cancelled(member_id) => cancel(&bench, *member_id).await,
                }
            }
            if !events.is_empty() {
                bench.deliver(&CouponHandler, &events).await;
            }
        }
        for (member_id, leaves) in members {
            check(&bench, member_id, leaves).await;
        }
    });
}
