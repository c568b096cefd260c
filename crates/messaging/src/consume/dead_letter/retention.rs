//! When dead letters go away: they hold names, which nothing keeps for ever.

use couponmesh_runtime::Timestamp;
use sea_orm::{
    ConnectionTrait, DbErr, QueryOrder, QuerySelect, Select,
    entity::prelude::*,
    sea_query::{LockBehavior, LockType},
};

use super::{
    Column, Entity, Model,
    operate::delete,
    query::{any, open},
};

fn closed(consumer: &str, before: Timestamp) -> Select<Entity> {
    Entity::find()
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::CloseTime.lt(before))
}

/// Not those that an operator has just asked for: the worker is about to handle them.
fn expired(consumer: &str, before: Timestamp) -> Select<Entity> {
    open(consumer)
        .filter(Column::ParkTime.lt(before))
        .filter(Column::RedriveTime.is_null())
}

/// Takes some of `letters` away. Replicas' janitors do not wait for each other.
async fn take(
    db: &impl ConnectionTrait,
    consumer: &str,
    letters: Select<Entity>,
    limit: u64,
) -> Result<Vec<Model>, DbErr> {
    let letters = letters
        .order_by_asc(Column::EventId)
        .limit(limit)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .all(db)
        .await?;
    delete(db, consumer, &letters).await?;
    Ok(letters)
}

/// Whether there are letters that were closed before `before`.
pub(crate) async fn any_closed(
    db: &impl ConnectionTrait,
    consumer: &str,
    before: Timestamp,
) -> Result<bool, DbErr> {
    any(db, closed(consumer, before)).await
}

/// Deletes letters that were closed before `before`; false when there were none.
pub(crate) async fn delete_closed(
    db: &impl ConnectionTrait,
    consumer: &str,
    before: Timestamp,
    limit: u64,
) -> Result<bool, DbErr> {
    let letters = take(db, consumer, closed(consumer, before), limit).await?;
    Ok(!letters.is_empty())
}

/// Whether there are open letters from before `before`.
pub(crate) async fn any_expired(
    db: &impl ConnectionTrait,
    consumer: &str,
    before: Timestamp,
) -> Result<bool, DbErr> {
    any(db, expired(consumer, before)).await
}

/// Deletes open letters from before `before`, and returns them.
pub(crate) async fn take_expired(
    db: &impl ConnectionTrait,
    consumer: &str,
    before: Timestamp,
    limit: u64,
) -> Result<Vec<Model>, DbErr> {
    take(db, consumer, expired(consumer, before), limit).await
}
