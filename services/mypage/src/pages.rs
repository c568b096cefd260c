//! Pages, one row per member.

use couponmesh_messaging::{Store, Transaction, rows};
use couponmesh_proto::{coupon::v1::CouponState, member::v1::MemberState, mypage::v1 as proto};
use couponmesh_runtime::{
    Timestamp,
    id::{CouponId, MemberId},
};
use sea_orm::{
    ConnectionTrait, DbErr, IntoActiveModel as _,
    entity::prelude::*,
    sea_query::{CaseStatement, ExprTrait as _, Func, OnConflict, SimpleExpr},
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

/// Of the member and of the coupon that a page shows. A page that changes changes one of them.
pub(crate) type Versions = (i64, i64);

impl Model {
    pub(crate) fn versions(&self) -> Versions {
        (self.member_version, self.coupon_version)
    }
}

impl From<&Model> for proto::MyPage {
    fn from(row: &Model) -> Self {
        Self {
            member_id: row.member_id.to_string(),
            display_name: row.display_name.clone(),
            member_state: row.member_state,
            coupon_id: row.coupon_id.map(|id| id.to_string()).unwrap_or_default(),
            coupon_code: row.coupon_code.clone(),
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

/// Pages that are found in one statement at the most.
pub(crate) const MAX_FOUND: usize = 256;

/// Those of `members`' pages that are there, in any order; at most [`MAX_FOUND`] members.
pub(crate) async fn find_all(store: &Store, members: &[MemberId]) -> Result<Vec<Model>, DbErr> {
    store.faults().step("mypage.pages", "find")?;
    Entity::find()
        .filter(Column::MemberId.is_in(rows::pad(members.to_vec())))
        .filter(Column::MemberVersion.gt(0))
        .all(store.read())
        .await
}

/// A row that shows nothing yet.
pub(crate) fn blank(member_id: MemberId, now: Timestamp) -> Model {
    Model {
        member_id,
        display_name: String::new(),
        member_state: MemberState::Unspecified.into(),
        admin_notified: false,
        coupon_cancelled: false,
        register_time: None,
        withdraw_time: None,
        member_version: 0,
        coupon_id: None,
        coupon_code: String::new(),
        coupon_state: CouponState::Unspecified.into(),
        coupon_issue_time: None,
        coupon_cancel_time: None,
        coupon_version: 0,
        update_time: now,
    }
}

/// What member events tell.
const MEMBER: [Column; 7] = [
    Column::DisplayName,
    Column::MemberState,
    Column::AdminNotified,
    Column::CouponCancelled,
    Column::RegisterTime,
    Column::WithdrawTime,
    Column::MemberVersion,
];
/// What coupon events tell.
const COUPON: [Column; 3] = [
    Column::CouponCode,
    Column::CouponState,
    Column::CouponVersion,
];
/// What both tell, and never differently: taken from whichever tells it first.
const SHARED: [Column; 3] = [
    Column::CouponId,
    Column::CouponIssueTime,
    Column::CouponCancelTime,
];

/// Shows `rows`, one a member: of each the halves that are newer than what its page shows.
///
/// Both halves in one statement, and in the order of the rows: two replicas that touch the same pages in the
/// same order do not deadlock.
pub(crate) async fn show(tx: &Transaction, rows: Vec<Model>) -> Result<(), DbErr> {
    let news = |column: Column| SimpleExpr::from(Expr::col(("excluded", column)));
    let shown = |column: Column| SimpleExpr::from(Expr::col((Entity, column)));
    let newer = |version: Column| shown(version).lt(news(version));
    let mut on_conflict = OnConflict::column(Column::MemberId);
    on_conflict
        .update_column(Column::UpdateTime)
        .action_and_where(newer(Column::MemberVersion).or(newer(Column::CouponVersion)));
    let halves = [
        (MEMBER.as_slice(), Column::MemberVersion),
        (COUPON.as_slice(), Column::CouponVersion),
    ];
    for (half, version) in halves {
        for &column in half {
            let newest = CaseStatement::new()
                .case(newer(version), news(column))
                .finally(shown(column));
            on_conflict.value(column, newest);
        }
    }
    for column in SHARED {
        on_conflict.value(column, Func::coalesce([news(column), shown(column)]));
    }
    let rows = rows
        .into_iter()
        .map(|row| row.into_active_model().reset_all())
        .collect();
    rows::insert::<Entity, _, _>(&**tx, rows, Some(on_conflict)).await
}
