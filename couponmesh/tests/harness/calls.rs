//! Calls, one line each. Those without `try_` expect to succeed.

use couponmesh::node::ServiceName;
use couponmesh_proto::{
    coupon::v1::{Coupon, ListCouponsRequest, coupon_service_client::CouponServiceClient},
    member::v1::{
        GetMemberRequest, GetWithdrawalRequest, ListMembersRequest, Member, MemberState,
        RegisterMemberRequest, WithdrawMemberRequest, Withdrawal, WithdrawalState,
        member_service_client::MemberServiceClient,
    },
    mypage::v1::{GetMyPageRequest, MyPage, my_page_service_client::MyPageServiceClient},
    notification::v1::{
        ListNotificationsRequest, Notification,
        notification_service_client::NotificationServiceClient,
    },
};
use couponmesh_runtime::status;
use futures::{StreamExt as _, stream};
use tonic::{Code, Status, transport::Channel};

use super::{Mesh, eventually};

/// A registration as most tests make it.
pub(crate) fn registration(email: &str) -> RegisterMemberRequest {
    RegisterMemberRequest {
        request_id: String::new(),
        email: email.to_owned(),
        display_name: "Ann".to_owned(),
    }
}

/// Code and reason of a refusal, to be compared at once.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (
        status.code(),
        status::reason_of(&status).unwrap_or_default(),
    )
}

impl Mesh {
    /// The member service.
    pub(crate) fn members(&self) -> MemberServiceClient<Channel> {
        MemberServiceClient::new(self.channel(ServiceName::Member))
    }

    /// The coupon service, past the [way](Self::coupon_way).
    pub(crate) fn coupons(&self) -> CouponServiceClient<Channel> {
        CouponServiceClient::new(self.channel(ServiceName::Coupon))
    }

    /// The notification service.
    pub(crate) fn notifications(&self) -> NotificationServiceClient<Channel> {
        NotificationServiceClient::new(self.channel(ServiceName::Notification))
    }

    /// My Page.
    pub(crate) fn pages(&self) -> MyPageServiceClient<Channel> {
        MyPageServiceClient::new(self.channel(ServiceName::Mypage))
    }

    /// Registers a member.
    pub(crate) async fn register(&self, email: &str) -> Member {
        self.try_register(registration(email)).await.unwrap()
    }

    /// Registers a member, or not.
    pub(crate) async fn try_register(
        &self,
        request: RegisterMemberRequest,
    ) -> Result<Member, Status> {
        let answer = self.members().register_member(request).await?;
        Ok(answer.into_inner().member.unwrap())
    }

    /// Registers a member and waits until its coupon and the administrator's notification are known.
    pub(crate) async fn join(&self, email: &str) -> Member {
        let member_id = self.register(email).await.member_id;
        self.joined(&member_id).await
    }

    /// Registers `count` members, many at once, and waits until all are ACTIVE and announced.
    pub(crate) async fn join_many(&self, count: usize) -> Vec<Member> {
        let mut members = self.register_many(count).await;
        for member in &mut members {
            *member = self.joined(&member.member_id).await;
        }
        members
    }

    /// Registers `count` members, many at once.
    pub(crate) async fn register_many(&self, count: usize) -> Vec<Member> {
        let emails = (0..count).map(|number| format!("member{number}@example.com"));
        let calls = emails.map(|email| async move { self.register(&email).await });
        stream::iter(calls).buffer_unordered(64).collect().await
    }

    /// Waits until a member's coupon and the administrator's notification are known.
    pub(crate) async fn joined(&self, member_id: &str) -> Member {
        eventually("the member is ACTIVE and announced", || async {
            let member = self.member(member_id).await;
            (member.state() == MemberState::Active && member.admin_notified).then_some(member)
        })
        .await
    }

    /// The member as it is.
    pub(crate) async fn member(&self, member_id: &str) -> Member {
        let member_id = member_id.to_owned();
        let answer = self
            .members()
            .get_member(GetMemberRequest { member_id })
            .await;
        answer.unwrap().into_inner().member.unwrap()
    }

    /// The live members with this address: one or none.
    pub(crate) async fn members_with(&self, email: &str) -> Vec<Member> {
        let request = ListMembersRequest {
            email: email.to_owned(),
            ..Default::default()
        };
        let answer = self.members().list_members(request).await;
        answer.unwrap().into_inner().members
    }

    /// Withdraws a member.
    pub(crate) async fn withdraw(&self, member_id: &str) -> Withdrawal {
        self.try_withdraw("", member_id).await.unwrap()
    }

    /// Withdraws a member, or not.
    pub(crate) async fn try_withdraw(
        &self,
        request_id: &str,
        member_id: &str,
    ) -> Result<Withdrawal, Status> {
        let request = WithdrawMemberRequest {
            request_id: request_id.to_owned(),
            member_id: member_id.to_owned(),
        };
        let answer = self.members().withdraw_member(request).await?;
        Ok(answer.into_inner().withdrawal.unwrap())
    }

    /// The withdrawal as it is.
    pub(crate) async fn withdrawal(&self, withdrawal_id: &str) -> Withdrawal {
        let withdrawal_id = withdrawal_id.to_owned();
        let request = GetWithdrawalRequest { withdrawal_id };
        let answer = self.members().get_withdrawal(request).await;
        answer.unwrap().into_inner().withdrawal.unwrap()
    }

    /// Waits until a withdrawal is COMPLETED.
    pub(crate) async fn completed(&self, withdrawal_id: &str) -> Withdrawal {
        eventually("the withdrawal is COMPLETED", || async {
            let withdrawal = self.withdrawal(withdrawal_id).await;
            (withdrawal.state() == WithdrawalState::Completed).then_some(withdrawal)
        })
        .await
    }

    /// The coupons of a member: one or none, unless something is wrong.
    pub(crate) async fn coupons_of(&self, member_id: &str) -> Vec<Coupon> {
        let request = ListCouponsRequest {
            member_id: member_id.to_owned(),
            ..Default::default()
        };
        let answer = self.coupons().list_coupons(request).await;
        answer.unwrap().into_inner().coupons
    }

    /// The notifications about a member: one or none, unless something is wrong.
    pub(crate) async fn notifications_of(&self, member_id: &str) -> Vec<Notification> {
        let request = ListNotificationsRequest {
            member_id: member_id.to_owned(),
            ..Default::default()
        };
        let answer = self.notifications().list_notifications(request).await;
        answer.unwrap().into_inner().notifications
    }

    /// A member's page as it is, or NOT_FOUND.
    pub(crate) async fn try_page(&self, member_id: &str) -> Result<MyPage, Status> {
        let request = GetMyPageRequest {
            member_id: member_id.to_owned(),
            min_version: 0,
        };
        let answer = self.pages().get_my_page(request).await?;
        Ok(answer.into_inner().page.unwrap())
    }

    /// A member's page, once it shows `version` of the member and the same of the coupon.
    pub(crate) async fn page_at(&self, member_id: &str, version: i64) -> MyPage {
        eventually("the page shows the version", || async {
            let page = self.try_page(member_id).await.ok()?;
            (page.member_version >= version).then_some(page)
        })
        .await
    }
}
