//! The inbox: which events a consumer has dealt with, and how often it tried.

use couponmesh_runtime::{
    Timestamp,
    id::{EventId, MemberId},
};
use sea_orm::{
    ActiveValue::Set,
    Condition, ConnectionTrait, DbErr, FromQueryResult, QueryOrder, QuerySelect,
    entity::prelude::*,
    sea_query::{ExprTrait as _, OnConflict},
};

use crate::{dead_letter, event::Event, rows};

/// One event at one consumer.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "inbox")]
pub struct Model {
    /// The consumer: the service's name.
    #[sea_orm(primary_key, auto_increment = false)]
    pub consumer: String,
    /// The event's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_id: EventId,
    /// Full message name.
    pub event_type: String,
    /// The member it is about.
    pub member_id: MemberId,
    /// Shared by all that the first request caused.
    pub correlation_id: String,
    /// The event that caused it.
    pub causation_id: Option<Uuid>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// When it was first seen.
    pub create_time: Timestamp,
    /// When it was handled or parked; none while it is tried.
    pub handle_time: Option<Timestamp>,
    /// Attempts that were counted before the handler ran.
    pub attempts: i32,
    /// `handled` or `parked`; none while it is tried.
    pub outcome: Option<String>,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// How an event ended at a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Handled,
    Parked,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Parked => "parked",
        }
    }
}

/// An event that was not dealt with before.
#[derive(Debug, FromQueryResult)]
pub(crate) struct Fresh {
    pub(crate) event_id: EventId,
    /// Attempts counted so far.
    pub(crate) attempts: i32,
}

/// Marks `events` as dealt with and returns those that were not before: the others are duplicates.
pub(crate) async fn mark(
    db: &impl ConnectionTrait,
    consumer: &'static str,
    events: &[&Event],
    outcome: Outcome,
    now: Timestamp,
) -> Result<Vec<Fresh>, DbErr> {
    let row = |event: &&Event| ActiveModel {
        handle_time: Set(Some(now)),
        outcome: Set(Some(outcome.as_str().to_owned())),
        ..new_row(consumer, event, now, 0)
    };
    let dealt_with = [Column::HandleTime, Column::Outcome];
    upsert(
        db,
        in_key_order(events).iter().map(row).collect(),
        OnConflict::columns(KEY)
            .update_columns(dealt_with)
            .to_owned(),
    )
    .await
}

/// Counts an attempt at each of `events` that is not dealt with, and returns those.
pub(crate) async fn count_attempt(
    db: &impl ConnectionTrait,
    consumer: &'static str,
    events: &[&Event],
    now: Timestamp,
) -> Result<Vec<Fresh>, DbErr> {
    let row = |event: &&Event| new_row(consumer, event, now, 1);
    let one_more = Expr::col((Entity, Column::Attempts)).add(1);
    let on_conflict = OnConflict::columns(KEY)
        .value(Column::Attempts, one_more)
        .to_owned();
    let rows = in_key_order(events).iter().map(row).collect();
    upsert(db, rows, on_conflict).await
}

/// Takes the count of an attempt back, unless the event is dealt with.
pub(crate) async fn uncount_attempt(
    db: &impl ConnectionTrait,
    consumer: &'static str,
    event_id: EventId,
) -> Result<(), DbErr> {
    let one_less = Expr::col(Column::Attempts).sub(1);
    Entity::update_many()
        .col_expr(Column::Attempts, one_less)
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::EventId.eq(event_id))
        .filter(Column::HandleTime.is_null())
        .exec(db)
        .await?;
    Ok(())
}

/// Two replicas that got the same events, as happens after a lost acknowledgement, wait for each other at the
/// first and do not deadlock.
fn in_key_order<'a>(events: &[&'a Event]) -> Vec<&'a Event> {
    let mut events = events.to_vec();
    events.sort_unstable_by_key(|event| event.id.0);
    events
}

/// Takes back that the event was parked, so that it can be handled. One that was handled stays so.
pub(crate) async fn unpark(
    db: &impl ConnectionTrait,
    consumer: &'static str,
    event_id: EventId,
) -> Result<(), DbErr> {
    Entity::delete_many()
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::EventId.eq(event_id))
        .filter(Column::Outcome.eq(Outcome::Parked.as_str()))
        .exec(db)
        .await?;
    Ok(())
}

/// Marks `event` as parked from now on, whatever became of its mark. One that was handled stays so. For
/// events whose dead letter goes away: a late delivery must still find that they are dealt with.
pub(crate) async fn park_for_good(
    db: &impl ConnectionTrait,
    consumer: &'static str,
    event: &Event,
    now: Timestamp,
) -> Result<(), DbErr> {
    mark(db, consumer, &[event], Outcome::Parked, now).await?;
    Entity::update_many()
        .col_expr(Column::HandleTime, Expr::value(now))
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::EventId.eq(event.id))
        .filter(Column::Outcome.eq(Outcome::Parked.as_str()))
        .exec(db)
        .await?;
    Ok(())
}

/// The oldest marks after that of `after`, with when the events were dealt with. Not those of open dead letters:
/// as long as an event may be handled by a redrive, no late delivery may handle it, too.
pub(crate) async fn oldest_after(
    db: &impl ConnectionTrait,
    consumer: &'static str,
    after: Option<EventId>,
    limit: u64,
) -> Result<Vec<(EventId, Option<Timestamp>)>, DbErr> {
    // Event ids are UUID v7, so their order is that of time.
    Entity::find()
        .select_only()
        .columns([Column::EventId, Column::HandleTime])
        .filter(Column::Consumer.eq(consumer))
        .filter(Condition::all().add_option(after.map(|id| Column::EventId.gt(id))))
        .filter(Column::EventId.not_in_subquery(dead_letter::open_ids(consumer)))
        .order_by_asc(Column::EventId)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await
}

const KEY: [Column; 2] = [Column::Consumer, Column::EventId];

fn new_row(consumer: &'static str, event: &Event, now: Timestamp, attempts: i32) -> ActiveModel {
    ActiveModel {
        consumer: Set(consumer.to_owned()),
        event_id: Set(event.id),
        event_type: Set(event.event_type.clone()),
        member_id: Set(event.member_id),
        correlation_id: Set(event.context.correlation_id.as_str().to_owned()),
        causation_id: Set(event.context.causation_id),
        traceparent: Set(event.context.traceparent.clone()),
        create_time: Set(now),
        handle_time: Set(None),
        attempts: Set(attempts),
        outcome: Set(None),
    }
}

/// Inserts `rows`, or changes those that are there and not dealt with; returns what it inserted or changed.
async fn upsert(
    db: &impl ConnectionTrait,
    rows: Vec<ActiveModel>,
    mut on_conflict: OnConflict,
) -> Result<Vec<Fresh>, DbErr> {
    on_conflict.action_and_where(Expr::col((Entity, Column::HandleTime)).is_null());
    let columns = [Column::EventId, Column::Attempts];
    rows::insert_returning::<Entity, _, _, _>(db, rows, on_conflict, columns).await
}
