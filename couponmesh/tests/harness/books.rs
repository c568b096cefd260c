//! What the services hold about the members, compared with each other.

use std::collections::{BTreeSet, HashMap};

use couponmesh_coupon::coupons;
use couponmesh_member::{members, withdrawals};
use couponmesh_messaging::outbox;
use couponmesh_mypage::pages;
use couponmesh_notification::notifications;
use couponmesh_proto::{
    coupon::v1::{CouponIssued, CouponState},
    member::v1::{MemberChanged, MemberRegistered, MemberSnapshot, MemberState, MemberWithdrawn},
};
use couponmesh_runtime::id::MemberId;
use prost::{Message as _, Name as _};
use sea_orm::{EntityTrait as _, QueryOrder as _};

use super::{
    File, Mesh,
    audit::{Finding, hold},
};

/// The services' rows, by member.
pub(super) struct Books {
    members: Vec<members::Model>,
    member_events: HashMap<MemberId, Vec<MemberSnapshot>>,
    withdrawals: HashMap<MemberId, withdrawals::Model>,
    coupons: HashMap<MemberId, Vec<coupons::Model>>,
    issued: HashMap<MemberId, usize>,
    notifications: HashMap<MemberId, Vec<notifications::Model>>,
    pages: HashMap<MemberId, pages::Model>,
}

impl Books {
    pub(super) async fn read(mesh: &Mesh) -> Self {
        let member = mesh.file("member").await;
        let coupon = mesh.file("coupon").await;
        let notification = mesh.file("notification").await;
        let mypage = mesh.file("mypage").await;
        let mut books = Self {
            members: members::Entity::find().all(member.db()).await.unwrap(),
            member_events: HashMap::new(),
            withdrawals: HashMap::new(),
            coupons: HashMap::new(),
            issued: HashMap::new(),
            notifications: HashMap::new(),
            pages: HashMap::new(),
        };
        for row in events(&member).await {
            let id = row.member_id;
            books
                .member_events
                .entry(id)
                .or_default()
                .push(snapshot(&row));
        }
        for row in withdrawals::Entity::find().all(member.db()).await.unwrap() {
            books.withdrawals.insert(row.member_id, row);
        }
        for row in coupons::Entity::find().all(coupon.db()).await.unwrap() {
            books.coupons.entry(row.member_id).or_default().push(row);
        }
        for row in events(&coupon).await {
            let issued = row.event_type == CouponIssued::full_name();
            *books.issued.entry(row.member_id).or_default() += usize::from(issued);
        }
        for row in notifications::Entity::find()
            .all(notification.db())
            .await
            .unwrap()
        {
            books
                .notifications
                .entry(row.member_id)
                .or_default()
                .push(row);
        }
        for row in pages::Entity::find().all(mypage.db()).await.unwrap() {
            books.pages.insert(row.member_id, row);
        }
        books
    }

    /// Checks everything that must hold once nothing is under way any more.
    pub(super) fn audit(&self) -> Result<(), Finding> {
        let strangers = self.coupons.keys().chain(self.notifications.keys());
        let known: BTreeSet<MemberId> = self.members.iter().map(|row| row.member_id).collect();
        for id in strangers.chain(self.pages.keys()) {
            hold!(known.contains(id), "{id} is no member");
        }
        for member in &self.members {
            let found = self.member(member);
            found.map_err(|finding| format!("member {}: {finding}", member.member_id))?;
        }
        Ok(())
    }

    fn member(&self, member: &members::Model) -> Result<(), Finding> {
        let id = member.member_id;
        let coupons = self.coupons.get(&id).map_or(&[][..], Vec::as_slice);
        let [coupon] = coupons else {
            return Err(format!("{} coupons", coupons.len()));
        };
        let notifications = self.notifications.get(&id).map_or(&[][..], Vec::as_slice);
        let [notification] = notifications else {
            return Err(format!("{} notifications", notifications.len()));
        };
        let issued = self.issued.get(&id).copied().unwrap_or_default();
        hold!(
            issued == usize::from(coupon.code.is_some()),
            "{issued} coupons issued"
        );
        let sent = notification.state == notifications::State::Sent;
        hold!(
            member.admin_notify_time.is_some() == sent,
            "admin_notified, but sent: {sent}"
        );
        hold!(
            member.coupon_id == Some(coupon.coupon_id),
            "the coupon is not its coupon"
        );
        hold!(
            member.coupon_issue_time == coupon.issue_time,
            "coupon_issue_time"
        );
        hold!(
            member.coupon_cancel_time == coupon.cancel_time,
            "coupon_cancel_time"
        );
        self.standing(member, coupon)?;
        self.history(member)?;
        let page = self.pages.get(&id).ok_or("no page")?;
        shows(page, member, coupon)
    }

