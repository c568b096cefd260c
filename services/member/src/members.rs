//! Members, one row each.

use std::collections::HashMap;

use couponmesh_messaging::{Transaction, rows};
use couponmesh_proto::member::v1 as proto;
use couponmesh_runtime::{
    Context, Timestamp,
    id::{CouponId, MemberId, WithdrawalId},
    page::Page,
};
use sea_orm::{Condition, ConnectionTrait, DbErr, QueryOrder, QuerySelect, entity::prelude::*};

use crate::{profile::Email, requests};

/// A member.
#[derive(Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "members")]
pub struct Model {
    /// UUID v7: newer members sort later.
    #[sea_orm(primary_key, auto_increment = false)]
    pub member_id: MemberId,
    /// Normalised; none once WITHDRAWN, which frees it for another member.
    #[sea_orm(unique)]
    pub email: Option<String>,
    /// Empty once WITHDRAWN.
    pub display_name: String,
    /// Where the member stands.
    pub state: State,
    /// Known once the coupon is issued or cancelled.
    pub coupon_id: Option<CouponId>,
    /// When the member registered.
    pub register_time: Timestamp,
    /// When the coupon was issued; none until that is known.
    pub coupon_issue_time: Option<Timestamp>,
    /// When the administrator was notified; none until that is known.
    pub admin_notify_time: Option<Timestamp>,
    /// When the coupon was cancelled; none until that is known.
    pub coupon_cancel_time: Option<Timestamp>,
    /// When the member became WITHDRAWN.
    pub withdraw_time: Option<Timestamp>,
    /// Counts changes, from 1; each is one event.
    pub version: i64,
    /// Who may act for the member, once callers are authenticated.
    pub account_id: Option<String>,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum State {
    /// Its coupon is on its way.
    #[sea_orm(string_value = "REGISTERED")]
    Registered,
    /// Its coupon is issued.
    #[sea_orm(string_value = "ACTIVE")]
    Active,
    /// It asked to leave.
    #[sea_orm(string_value = "WITHDRAWING")]
    Withdrawing,
    /// It left.
    #[sea_orm(string_value = "WITHDRAWN")]
    Withdrawn,
}

impl From<State> for proto::MemberState {
    fn from(state: State) -> Self {
        match state {
            State::Registered => Self::Registered,
            State::Active => Self::Active,
            State::Withdrawing => Self::Withdrawing,
            State::Withdrawn => Self::Withdrawn,
        }
    }
}

impl State {
    /// Whether the member has a withdrawal: the same transaction makes it, and this.
    pub(crate) fn leaves(self) -> bool {
        match self {
            Self::Registered | Self::Active => false,
            Self::Withdrawing | Self::Withdrawn => true,
        }
    }

    /// The state that a request names; `None` for UNSPECIFIED and unknown numbers.
    #[must_use]
    pub fn from_request(number: i32) -> Option<Self> {
        match proto::MemberState::try_from(number).ok()? {
            proto::MemberState::Unspecified => None,
            proto::MemberState::Registered => Some(Self::Registered),
            proto::MemberState::Active => Some(Self::Active),
            proto::MemberState::Withdrawing => Some(Self::Withdrawing),
            proto::MemberState::Withdrawn => Some(Self::Withdrawn),
        }
    }
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Without personal data, which stays out of logs.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("member_id", &self.member_id)
            .field("state", &self.state)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl From<Model> for proto::Member {
    fn from(row: Model) -> Self {
        Self {
            member_id: row.member_id.to_string(),
            email: row.email.unwrap_or_default(),
            display_name: row.display_name,
            state: proto::MemberState::from(row.state).into(),
            coupon_id: row.coupon_id.map(|id| id.to_string()).unwrap_or_default(),
            admin_notified: row.admin_notify_time.is_some(),
            coupon_cancelled: row.coupon_cancel_time.is_some(),
            register_time: Some(row.register_time.into()),
            coupon_issue_time: row.coupon_issue_time.map(Into::into),
            admin_notify_time: row.admin_notify_time.map(Into::into),
            coupon_cancel_time: row.coupon_cancel_time.map(Into::into),
            withdraw_time: row.withdraw_time.map(Into::into),
            version: row.version,
        }
    }
}

/// What events tell of a member: everything but the address.
impl From<&Model> for proto::MemberSnapshot {
    fn from(row: &Model) -> Self {
        Self {
            member_id: row.member_id.to_string(),
            display_name: row.display_name.clone(),
            state: proto::MemberState::from(row.state).into(),
            coupon_id: row.coupon_id.map(|id| id.to_string()).unwrap_or_default(),
            admin_notified: row.admin_notify_time.is_some(),
            coupon_cancelled: row.coupon_cancel_time.is_some(),
            register_time: Some(row.register_time.into()),
            coupon_issue_time: row.coupon_issue_time.map(Into::into),
            admin_notify_time: row.admin_notify_time.map(Into::into),
            coupon_cancel_time: row.coupon_cancel_time.map(Into::into),
            withdraw_time: row.withdraw_time.map(Into::into),
            version: row.version,
        }
    }
}

/// One member.
///
/// # Errors
/// The database's.
pub async fn find(db: &impl ConnectionTrait, id: MemberId) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id).one(db).await
}

