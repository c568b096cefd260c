//! Coupons, one row per member, ever.

use std::collections::{HashMap, HashSet};

use couponmesh_messaging::{Transaction, rows};
use couponmesh_proto::coupon::v1 as proto;
use couponmesh_runtime::{
    Timestamp,
    id::{CouponId, MemberId, WithdrawalId},
    page::Page,
};
use sea_orm::{
    Condition, ConnectionTrait, DbErr, FromQueryResult, IntoActiveModel as _, QueryOrder,
    QuerySelect, entity::prelude::*, sea_query::OnConflict,
};

/// A coupon.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "coupons")]
pub struct Model {
    /// UUID v7: newer coupons sort later.
    #[sea_orm(primary_key, auto_increment = false)]
    pub coupon_id: CouponId,
    /// Whose it is.
    #[sea_orm(unique)]
    pub member_id: MemberId,
    /// Readable; none when it was cancelled before it was issued.
    #[sea_orm(unique)]
    pub code: Option<String>,
    /// Where it stands.
    pub state: State,
    /// When it was issued; none when it never was.
    pub issue_time: Option<Timestamp>,
    /// When it was cancelled.
    pub cancel_time: Option<Timestamp>,
    /// The withdrawal that cancelled it.
    pub withdrawal_id: Option<WithdrawalId>,
    /// Counts changes, from 1.
    pub version: i64,
}

/// Where a coupon stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum State {
    /// Usable.
    #[sea_orm(string_value = "ISSUED")]
    Issued,
    /// Cancelled, for good.
    #[sea_orm(string_value = "CANCELLED")]
    Cancelled,
}

impl From<State> for proto::CouponState {
    fn from(state: State) -> Self {
        match state {
            State::Issued => Self::Issued,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl From<Model> for proto::Coupon {
    fn from(row: Model) -> Self {
        Self {
            coupon_id: row.coupon_id.to_string(),
            member_id: row.member_id.to_string(),
            code: row.code.unwrap_or_default(),
            state: proto::CouponState::from(row.state).into(),
            issue_time: row.issue_time.map(Into::into),
            cancel_time: row.cancel_time.map(Into::into),
            version: row.version,
        }
    }
}

impl Model {
    pub(crate) fn cancel(&mut self, cause: WithdrawalId, now: Timestamp) {
        self.state = State::Cancelled;
        self.cancel_time = Some(now);
        self.withdrawal_id = Some(cause);
        self.version += 1;
    }
}

/// One coupon.
///
/// # Errors
/// The database's.
pub async fn find(db: &impl ConnectionTrait, id: CouponId) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id).one(db).await
}

/// Members' coupons, whose rows no other transaction changes until this one ends.
pub(crate) async fn find_by_members_for_update(
    tx: &Transaction,
    ids: Vec<MemberId>,
) -> Result<HashMap<MemberId, Model>, DbErr> {
    let found = Entity::find()
        .filter(Column::MemberId.is_in(rows::pad(ids)))
        .filter(Condition::all().add_option(tx.impatiently()))
        // Locked in one order, so that two replicas do not deadlock.
        .order_by_asc(Column::MemberId)
        .lock_exclusive()
        .all(&**tx)
        .await?;
    let by_member = found.into_iter().map(|row| (row.member_id, row));
    Ok(by_member.collect())
}

/// One page, newest first.
pub(crate) async fn list(
    db: &impl ConnectionTrait,
    page: &Page,
    member_id: Option<MemberId>,
) -> Result<Vec<Model>, DbErr> {
    let mut query = Entity::find()
        .order_by_desc(Column::CouponId)
        .limit(page.limit());
    if let Some(after) = page.after() {
        query = query.filter(Column::CouponId.lt(CouponId(after)));
    }
    if let Some(member_id) = member_id {
        query = query.filter(Column::MemberId.eq(member_id));
    }
    query.all(db).await
}

/// Inserts coupons and returns the ids of those that were: the others' members have one already, or
/// their codes are taken.
pub(crate) async fn insert_new(
    tx: &Transaction,
    mut rows: Vec<Model>,
) -> Result<Vec<CouponId>, DbErr> {
    // In the order of what has to be unique, so that two replicas with the same members do not deadlock.
    rows.sort_unstable_by_key(|row| row.member_id);
    // Names no index on purpose: a conflict of member or of code must leave the transaction usable, which
    // a unique violation on PostgreSQL does not. The caller finds out which it was.
    let neither = OnConflict::new().do_nothing().to_owned();
    let rows = rows
        .into_iter()
        .map(|row| row.into_active_model().reset_all())
        .collect();
    let inserted: Vec<Inserted> =
        rows::insert_returning::<Entity, _, _, _>(&**tx, rows, neither, [Column::CouponId]).await?;
    Ok(inserted.into_iter().map(|row| row.coupon_id).collect())
}

#[derive(FromQueryResult)]
struct Inserted {
    coupon_id: CouponId,
}

/// Which of `members` have a coupon record.
pub(crate) async fn members_with_coupon(
    tx: &Transaction,
    members: &HashSet<MemberId>,
) -> Result<Vec<MemberId>, DbErr> {
    if members.is_empty() {
        return Ok(Vec::new());
    }
    Entity::find()
        .select_only()
        .column(Column::MemberId)
        .filter(Column::MemberId.is_in(rows::pad(members.iter().copied().collect())))
        .into_tuple()
        .all(&**tx)
        .await
}

/// Stores coupons that are cancelled now, and were not before.
///
/// # Errors
/// The database's; `RecordNotUpdated` when another transaction changed one first.
pub(crate) async fn save_cancelled(tx: &Transaction, coupons: Vec<Model>) -> Result<(), DbErr> {
    let rows = coupons.into_iter().map(|row| -> [Value; 5] {
        [
            row.coupon_id.into(),
            row.state.into(),
            row.cancel_time.into(),
            row.withdrawal_id.into(),
            row.version.into(),
        ]
    });
    let types = [
        ColumnType::Uuid,
        ColumnType::Text,
        ColumnType::BigInteger,
        ColumnType::Uuid,
        ColumnType::BigInteger,
    ];
    let set = "state = news.column2, cancel_time = news.column3, withdrawal_id = news.column4, \
               version = news.column5";
    let which = "coupons.coupon_id = news.column1 AND coupons.version = news.column5 - 1";
    rows::update(&**tx, "coupons", types, rows.collect(), set, which).await
}