    fn standing(&self, member: &members::Model, coupon: &coupons::Model) -> Result<(), Finding> {
        let withdrawal = self.withdrawals.get(&member.member_id);
        match member.state {
            members::State::Registered | members::State::Withdrawing => {
                Err(format!("still {:?}", member.state))
            }
            members::State::Active => {
                hold!(withdrawal.is_none(), "ACTIVE with a withdrawal");
                hold!(
                    coupon.state == coupons::State::Issued,
                    "ACTIVE without a valid coupon"
                );
                hold!(member.email.is_some(), "ACTIVE without an address");
                Ok(())
            }
            members::State::Withdrawn => {
                let state = withdrawal.map(|withdrawal| withdrawal.state);
                let completed = state == Some(withdrawals::State::Completed);
                hold!(completed, "WITHDRAWN, but the withdrawal is {state:?}");
                hold!(
                    coupon.state == coupons::State::Cancelled,
                    "WITHDRAWN with a valid coupon"
                );
                let erased = member.email.is_none() && member.display_name.is_empty();
                hold!(erased, "WITHDRAWN and not forgotten");
                Ok(())
            }
        }
    }

    /// One event per version, in order, and the last one tells of the member as it is.
    fn history(&self, member: &members::Model) -> Result<(), Finding> {
        let events = self.member_events.get(&member.member_id);
        let events = events.ok_or("no event")?;
        let told: Vec<i64> = events.iter().map(|event| event.version).collect();
        let versions: Vec<i64> = (1..=member.version).collect();
        hold!(
            told == versions,
            "version {}, events {told:?}",
            member.version
        );
        let last = events.last().ok_or("no event")?;
        hold!(
            *last == MemberSnapshot::from(member),
            "the last event tells something else"
        );
        Ok(())
    }
}

fn shows(
    page: &pages::Model,
    member: &members::Model,
    coupon: &coupons::Model,
) -> Result<(), Finding> {
    let (shown, is) = (page.member_version, member.version);
    hold!(shown == is, "the page shows version {shown} of {is}");
    hold!(
        page.member_state == MemberState::from(member.state) as i32,
        "member_state"
    );
    hold!(page.display_name == member.display_name, "display_name");
    hold!(
        page.admin_notified == member.admin_notify_time.is_some(),
        "admin_notified"
    );
    hold!(
        page.coupon_cancelled == member.coupon_cancel_time.is_some(),
        "coupon_cancelled"
    );
    hold!(
        page.register_time == Some(member.register_time),
        "register_time"
    );
    hold!(page.withdraw_time == member.withdraw_time, "withdraw_time");
    let (shown, is) = (page.coupon_version, coupon.version);
    hold!(
        shown == is,
        "the page shows version {shown} of {is} of the coupon"
    );
    hold!(
        page.coupon_state == CouponState::from(coupon.state) as i32,
        "coupon_state"
    );
    hold!(
        page.coupon_code == coupon.code.clone().unwrap_or_default(),
        "coupon_code"
    );
    hold!(page.coupon_id == Some(coupon.coupon_id), "coupon_id");
    hold!(
        page.coupon_issue_time == coupon.issue_time,
        "page's coupon_issue_time"
    );
    hold!(
        page.coupon_cancel_time == coupon.cancel_time,
        "page's coupon_cancel_time"
    );
    Ok(())
}

async fn events(file: &File) -> Vec<outbox::Model> {
    let in_order = outbox::Entity::find().order_by_asc(outbox::Column::Seq);
    in_order.all(file.db()).await.unwrap()
}

fn snapshot(row: &outbox::Model) -> MemberSnapshot {
    let payload = row.payload.as_slice();
    let member = if row.event_type == MemberRegistered::full_name() {
        MemberRegistered::decode(payload).unwrap().member
    } else if row.event_type == MemberWithdrawn::full_name() {
        MemberWithdrawn::decode(payload).unwrap().member
    } else {
        assert_eq!(row.event_type, MemberChanged::full_name());
        MemberChanged::decode(payload).unwrap().member
    };
    member.unwrap()
}