/// One page, newest first.
pub(crate) async fn list(
    db: &impl ConnectionTrait,
    page: &Page,
    state: Option<State>,
    email: Option<&Email>,
) -> Result<Vec<Model>, DbErr> {
    let mut query = Entity::find()
        .order_by_desc(Column::MemberId)
        .limit(page.limit());
    if let Some(after) = page.after() {
        query = query.filter(Column::MemberId.lt(MemberId(after)));
    }
    if let Some(state) = state {
        query = query.filter(Column::State.eq(state));
    }
    if let Some(email) = email {
        query = query.filter(Column::Email.eq(email.expose()));
    }
    query.all(db).await
}

/// Members by id, whose rows no other transaction changes until this one ends.
pub(crate) async fn find_all_for_update(
    tx: &Transaction,
    ids: Vec<MemberId>,
) -> Result<HashMap<MemberId, Model>, DbErr> {
    let members = Entity::find()
        .filter(Column::MemberId.is_in(rows::pad(ids)))
        .filter(Condition::all().add_option(tx.impatiently()))
        // Locked in the order of their keys, so that two replicas do not deadlock.
        .order_by_asc(Column::MemberId)
        .lock_exclusive()
        .all(&**tx)
        .await?;
    Ok(members
        .into_iter()
        .map(|member| (member.member_id, member))
        .collect())
}

/// Applies `change` to a member, which [`save_changed`] then stores: one version and one event, or nothing when
/// it changes nothing.
///
/// Leaving erases the personal data and publishes `MemberWithdrawn` for `withdrawal`; any other change
/// publishes `MemberChanged`.
pub(crate) fn apply(
    tx: &Transaction,
    context: &Context,
    member: &mut Model,
    withdrawal: Option<WithdrawalId>,
    change: impl FnOnce(&mut Model),
) {
    let before = member.clone();
    change(member);
    if *member == before {
        return;
    }
    member.version += 1;
    if member.state == State::Withdrawn {
        member.email = None;
        member.display_name = String::new();
    }
    let snapshot = Some(proto::MemberSnapshot::from(&*member));
    match withdrawal {
        Some(withdrawal) => {
            let withdrawn = proto::MemberWithdrawn {
                member: snapshot,
                withdrawal_id: withdrawal.to_string(),
            };
            tx.append(context, member.member_id, &withdrawn);
        }
        None => {
            let changed = proto::MemberChanged { member: snapshot };
            tx.append(context, member.member_id, &changed);
        }
    }
}

/// Stores those of `members` that are no longer as they were `before`.
///
/// # Errors
/// The database's; a transaction that lost a race gets `RecordNotUpdated`, which is worth another try.
pub(crate) async fn save_changed(
    tx: &Transaction,
    before: &HashMap<MemberId, Model>,
    members: HashMap<MemberId, Model>,
) -> Result<(), DbErr> {
    let changed = members.into_values().filter_map(|member| {
        let version = before.get(&member.member_id)?.version;
        (member.version != version).then_some((version, member))
    });
    let (left, stayed): (Vec<_>, Vec<_>) =
        changed.partition(|(_, member)| member.state == State::Withdrawn);
    save(tx, stayed, "").await?;
    if left.is_empty() {
        return Ok(());
    }
    tx.erases();
    // Written only when they change: the address is in an index.
    let erased = ", email = NULL, display_name = '', withdraw_time = news.column9";
    let ids = left.iter().map(|(_, member)| member.member_id).collect();
    save(tx, left, erased).await?;
    requests::erase(&**tx, ids).await
}

/// Stores members, each with the version that it had before, and what else is `set`.
async fn save(tx: &Transaction, members: Vec<(i64, Model)>, set: &str) -> Result<(), DbErr> {
    let types = [
        ColumnType::Uuid,
        ColumnType::Text,
        ColumnType::Uuid,
        ColumnType::BigInteger,
        ColumnType::BigInteger,
        ColumnType::BigInteger,
        ColumnType::BigInteger,
        ColumnType::BigInteger,
        ColumnType::BigInteger,
    ];
    let rows = members.into_iter().map(|(before, member)| -> [Value; 9] {
        [
            member.member_id.into(),
            member.state.into(),
            member.coupon_id.into(),
            member.coupon_issue_time.into(),
            member.admin_notify_time.into(),
            member.coupon_cancel_time.into(),
            member.version.into(),
            before.into(),
            member.withdraw_time.into(),
        ]
    });
    let set = format!(
        "state = news.column2, coupon_id = news.column3, coupon_issue_time = news.column4, \
         admin_notify_time = news.column5, coupon_cancel_time = news.column6, \
         version = news.column7{set}"
    );
    let which = "members.member_id = news.column1 AND members.version = news.column8";
    rows::update(&**tx, "members", types, rows.collect(), &set, which).await
}
