//! What the services hold in the end, compared with what was acknowledged.

use std::{collections::HashMap, net::SocketAddr, path::Path};

use couponmesh_proto::{
    coupon::v1::{
        Coupon, CouponState, ListCouponsRequest, coupon_service_client::CouponServiceClient,
    },
    member::v1::{
        GetMemberRequest, GetWithdrawalRequest, Member, MemberState, WithdrawalState,
        member_service_client::MemberServiceClient,
    },
    mypage::v1::{GetMyPageRequest, MyPage, my_page_service_client::MyPageServiceClient},
    notification::v1::{
        ListNotificationsRequest, Notification,
        notification_service_client::NotificationServiceClient,
    },
};
use couponmesh_runtime::database::Database;
use sea_orm::{ConnectionTrait as _, DbBackend, Statement};
use tonic::transport::Channel;

use crate::binary::{
    caller::Acknowledged,
    process::{channel, eventually},
    rest::amiss,
    webhook::Delivered,
};

/// A look at the services as callers see them.
#[derive(Clone)]
pub(crate) struct Books(Channel);

impl Books {
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self(channel(address))
    }

    pub(crate) async fn member(&self, member_id: &str) -> Member {
        let member_id = member_id.to_owned();
        let answer = MemberServiceClient::new(self.0.clone())
            .get_member(GetMemberRequest { member_id })
            .await;
        answer.unwrap().into_inner().member.unwrap()
    }

    pub(crate) async fn withdrawal_state(&self, withdrawal_id: &str) -> WithdrawalState {
        let withdrawal_id = withdrawal_id.to_owned();
        let answer = MemberServiceClient::new(self.0.clone())
            .get_withdrawal(GetWithdrawalRequest { withdrawal_id })
            .await;
        answer.unwrap().into_inner().withdrawal.unwrap().state()
    }

    pub(crate) async fn coupons(&self, member_id: &str) -> Vec<Coupon> {
        let request = ListCouponsRequest {
            member_id: member_id.to_owned(),
            ..Default::default()
        };
        let answer = CouponServiceClient::new(self.0.clone())
            .list_coupons(request)
            .await;
        answer.unwrap().into_inner().coupons
    }

    async fn notifications(&self, member_id: &str) -> Vec<Notification> {
        let request = ListNotificationsRequest {
            member_id: member_id.to_owned(),
            ..Default::default()
        };
        let answer = NotificationServiceClient::new(self.0.clone())
            .list_notifications(request)
            .await;
        answer.unwrap().into_inner().notifications
    }

    async fn page(&self, member_id: &str, min_version: i64) -> MyPage {
        let request = GetMyPageRequest {
            member_id: member_id.to_owned(),
            min_version,
        };
        let answer = MyPageServiceClient::new(self.0.clone())
            .get_my_page(request)
            .await;
        answer.unwrap().into_inner().page.unwrap()
    }

    /// Waits until everything that the member's coming and going causes has happened.
    pub(crate) async fn comes_to_its_end(&self, acknowledged: &Acknowledged) -> Member {
        let end = if acknowledged.withdrawal_id.is_some() {
            MemberState::Withdrawn
        } else {
            MemberState::Active
        };
        let member_id = &acknowledged.member_id;
        eventually(
            &format!("{member_id} is {end:?} and announced"),
            async || {
                let member = self.member(member_id).await;
                (member.state() == end && member.admin_notified).then_some(member)
            },
        )
        .await
    }

    /// Checks a member that came to its end. `delivered` are the announcements of it.
    pub(crate) async fn check(&self, acknowledged: &Acknowledged, delivered: &[Delivered]) {
        let Acknowledged {
            member_id, email, ..
        } = acknowledged;
        let leaves = acknowledged.withdrawal_id.is_some();
        let member = self.comes_to_its_end(acknowledged).await;
        if let Some(withdrawal_id) = &acknowledged.withdrawal_id {
            let state = self.withdrawal_state(withdrawal_id).await;
            assert_eq!(state, WithdrawalState::Completed);
        }
        assert_eq!(member.email, if leaves { "" } else { email });
        assert_eq!(member.coupon_cancelled, leaves);

        let coupons = self.coupons(member_id).await;
        let [coupon] = &coupons[..] else {
            panic!("not one coupon: {coupons:?}");
        };
        let expected = if leaves {
            CouponState::Cancelled
        } else {
            CouponState::Issued
        };
        assert_eq!(coupon.state(), expected);
        assert_eq!(member.coupon_id, coupon.coupon_id);

        let notifications = self.notifications(member_id).await;
        let [notification] = &notifications[..] else {
            panic!("not one notification: {notifications:?}");
        };
        for delivery in delivered {
            // However often it was repeated.
            assert_eq!(delivery.id(), notification.notification_id);
        }
        self.check_page(&member, coupon).await;
    }

    async fn check_page(&self, member: &Member, coupon: &Coupon) {
        let page = self.page(&member.member_id, member.version).await;
        assert_eq!(page.member_version, member.version);
        assert_eq!(page.member_state, member.state);
        assert_eq!(page.display_name, member.display_name);
        assert_eq!(page.admin_notified, member.admin_notified);
        assert_eq!(page.coupon_cancelled, member.coupon_cancelled);
        assert_eq!(page.withdraw_time, member.withdraw_time);
        // Coupon's own news may come a moment later than the member's.
        let page = eventually("the page shows the coupon", async || {
            let page = self.page(&member.member_id, 0).await;
            (page.coupon_version == coupon.version).then_some(page)
        })
        .await;
        assert_eq!(page.coupon_state, coupon.state);
        assert_eq!(page.coupon_id, coupon.coupon_id);
        assert_eq!(page.coupon_code, coupon.code);
    }
}

/// What the receiver got, by member.
pub(crate) fn by_member(delivered: Vec<Delivered>) -> HashMap<String, Vec<Delivered>> {
    let mut by_member = HashMap::<String, Vec<Delivered>>::new();
    for delivery in delivered {
        let body: serde_json::Value = serde_json::from_str(&delivery.body).unwrap();
        let member_id = body["data"]["member_id"].as_str().unwrap().to_owned();
        by_member.entry(member_id).or_default().push(delivery);
    }
    by_member
}

/// One number from the database of a service that does not run.
pub(crate) async fn number(data_dir: &Path, service: &str, sql: &str) -> i64 {
    let database = Database::open_sqlite(&data_dir.join(format!("{service}.db"))).await;
    let database = database.unwrap();
    let query = Statement::from_string(DbBackend::Sqlite, sql);
    let row = database.read().query_one_raw(query).await.unwrap();
    database.close().await.unwrap();
    row.unwrap().try_get_by_index(0).unwrap()
}

/// Checks what must hold in the files of a mesh that came to rest: nothing parked, nothing waiting.
pub(crate) async fn check_files(data_dir: &Path, members: usize) {
    let number = async |service: &str, sql: &str| number(data_dir, service, sql).await;
    assert_eq!(amiss(members, false, number).await, None);
}
