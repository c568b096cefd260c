//! Which dead letters there are. Without payloads, which may hold names.

use couponmesh_runtime::{
    Timestamp,
    id::{EventId, MemberId},
};
use sea_orm::{
    Condition, ConnectionTrait, DbErr, FromQueryResult, PaginatorTrait as _, QueryOrder,
    QuerySelect, Select, entity::prelude::*, sea_query::LikeExpr,
};

use super::{Column, Entity, Model};

/// What an operator looks for; every field narrows it.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The full name of the message, or its last part.
    pub event_type: Option<String>,
    /// The member it is about.
    pub member_id: Option<MemberId>,
    /// Parked at this moment or later.
    pub parked_since: Option<Timestamp>,
    /// Parked before this moment.
    pub parked_before: Option<Timestamp>,
}

/// `text` in a pattern that it matches as it is.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

impl Filter {
    fn condition(&self) -> Condition {
        let of_type = self.event_type.as_ref().map(|name| {
            let full = Condition::any().add(Column::EventType.eq(name));
            if name.contains('.') {
                full
            } else {
                let last_part = LikeExpr::new(format!("%.{}", literally(name))).escape('\\');
                full.add(Column::EventType.like(last_part))
            }
        });
        Condition::all()
            .add_option(of_type)
            .add_option(self.member_id.map(|id| Column::MemberId.eq(id)))
            .add_option(self.parked_since.map(|time| Column::ParkTime.gte(time)))
            .add_option(self.parked_before.map(|time| Column::ParkTime.lt(time)))
    }
}

/// One letter in a list.
#[derive(Clone, Debug, FromQueryResult)]
pub struct Summary {
    /// The event's id.
    pub event_id: EventId,
    /// Full message name.
    pub event_type: String,
    /// The member it is about.
    pub member_id: MemberId,
    /// When it was parked.
    pub park_time: Timestamp,
    /// How often it was tried.
    pub attempts: i32,
    /// When an operator asked for another try.
    pub redrive_time: Option<Timestamp>,
    /// When a redrive succeeded.
    pub close_time: Option<Timestamp>,
    /// What the last attempt said.
    pub error: String,
}

pub(super) const SUMMARY: [Column; 8] = [
    Column::EventId,
    Column::EventType,
    Column::MemberId,
    Column::ParkTime,
    Column::Attempts,
    Column::RedriveTime,
    Column::CloseTime,
    Column::Error,
];

/// The consumer's letters that are not closed.
pub(super) fn open(consumer: &str) -> Select<Entity> {
    Entity::find()
        .filter(Column::Consumer.eq(consumer))
        .filter(Column::CloseTime.is_null())
}

/// Whether `letters` are any.
pub(super) async fn any(db: &impl ConnectionTrait, letters: Select<Entity>) -> Result<bool, DbErr> {
    let id: Option<EventId> = letters
        .select_only()
        .column(Column::EventId)
        .into_tuple()
        .one(db)
        .await?;
    Ok(id.is_some())
}

/// The letters that are not closed, the oldest first.
///
/// # Errors
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    consumer: &str,
    filter: &Filter,
    limit: u64,
) -> Result<Vec<Summary>, DbErr> {
    open(consumer)
        .filter(filter.condition())
        .select_only()
        .columns(SUMMARY)
        .order_by_asc(Column::ParkTime)
        .order_by_asc(Column::EventId)
        .limit(limit)
        .into_model()
        .all(db)
        .await
}

/// How many letters are not closed.
///
/// # Errors
/// The database's.
pub async fn count(
    db: &impl ConnectionTrait,
    consumer: &str,
    filter: &Filter,
) -> Result<u64, DbErr> {
    let matching = open(consumer).filter(filter.condition());
    matching.count(db).await
}

/// The ids of letters that are not closed, in their order, those after `after`.
///
/// # Errors
/// The database's.
pub async fn ids(
    db: &impl ConnectionTrait,
    consumer: &str,
    filter: &Filter,
    after: Option<EventId>,
    limit: u64,
) -> Result<Vec<EventId>, DbErr> {
    let after = after.map(|id| Column::EventId.gt(id));
    open(consumer)
        .filter(filter.condition())
        .filter(Condition::all().add_option(after))
        .select_only()
        .column(Column::EventId)
        .order_by_asc(Column::EventId)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await
}

/// One letter, whatever became of it.
///
/// # Errors
/// The database's.
pub async fn find(
    db: &impl ConnectionTrait,
    consumer: &str,
    event_id: EventId,
) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id((consumer.to_owned(), event_id))
        .one(db)
        .await
}
