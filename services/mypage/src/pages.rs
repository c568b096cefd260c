//! Pages, one row per member.

use couponmesh_messaging::{Transaction, rows};
use couponmesh_proto::{coupon::v1::CouponState, member::v1::MemberState, mypage::v1 as proto};
use couponmesh_runtime::{
    Timestamp,
    id::{CouponId, MemberId},
};
use sea_orm::{
    ActiveValue::Set,
    ConnectionTrait, DbErr,
    entity::prelude::*,
    sea_query::{ExprTrait as _, Func, OnConflict, SimpleExpr},
};

/// A page. Each half shows the highest version of its subject that was seen.
#[derive(Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "pages")]
pub struct Model {
    /// Whose page it is.
    #[sea_orm(primary_key, auto_increment = false)]
    pub member_id: MemberId,
    /// Empty once WITHDRAWN.
    pub display_name: String,
    /// The number of `couponmesh.member.v1.MemberState`.
    pub member_state: i32,
    /// Whether the administrator was notified.
    pub admin_notified: bool,
    /// Whether the member service knows that the coupon is cancelled.
    pub coupon_cancelled: bool,
    /// When the member registered; none before any news of the member.
    pub register_time: Option<Timestamp>,
    /// When the member became WITHDRAWN.
    pub withdraw_time: Option<Timestamp>,
    /// The member's version that is shown; 0 before any.
    pub member_version: i64,
    /// The coupon; none before any news of it.
    pub coupon_id: Option<CouponId>,
    /// The coupon's code; empty before it is issued.
    pub coupon_code: String,
    /// The number of `couponmesh.coupon.v1.CouponState`.
    pub coupon_state: i32,
    /// When the coupon was issued.
    pub coupon_issue_time: Option<Timestamp>,
    /// When the coupon was cancelled.
    pub coupon_cancel_time: Option<Timestamp>,
    /// The coupon's version that is shown; 0 before any.
    pub coupon_version: i64,
    /// When the page last changed.
    pub update_time: Timestamp,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Without personal data, which stays out of logs.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page")
            .field("member_id", &self.member_id)
            .field("member_version", &self.member_version)
            .field("coupon_version", &self.coupon_version)
            .finish_non_exhaustive()
    }
}

impl From<Model> for proto::MyPage {
    fn from(row: Model) -> Self {
        Self {
            member_id: row.member_id.to_string(),
            display_name: row.display_name,
            member_state: row.member_state,
            coupon_id: row.coupon_id.map(|id| id.to_string()).unwrap_or_default(),
            coupon_code: row.coupon_code,
            coupon_state: row.coupon_state,
            admin_notified: row.admin_notified,
            coupon_cancelled: row.coupon_cancelled,
            register_time: row.register_time.map(Into::into),
            coupon_issue_time: row.coupon_issue_time.map(Into::into),
            coupon_cancel_time: row.coupon_cancel_time.map(Into::into),
            withdraw_time: row.withdraw_time.map(Into::into),
            update_time: Some(row.update_time.into()),
            member_version: row.member_version,
            coupon_version: row.coupon_version,
        }
    }
}

/// The page, once a member event was seen.
///
/// # Errors
/// The database's.
pub async fn find(db: &impl ConnectionTrait, id: MemberId) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id)
        .filter(Column::MemberVersion.gt(0))
        .one(db)
        .await
}

/// A row that shows nothing yet, for the half that was not heard of.
pub(crate) fn blank(member_id: MemberId, now: Timestamp) -> ActiveModel {
    ActiveModel {
        member_id: Set(member_id),
        display_name: Set(String::new()),
        member_state: Set(MemberState::Unspecified.into()),
        admin_notified: Set(false),
        coupon_cancelled: Set(false),
        register_time: Set(None),
        withdraw_time: Set(None),
        member_version: Set(0),
        coupon_id: Set(None),
        coupon_code: Set(String::new()),
        coupon_state: Set(CouponState::Unspecified.into()),
        coupon_issue_time: Set(None),
        coupon_cancel_time: Set(None),
        coupon_version: Set(0),
        update_time: Set(now),
    }
}

/// What both halves tell, and never differently: taken from whichever tells it first.
const SHARED: [Column; 3] = [
    Column::CouponId,
    Column::CouponIssueTime,
    Column::CouponCancelTime,
];

/// Shows the member half of `rows`, one a member, unless a page shows the same or newer news of it.
pub(crate) async fn show_members(tx: &Transaction, rows: Vec<ActiveModel>) -> Result<(), DbErr> {
    let half = [
        Column::DisplayName,
        Column::MemberState,
        Column::AdminNotified,
        Column::CouponCancelled,
        Column::RegisterTime,
        Column::WithdrawTime,
        Column::MemberVersion,
    ];
    show(tx, rows, &half, Column::MemberVersion).await
}

/// Shows the coupon half of `rows`, one a member, unless a page shows the same or newer news of it.
pub(crate) async fn show_coupons(tx: &Transaction, rows: Vec<ActiveModel>) -> Result<(), DbErr> {
    let half = [
        Column::CouponCode,
        Column::CouponState,
        Column::CouponVersion,
    ];
    show(tx, rows, &half, Column::CouponVersion).await
}

async fn show(
    tx: &Transaction,
    rows: Vec<ActiveModel>,
    half: &[Column],
    version: Column,
) -> Result<(), DbErr> {
    let news = |column: Column| SimpleExpr::from(Expr::col(("excluded", column)));
    let shown = |column: Column| SimpleExpr::from(Expr::col((Entity, column)));
    let mut on_conflict = OnConflict::column(Column::MemberId);
    on_conflict
        .update_columns(half.iter().copied())
        .update_column(Column::UpdateTime)
        .action_and_where(shown(version).lt(news(version)));
    for column in SHARED {
        on_conflict.value(column, Func::coalesce([news(column), shown(column)]));
    }
    rows::insert::<Entity, _, _>(&**tx, rows, Some(on_conflict)).await
}
