//! Withdrawals, one row each; a member has at most one.

use std::collections::HashMap;

use couponmesh_messaging::{Transaction, rows};
use couponmesh_proto::member::v1 as proto;
use couponmesh_runtime::{
    Context, Timestamp,
    id::{MemberId, WithdrawalId},
};
use sea_orm::{
    Condition, ConnectionTrait, DbErr, QueryOrder, QuerySelect, QueryTrait,
    entity::prelude::*,
    sea_query::{ExprTrait as _, LockBehavior, LockType},
};

use crate::{config::WithdrawalConfig, error::Error};

/// A withdrawal.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "withdrawals")]
pub struct Model {
    /// UUID v7: newer ones sort later.
    #[sea_orm(primary_key, auto_increment = false)]
    pub withdrawal_id: WithdrawalId,
    /// Who leaves.
    #[sea_orm(unique)]
    pub member_id: MemberId,
    /// Where it stands.
    pub state: State,
    /// CancelCoupon calls that were begun.
    pub attempt_count: i32,
    /// When it is due again; none once COMPLETED.
    pub next_attempt_time: Option<Timestamp>,
    /// Until when an attempt is under way that no other may overlap; none when there is none.
    pub claim_end_time: Option<Timestamp>,
    /// What the last attempt ran into.
    pub pending_reason: Option<Reason>,
    /// When it was asked for.
    pub request_time: Timestamp,
    /// When it was COMPLETED.
    pub complete_time: Option<Timestamp>,
    /// Goes with every CancelCoupon call.
    pub correlation_id: String,
    /// Goes with every CancelCoupon call.
    pub traceparent: Option<String>,
}

/// Where a withdrawal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum State {
    /// The coupon is not yet known to be cancelled.
    #[sea_orm(string_value = "PENDING")]
    Pending,
    /// The member is WITHDRAWN.
    #[sea_orm(string_value = "COMPLETED")]
    Completed,
}

/// Why a withdrawal is still pending. It informs; only the worker's pace depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum Reason {
    /// No room for the attempt, here or at the circuit breaker.
    #[sea_orm(string_value = "OVERLOADED")]
    Overloaded,
    /// The mesh knows no healthy instance.
    #[sea_orm(string_value = "NO_HEALTHY_UPSTREAM")]
    NoHealthyUpstream,
    /// No answer in time.
    #[sea_orm(string_value = "TIMEOUT")]
    Timeout,
    /// No connection.
    #[sea_orm(string_value = "UNREACHABLE")]
    Unreachable,
    /// Refused, and not for an outage.
    #[sea_orm(string_value = "REJECTED")]
    Rejected,
}

impl From<Reason> for proto::PendingReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Overloaded => Self::Overloaded,
            Reason::NoHealthyUpstream => Self::NoHealthyUpstream,
            Reason::Timeout => Self::Timeout,
            Reason::Unreachable => Self::Unreachable,
            Reason::Rejected => Self::Rejected,
        }
    }
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl From<Model> for proto::Withdrawal {
    fn from(row: Model) -> Self {
        Self {
            withdrawal_id: row.withdrawal_id.to_string(),
            member_id: row.member_id.to_string(),
            state: match row.state {
                State::Pending => proto::WithdrawalState::Pending,
                State::Completed => proto::WithdrawalState::Completed,
            }
            .into(),
            attempt_count: row.attempt_count,
            next_attempt_time: row.next_attempt_time.map(Into::into),
            pending_reason: row
                .pending_reason
                .map_or(proto::PendingReason::Unspecified, Into::into)
                .into(),
            request_time: Some(row.request_time.into()),
            complete_time: row.complete_time.map(Into::into),
        }
    }
}

impl Model {
    /// What caused it, for its calls and events.
    #[must_use]
    pub fn context(&self) -> Context {
        let traceparent = self.traceparent.clone();
        Context::stored(
            &self.correlation_id,
            self.withdrawal_id.0,
            None,
            traceparent,
        )
    }

    /// Whether it waits for the worker.
    pub(crate) fn is_unclaimed(&self) -> bool {
        self.claim_end_time.is_none()
    }

    /// Its coupon is cancelled.
    pub(crate) fn complete(&mut self, now: Timestamp) {
        self.state = State::Completed;
        self.complete_time = Some(now);
        self.next_attempt_time = None;
        self.claim_end_time = None;
        self.pending_reason = None;
    }

    /// Its attempt failed, and gives its claim back.
    pub(crate) fn pause(&mut self, reason: Reason, next_attempt_time: Timestamp) {
        self.pending_reason = Some(reason);
        self.next_attempt_time = Some(next_attempt_time);
        self.claim_end_time = None;
    }
}

/// One withdrawal.
///
/// # Errors
/// The database's.
pub async fn find(db: &impl ConnectionTrait, id: WithdrawalId) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id).one(db).await
}

/// Withdrawals by id, which no other transaction changes until this one ends.
pub(crate) async fn find_all_for_update(
    tx: &Transaction,
    ids: Vec<WithdrawalId>,
) -> Result<HashMap<WithdrawalId, Model>, DbErr> {
    let found = Entity::find()
        .filter(Column::WithdrawalId.is_in(rows::pad(ids)))
        .filter(Condition::all().add_option(tx.impatiently()))
        // Locked in the order of their keys, so that two replicas do not deadlock.
        .order_by_asc(Column::WithdrawalId)
        .lock_exclusive()
        .all(&**tx)
        .await?;
    let by_id = found.into_iter().map(|row| (row.withdrawal_id, row));
    Ok(by_id.collect())
}

