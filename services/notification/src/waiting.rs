//! Notifications that wait for their next attempt: changes to many of them.

use couponmesh_messaging::{Transaction, rows};
use couponmesh_runtime::{Timestamp, id::NotificationId};
use sea_orm::{
    ActiveValue::Set,
    DbErr, QueryOrder, QuerySelect,
    entity::prelude::*,
    sea_query::{ExprTrait as _, Func, LockBehavior, LockType},
};
use std::time::Duration;

use crate::notifications::{ActiveModel, Column, Entity, State};

/// Makes due what waits for longer than `longest`, which nothing does: a clock that was wrong wrote
/// it.
pub(crate) async fn recall(tx: &Transaction, longest: Duration) -> Result<(), DbErr> {
    let recalled = Entity::update_many()
        .col_expr(Column::NextAttemptTime, Expr::value(tx.now()))
        .filter(Column::NextAttemptTime.gt(tx.now().plus(longest)))
        .exec(&**tx)
        .await?;
    if recalled.rows_affected > 0 {
        tracing::warn!(
            count = recalled.rows_affected,
            "notifications were put off for longer than any may be, by a wrong clock; they are due now"
        );
    }
    Ok(())
}

/// Gives up at most `limit` of those that are due and have failed, or waited for their first
/// attempt, since `end` or before. Returns how many it gave up.
pub(crate) async fn give_up(
    tx: &Transaction,
    end: Timestamp,
    error: &str,
    limit: u64,
) -> Result<u64, DbErr> {
    let since = Func::coalesce([
        Expr::col(Column::FailingSince),
        Expr::col(Column::NextAttemptTime),
    ]);
    let overdue: Vec<NotificationId> = Entity::find()
        .select_only()
        .column(Column::NotificationId)
        // Not those that are being delivered at this moment.
        .filter(Column::NextAttemptTime.lte(tx.now()))
        .filter(Expr::expr(since).lte(end))
        .order_by_asc(Column::NextAttemptTime)
        .limit(limit)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .into_tuple()
        .all(&**tx)
        .await?;
    let count = overdue.len() as u64;
    if count == 0 {
        return Ok(0);
    }
    let row = ActiveModel {
        state: Set(State::Failed),
        next_attempt_time: Set(None),
        last_error: Set(error.to_owned()),
        ..Default::default()
    };
    Entity::update_many()
        .set(row)
        .filter(Column::NotificationId.is_in(rows::pad(overdue)))
        .exec(&**tx)
        .await?;
    Ok(count)
}
