//! My Page: each half shows its newest version, whatever came last.

use couponmesh_messaging::Event;
use couponmesh_mypage::{
    NAME, consumer::MyPageHandler, migrations::Migrator, pages, watchers::Watchers,
};
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued},
    member::v1::{MemberChanged, MemberRegistered, MemberSnapshot, MemberState, MemberWithdrawn},
};
use couponmesh_runtime::id::{CouponId, MemberId};
use proptest::prelude::*;
use sea_orm::EntityTrait as _;
use uuid::Uuid;

use crate::support::{Bench, Delivery, at, delivery};

/// How a member's and its coupon's story goes, and how far the page hears of it.
#[derive(Clone, Debug)]
struct Story {
    /// Whether the coupon is issued before it is cancelled.
    issued: bool,
    /// Whether the notification is known before the coupon.
    notified_first: bool,
    member_events: usize,
    coupon_events: usize,
}

fn story() -> impl Strategy<Value = Story> {
    (any::<bool>(), any::<bool>(), 1..=5_usize, 0..=2_usize).prop_map(
        |(issued, notified_first, member_events, coupon_events)| Story {
            issued,
            notified_first,
            member_events,
            coupon_events,
        },
    )
}

type Change<'a> = &'a dyn Fn(&mut MemberSnapshot);

/// The coupon's id is made from the member's.
fn coupon_of(member_id: MemberId) -> CouponId {
    CouponId(member_id.0)
}

impl Story {
    /// The events about a member, the oldest first.
    fn events(&self, bench: &Bench, member_id: MemberId) -> Vec<Event> {
        let mut events = self.member_story(bench, member_id);
        events.truncate(self.member_events);
        let coupon_events = self.coupon_story(bench, member_id).into_iter();
        events.extend(coupon_events.take(self.coupon_events));
        events
    }

    fn member_story(&self, bench: &Bench, member_id: MemberId) -> Vec<Event> {
        let mut snapshot = MemberSnapshot {
            member_id: member_id.to_string(),
            display_name: "Ann".to_owned(),
            state: MemberState::Registered.into(),
            register_time: Some(at(0).into()),
            version: 1,
            ..Default::default()
        };
        let issued = |member: &mut MemberSnapshot| {
            if self.issued {
                member.state = MemberState::Active.into();
                member.coupon_id = coupon_of(member_id).to_string();
                member.coupon_issue_time = Some(at(1).into());
            }
        };
        let notified = |member: &mut MemberSnapshot| {
            member.admin_notified = true;
            member.admin_notify_time = Some(at(2).into());
        };
        let withdrawing =
            |member: &mut MemberSnapshot| member.state = MemberState::Withdrawing.into();
        let withdrawn = |member: &mut MemberSnapshot| {
            member.state = MemberState::Withdrawn.into();
            member.display_name = String::new();
            member.coupon_id = coupon_of(member_id).to_string();
            member.coupon_cancelled = true;
            member.coupon_cancel_time = Some(at(3).into());
            member.withdraw_time = Some(at(4).into());
        };
        let changes: [Change<'_>; 4] = if self.notified_first {
            [&notified, &issued, &withdrawing, &withdrawn]
        } else {
            [&issued, &notified, &withdrawing, &withdrawn]
        };
        let registered = MemberRegistered {
            member: Some(snapshot.clone()),
        };
        let mut events = vec![bench.event(member_id, &registered)];
        for change in changes {
            change(&mut snapshot);
            snapshot.version += 1;
            let changed = MemberChanged {
                member: Some(snapshot.clone()),
            };
            events.push(bench.event(member_id, &changed));
        }
        // The last change is the leaving.
        events.pop();
        let left = MemberWithdrawn {
            member: Some(snapshot),
            withdrawal_id: member_id.to_string(),
        };
        events.push(bench.event(member_id, &left));
        events
    }

    fn coupon_story(&self, bench: &Bench, member_id: MemberId) -> Vec<Event> {
        let coupon_id = coupon_of(member_id).to_string();
        let code = |issued| if issued { "WELCOME-7K3M-9QXD" } else { "" };
        let issued = CouponIssued {
            coupon_id: coupon_id.clone(),
            member_id: member_id.to_string(),
            code: code(true).to_owned(),
            issue_time: Some(at(1).into()),
            version: 1,
        };
        let cancelled = CouponCancelled {
            coupon_id,
            member_id: member_id.to_string(),
            code: code(self.issued).to_owned(),
            withdrawal_id: member_id.to_string(),
            cancel_time: Some(at(3).into()),
            version: 1 + i64::from(self.issued),
            issue_time: self.issued.then(|| at(1).into()),
        };
        let mut events = Vec::new();
        if self.issued {
            events.push(bench.event(member_id, &issued));
        }
        events.push(bench.event(member_id, &cancelled));
        events
    }
}

/// A member's page, without the ids that differ from case to case.
async fn page(bench: &Bench, member_id: MemberId) -> pages::Model {
    let page = pages::Entity::find_by_id(member_id);
    let page = page.one(bench.store.read()).await.unwrap().unwrap();
    pages::Model {
        member_id: MemberId(Uuid::nil()),
        coupon_id: page.coupon_id.map(|id| {
            assert_eq!(id, coupon_of(member_id));
            CouponId(Uuid::nil())
        }),
        ..page
    }
}

#[test]
fn a_page_ends_the_same_whatever_the_order() {
    let bench = Bench::new::<Migrator>(NAME);
    let handler = MyPageHandler::new(Watchers::default(), bench.store.signals().clone());
    let stories = proptest::collection::vec(story(), 1..4);
    bench.check(
        (stories, delivery()),
        async |(stories, delivery): (Vec<Story>, Delivery)| {
            let mut events = Vec::new();
            let mut members = Vec::new();
            for story in &stories {
                // In its order, one event at a time …
                let model = bench.new_member();
                for event in story.events(&bench, model) {
                    bench.deliver(&handler, &[&event]).await;
                }
                // … and the same story of another member in any other way, together with the others'.
                let member_id = bench.new_member();
                events.extend(story.events(&bench, member_id));
                members.push((member_id, model));
            }
            for batch in delivery.batches(&events) {
                bench.deliver(&handler, &batch).await;
            }
            for (member_id, model) in members {
                let (page, model) = (page(&bench, member_id).await, page(&bench, model).await);
                // Its Debug leaves out what is personal, and with it what could differ.
                assert!(page == model, "{page:?} is not {model:?}");
            }
        },
    );
}