/// The withdrawals of members.
pub(crate) async fn find_by_members(
    db: &impl ConnectionTrait,
    ids: Vec<MemberId>,
) -> Result<HashMap<MemberId, Model>, DbErr> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = Entity::find()
        .filter(Column::MemberId.is_in(rows::pad(ids)))
        .all(db)
        .await?;
    let by_member = found.into_iter().map(|row| (row.member_id, row));
    Ok(by_member.collect())
}

/// Each of `ids` among those that were found.
pub(crate) fn each(
    found: &HashMap<WithdrawalId, Model>,
    ids: impl Iterator<Item = WithdrawalId>,
) -> impl Iterator<Item = Result<Model, Error>> {
    ids.map(|id| found.get(&id).cloned().ok_or(Error::WithdrawalNotFound))
}

/// Stores where withdrawals stand, which this transaction has locked.
pub(crate) async fn save_all(tx: &Transaction, withdrawals: Vec<Model>) -> Result<(), DbErr> {
    let rows = withdrawals.into_iter().map(|row| -> [Value; 6] {
        [
            row.withdrawal_id.into(),
            row.state.into(),
            row.next_attempt_time.into(),
            row.claim_end_time.into(),
            row.pending_reason.into(),
            row.complete_time.into(),
        ]
    });
    let types = [
        ColumnType::Uuid,
        ColumnType::Text,
        ColumnType::BigInteger,
        ColumnType::BigInteger,
        ColumnType::Text,
        ColumnType::BigInteger,
    ];
    let set = "state = news.column2, next_attempt_time = news.column3, claim_end_time = news.column4, \
               pending_reason = news.column5, complete_time = news.column6";
    let which = "withdrawals.withdrawal_id = news.column1";
    rows::update(&**tx, "withdrawals", types, rows.collect(), set, which).await
}

/// Claims up to `limit` withdrawals that are due, oldest first: no one else attempts them until the claim
/// ends. `even_if_not_due` also takes those that wait out an outage, for a probe. A time further ahead than
/// anything ever waits was written under a wrong clock, and is over.
pub(crate) async fn claim(
    tx: &Transaction,
    config: &WithdrawalConfig,
    limit: usize,
    even_if_not_due: bool,
) -> Result<Vec<Model>, DbErr> {
    let now = tx.now();
    let claim_end = now.plus(config.claim());
    let wrong = now.latest_deadline(config.longest_wait());
    let free = Column::ClaimEndTime
        .is_null()
        .or(Column::ClaimEndTime.lte(now))
        .or(Column::ClaimEndTime.gt(wrong));
    let due = Column::NextAttemptTime
        .lte(now)
        .or(Column::NextAttemptTime.gt(wrong));
    let waits_out_an_outage = Column::PendingReason
        .is_null()
        .or(Column::PendingReason.ne(Reason::Rejected));
    let due = Entity::find()
        .filter(free)
        .filter(if even_if_not_due {
            due.or(waits_out_an_outage)
        } else {
            due
        })
        .limit(limit as u64);
    // In a statement of its own: as the subquery of an UPDATE it may be carried out more than once on
    // PostgreSQL, and go beyond its limit.
    let due: Vec<WithdrawalId> = oldest_that_are_free(due).into_tuple().all(&**tx).await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    Entity::update_many()
        .col_expr(Column::ClaimEndTime, Expr::value(claim_end))
        .col_expr(Column::AttemptCount, Expr::col(Column::AttemptCount).add(1))
        .filter(Column::WithdrawalId.is_in(rows::pad(due)))
        .exec_with_returning(&**tx)
        .await
}

/// Makes everything that waits out an outage due now, except what another replica is at: that has its own
/// outcome.
pub(crate) async fn make_due(tx: &Transaction) -> Result<(), DbErr> {
    let waiting = Entity::find()
        .filter(Column::PendingReason.ne(Reason::Rejected))
        .filter(Column::NextAttemptTime.gt(tx.now()));
    Entity::update_many()
        .col_expr(Column::NextAttemptTime, Expr::value(tx.now()))
        .filter(Column::WithdrawalId.in_subquery(oldest_that_are_free(waiting).into_query()))
        .exec(&**tx)
        .await?;
    Ok(())
}

/// The ids of the pending ones of `wanted`, oldest first, locked until the transaction ends. Those that
/// another transaction has locked are passed by: it may be waiting for the gate, which this one holds.
fn oldest_that_are_free(wanted: Select<Entity>) -> Select<Entity> {
    // As the partial index says it: a plan that is kept for any value cannot use the index, and would read all that
    // ever was.
    let pending = Expr::col(Column::State).eq(Expr::cust("'PENDING'"));
    wanted
        .select_only()
        .column(Column::WithdrawalId)
        .filter(pending)
        .order_by_asc(Column::WithdrawalId)
        // Dropped on SQLite, which has one writer.
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
}
