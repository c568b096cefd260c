//! What an operator does about notifications: looks at them, and has those that failed sent again.
//!
//! A notification that is sent again is the same one: the receiver gets it under the identity that
//! it had.

use couponmesh_messaging::{Transaction, rows};
use couponmesh_runtime::id::NotificationId;
use sea_orm::{
    ActiveValue::Set, ConnectionTrait, DbErr, PaginatorTrait as _, QueryOrder, QuerySelect, Select,
    entity::prelude::*,
};

use crate::{
    gate,
    notifications::{ActiveModel, Column, Entity, Model, State},
};

/// At most `limit` notifications in `state`, or in any, newest first.
///
/// # Errors
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    state: Option<State>,
    limit: u64,
) -> Result<Vec<Model>, DbErr> {
    in_state(state)
        .order_by_desc(Column::NotificationId)
        .limit(limit)
        .all(db)
        .await
}

/// How many there are.
///
/// # Errors
/// The database's.
pub async fn count(db: &impl ConnectionTrait, state: Option<State>) -> Result<u64, DbErr> {
    in_state(state).count(db).await
}

/// Those of `ids` that there are.
///
/// # Errors
/// The database's.
pub async fn look(
    db: &impl ConnectionTrait,
    ids: Vec<NotificationId>,
) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(Column::NotificationId.is_in(rows::pad(ids)))
        .order_by_asc(Column::NotificationId)
        .all(db)
        .await
}

/// At most `limit` of those that failed, from the first after `after`.
///
/// # Errors
/// The database's.
pub async fn failed_after(
    db: &impl ConnectionTrait,
    after: Option<NotificationId>,
    limit: u64,
) -> Result<Vec<NotificationId>, DbErr> {
    let mut failed = in_state(Some(State::Failed))
        .select_only()
        .column(Column::NotificationId)
        .order_by_asc(Column::NotificationId)
        .limit(limit);
    if let Some(after) = after {
        failed = failed.filter(Column::NotificationId.gt(after));
    }
    failed.into_tuple().all(db).await
}

/// Makes those of `ids` that failed due at once, with all the time that a new one has. Returns
/// those of `ids` that there are, as they were.
///
/// # Errors
/// The database's.
pub async fn resend(tx: &Transaction, ids: Vec<NotificationId>) -> Result<Vec<Model>, DbErr> {
    let before = look(&**tx, ids.clone()).await?;
    let row = ActiveModel {
        state: Set(State::Pending),
        next_attempt_time: Set(Some(tx.now())),
        failing_since: Set(None),
        ..Default::default()
    };
    Entity::update_many()
        .set(row)
        .filter(Column::NotificationId.is_in(rows::pad(ids)))
        .filter(Column::State.eq(State::Failed))
        .exec(&**tx)
        .await?;
    gate::probe_now(tx).await?;
    Ok(before)
}

fn in_state(state: Option<State>) -> Select<Entity> {
    let query = Entity::find();
    match state {
        Some(state) => query.filter(Column::State.eq(state)),
        None => query,
    }
}
