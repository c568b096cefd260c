//! Dead letters: events that a consumer could not handle, kept for an operator.
//!
//! | what | file |
//! | --- | --- |
//! | which there are | [`query`] |
//! | what an operator does about them | [`operate`] |
//! | what the worker does that handles one again | `redriving` |
//! | when they go away | `retention` |

pub mod operate;
pub mod query;
pub(crate) mod redriving;
pub(crate) mod retention;

use couponmesh_runtime::{
    Context, Timestamp,
    id::{EventId, MemberId},
};
use sea_orm::{
    ActiveValue::Set, ConnectionTrait, DbErr, entity::prelude::*, sea_query::OnConflict,
};

use crate::{event::Event, rows};

/// Bytes of an error's text that are kept.
const MAX_ERROR: usize = 2_000;

/// One parked event.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "dead_letters")]
pub struct Model {
    /// The consumer that parked it.
    #[sea_orm(primary_key, auto_increment = false)]
    pub consumer: String,
    /// The event's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_id: EventId,
    /// Full message name.
    pub event_type: String,
    /// The service that published it.
    pub source: String,
    /// The member it is about.
    pub member_id: MemberId,
    /// Shared by all that the first request caused.
    pub correlation_id: String,
    /// The event that caused it.
    pub causation_id: Option<Uuid>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// When it was published.
    pub event_time: Timestamp,
    /// The encoded message.
    pub payload: Vec<u8>,
    /// What the last attempt said.
    pub error: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was parked.
    pub park_time: Timestamp,
    /// When an operator asked for another try; none until then.
    pub redrive_time: Option<Timestamp>,
    /// When a redrive succeeded; none while it is open.
    pub close_time: Option<Timestamp>,
    /// Attempts that were begun since then; none is under way when nothing asks for one.
    #[sea_orm(default_value = 0)]
    pub redrive_attempts: i32,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// The event in this letter.
    #[must_use]
    pub fn to_event(&self) -> Event {
        Event {
            id: self.event_id,
            event_type: self.event_type.clone(),
            source: self.source.clone(),
            member_id: self.member_id,
            time: self.event_time,
            context: Context::stored(
                &self.correlation_id,
                self.event_id.0,
                self.causation_id,
                self.traceparent.clone(),
            ),
            payload: self.payload.clone(),
        }
    }
}

fn shortened(error: &str) -> String {
    // PostgreSQL takes every character but this one.
    error[..error.floor_char_boundary(MAX_ERROR)].replace('\0', "?")
}

/// Stores `event` as a dead letter; one that is there already is opened again.
pub(crate) async fn park(
    db: &impl ConnectionTrait,
    consumer: &'static str,
    event: &Event,
    error: &str,
    attempts: i32,
    now: Timestamp,
) -> Result<(), DbErr> {
    let letter = ActiveModel {
        consumer: Set(consumer.to_owned()),
        event_id: Set(event.id),
        event_type: Set(event.event_type.clone()),
        source: Set(event.source.clone()),
        member_id: Set(event.member_id),
        correlation_id: Set(event.context.correlation_id.as_str().to_owned()),
        causation_id: Set(event.context.causation_id),
        traceparent: Set(event.context.traceparent.clone()),
        event_time: Set(event.time),
        payload: Set(event.payload.clone()),
        error: Set(shortened(error)),
        attempts: Set(attempts),
        park_time: Set(now),
        redrive_time: Set(None),
        close_time: Set(None),
        redrive_attempts: Set(0),
    };
    let opened_again = OnConflict::columns([Column::Consumer, Column::EventId])
        .update_columns([
            Column::Error,
            Column::Attempts,
            Column::ParkTime,
            Column::RedriveTime,
            Column::CloseTime,
            Column::RedriveAttempts,
        ])
        .to_owned();
    rows::insert::<Entity, _, _>(db, vec![letter], Some(opened_again)).await
}
