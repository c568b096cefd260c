//! What the worker does that handles a dead letter again.

use couponmesh_runtime::{Timestamp, id::EventId};
use sea_orm::{
    ConnectionTrait, DbErr, QueryOrder, QuerySelect, Select,
    entity::prelude::*,
    sea_query::{ExprTrait as _, LockBehavior, LockType},
};

use super::{
    Column, Entity, Model,
    query::{self, open},
    shortened,
};

fn flagged(consumer: &str) -> Select<Entity> {
    open(consumer).filter(Column::RedriveTime.is_not_null())
}

/// Whether any letter is asked for.
pub(crate) async fn any(db: &impl ConnectionTrait, consumer: &str) -> Result<bool, DbErr> {
    query::any(db, flagged(consumer)).await
}

/// Takes the letter that was asked for first, for as long as the transaction lasts; none that another
/// replica has.
pub(crate) async fn take_first(
    db: &impl ConnectionTrait,
    consumer: &str,
) -> Result<Option<Model>, DbErr> {
    flagged(consumer)
        .order_by_asc(Column::RedriveTime)
        .order_by_asc(Column::EventId)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .one(db)
        .await
}

/// Takes one letter; none when another replica has it, or nobody asks for it any more.
pub(crate) async fn take(
    db: &impl ConnectionTrait,
    consumer: &str,
    event_id: EventId,
) -> Result<Option<Model>, DbErr> {
    flagged(consumer)
        .filter(Column::EventId.eq(event_id))
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .one(db)
        .await
}

/// Stores how many attempts were begun.
pub(crate) async fn count(
    db: &impl ConnectionTrait,
    consumer: &str,
    event_id: EventId,
    attempts: i32,
) -> Result<(), DbErr> {
    change_count(db, consumer, event_id, Expr::value(attempts)).await
}

/// Takes the count of an attempt back that met an outage.
pub(crate) async fn uncount(
    db: &impl ConnectionTrait,
    consumer: &str,
    event_id: EventId,
) -> Result<(), DbErr> {
    let one_less = Expr::col(Column::RedriveAttempts).sub(1);
    change_count(db, consumer, event_id, one_less).await
}

async fn change_count(
    db: &impl ConnectionTrait,
    consumer: &str,
    event_id: EventId,
    count: Expr,
) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::RedriveAttempts, count)
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::EventId.eq(event_id))
        .filter(Column::RedriveTime.is_not_null())
        .exec(db)
        .await?;
    Ok(())
}

/// The event is handled.
pub(crate) async fn close(
    db: &impl ConnectionTrait,
    consumer: &str,
    event_id: EventId,
    now: Timestamp,
) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::CloseTime, Expr::value(Some(now)))
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::EventId.eq(event_id))
        .exec(db)
        .await?;
    Ok(())
}

/// The event was not handled this time either: open as before, with what `attempts` more of them said.
pub(crate) async fn open_again(
    db: &impl ConnectionTrait,
    consumer: &str,
    event_id: EventId,
    error: &str,
    attempts: i32,
) -> Result<(), DbErr> {
    let more = Expr::col(Column::Attempts).add(attempts);
    Entity::update_many()
        .col_expr(Column::RedriveTime, Expr::value(None::<Timestamp>))
        .col_expr(Column::RedriveAttempts, Expr::value(0))
        .col_expr(Column::Error, Expr::value(shortened(error)))
        .col_expr(Column::Attempts, more)
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::EventId.eq(event_id))
        .filter(Column::RedriveTime.is_not_null())
        .filter(Column::CloseTime.is_null())
        .exec(db)
        .await?;
    Ok(())
}
