//! What an operator does about dead letters: have them handled again, or give them up.

use couponmesh_runtime::{Timestamp, id::EventId};
use sea_orm::{ConnectionTrait, DbErr, QueryOrder, QuerySelect, entity::prelude::*};

use super::{
    Column, Entity, Model,
    query::{SUMMARY, Summary, open},
};
use crate::{rows, store::Transaction};

/// Those of the letters `ids` that are not closed, without changing them.
///
/// # Errors
/// The database's.
pub async fn look(
    db: &impl ConnectionTrait,
    consumer: &str,
    ids: Vec<EventId>,
) -> Result<Vec<Summary>, DbErr> {
    open(consumer)
        .filter(Column::EventId.is_in(rows::pad(ids)))
        .select_only()
        .columns(SUMMARY)
        .order_by_asc(Column::EventId)
        .into_model()
        .all(db)
        .await
}

/// Asks for another try of the letters `ids`; the service's own worker makes it. Returns those that are not
/// closed, as they were: one that was asked for before is left to the worker, who may be at it.
///
/// # Errors
/// The database's.
pub async fn redrive(
    db: &impl ConnectionTrait,
    consumer: &str,
    ids: Vec<EventId>,
    now: Timestamp,
) -> Result<Vec<Summary>, DbErr> {
    let letters = look(db, consumer, ids).await?;
    let ids = letters.iter().map(|letter| letter.event_id).collect();
    Entity::update_many()
        .col_expr(Column::RedriveTime, Expr::value(Some(now)))
        .col_expr(Column::RedriveAttempts, Expr::value(0))
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::EventId.is_in(rows::pad(ids)))
        .filter(Column::RedriveTime.is_null())
        .filter(Column::CloseTime.is_null())
        .exec(db)
        .await?;
    Ok(letters)
}

/// Deletes the letters `ids` that are not closed, and returns them. Their events are not handled, unless the bus is
/// read once more from before them.
///
/// # Errors
/// The database's.
pub async fn discard(
    tx: &Transaction,
    consumer: &'static str,
    ids: Vec<EventId>,
) -> Result<Vec<Model>, DbErr> {
    let letters = open(consumer)
        .filter(Column::EventId.is_in(rows::pad(ids)))
        .order_by_asc(Column::EventId)
        // Waits for a worker that is at one of them; if it closes the letter, there is nothing to drop.
        .lock_exclusive()
        .all(&**tx)
        .await?;
    delete(&**tx, consumer, &letters).await?;
    Ok(letters)
}

pub(super) async fn delete(
    db: &impl ConnectionTrait,
    consumer: &str,
    letters: &[Model],
) -> Result<(), DbErr> {
    let ids = letters.iter().map(|letter| letter.event_id).collect();
    Entity::delete_many()
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::EventId.is_in(rows::pad(ids)))
        .exec(db)
        .await?;
    Ok(())
}
