//! Withdrawals, one row each; a member has at most one.

use couponmesh_messaging::{Transaction, rows};
use couponmesh_proto::member::v1 as proto;
use couponmesh_runtime::{
    Context, Timestamp,
    id::{MemberId, WithdrawalId},
};
use sea_orm::{
    ActiveValue::Set,
    ConnectionTrait, DbErr, IntoActiveModel as _, QueryOrder, QuerySelect, QueryTrait,
    entity::prelude::*,
    sea_query::{ExprTrait as _, LockBehavior, LockType},
};

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
}

/// One withdrawal.
///
/// # Errors
/// The database's.
pub async fn find(db: &impl ConnectionTrait, id: WithdrawalId) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id).one(db).await
}

/// Keeps other transactions from changing a withdrawal until this one ends.
pub(crate) async fn lock(tx: &Transaction, id: WithdrawalId) -> Result<(), DbErr> {
    Entity::find_by_id(id).lock_exclusive().one(&**tx).await?;
    Ok(())
}

pub(crate) async fn find_by_member(
    db: &impl ConnectionTrait,
    id: MemberId,
) -> Result<Option<Model>, DbErr> {
    Entity::find().filter(Column::MemberId.eq(id)).one(db).await
}

pub(crate) async fn insert(tx: &Transaction, row: Model) -> Result<Model, DbErr> {
    Entity::insert(row.clone().into_active_model().reset_all())
        .exec_without_returning(&**tx)
        .await?;
    Ok(row)
}

/// Completes a withdrawal; false when someone else did.
pub(crate) async fn complete(tx: &Transaction, id: WithdrawalId) -> Result<bool, DbErr> {
    let row = ActiveModel {
        state: Set(State::Completed),
        complete_time: Set(Some(tx.now())),
        next_attempt_time: Set(None),
        claim_end_time: Set(None),
        pending_reason: Set(None),
        ..Default::default()
    };
    update_pending(tx, id, row).await
}

/// Pauses a withdrawal until `next_attempt_time` and gives its claim back; false when it is completed.
pub(crate) async fn pause(
    tx: &Transaction,
    id: WithdrawalId,
    reason: Reason,
    next_attempt_time: Timestamp,
) -> Result<bool, DbErr> {
    let row = ActiveModel {
        pending_reason: Set(Some(reason)),
        next_attempt_time: Set(Some(next_attempt_time)),
        claim_end_time: Set(None),
        ..Default::default()
    };
    update_pending(tx, id, row).await
}

async fn update_pending(
    tx: &Transaction,
    id: WithdrawalId,
    row: ActiveModel,
) -> Result<bool, DbErr> {
    let updated = Entity::update_many()
        .set(row)
        .filter(Column::WithdrawalId.eq(id))
        .filter(Column::State.eq(State::Pending))
        .exec(&**tx)
        .await?;
    Ok(updated.rows_affected > 0)
}

/// Claims up to `limit` withdrawals that are due, oldest first, until `claim_end`: no one else attempts
/// them until then. `even_if_not_due` also takes those that wait out an outage, for a probe.
pub(crate) async fn claim(
    tx: &Transaction,
    limit: usize,
    claim_end: Timestamp,
    even_if_not_due: bool,
) -> Result<Vec<Model>, DbErr> {
    let now = tx.now();
    let free = Column::ClaimEndTime
        .is_null()
        .or(Column::ClaimEndTime.lte(now));
    let waits_out_an_outage = Column::PendingReason
        .is_null()
        .or(Column::PendingReason.ne(Reason::Rejected));
    let due = Entity::find()
        .filter(free)
        .filter(if even_if_not_due {
            Column::NextAttemptTime.lte(now).or(waits_out_an_outage)
        } else {
            Column::NextAttemptTime.lte(now)
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
