//! The outbox: events that are committed with the state they tell of, until the relay has published them.

use couponmesh_runtime::{
    Context, Timestamp,
    id::{EventId, MemberId},
};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    Condition, ConnectionTrait, DbBackend, DbErr, FromQueryResult, PaginatorTrait as _, QueryOrder,
    QuerySelect, QueryTrait as _,
    entity::prelude::*,
    sea_query::{InsertStatement, UpdateStatement},
};

use crate::{event::Event, rows};

/// One event.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "outbox")]
pub struct Model {
    /// Order of insertion.
    #[sea_orm(primary_key)]
    pub seq: i64,
    /// The event's id.
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
    /// The encoded message.
    pub payload: Vec<u8>,
    /// When it was stored.
    pub create_time: Timestamp,
    /// When the bus had it on disk; none until then.
    pub publish_time: Option<Timestamp>,
}

/// No relations: events stand alone.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl From<Event> for ActiveModel {
    fn from(event: Event) -> Self {
        Self {
            seq: NotSet,
            event_id: Set(event.id),
            event_type: Set(event.event_type),
            member_id: Set(event.member_id),
            correlation_id: Set(event.context.correlation_id.as_str().to_owned()),
            causation_id: Set(event.context.causation_id),
            traceparent: Set(event.context.traceparent),
            payload: Set(event.payload),
            create_time: Set(event.time),
            publish_time: Set(None),
        }
    }
}

impl Model {
    /// The event in this row, published by `source`.
    #[must_use]
    pub fn into_event(self, source: &str) -> Event {
        Event {
            id: self.event_id,
            event_type: self.event_type,
            source: source.to_owned(),
            member_id: self.member_id,
            time: self.create_time,
            context: Context::stored(
                &self.correlation_id,
                self.event_id.0,
                self.causation_id,
                self.traceparent,
            ),
            payload: self.payload,
        }
    }
}

pub(crate) async fn insert(db: &impl ConnectionTrait, events: Vec<Event>) -> Result<(), DbErr> {
    rows::insert::<Entity, _, _>(
        db,
        events.into_iter().map(ActiveModel::from).collect(),
        None,
    )
    .await
}

/// The same on PostgreSQL, as statements.
pub(crate) fn statements(events: Vec<Event>) -> Vec<InsertStatement> {
    let rows = events.into_iter().map(ActiveModel::from).collect();
    rows::statements::<Entity, _>(DbBackend::Postgres, rows)
}

/// The oldest rows after that at `after` that the bus does not have yet.
pub(crate) async fn unpublished(
    db: &impl ConnectionTrait,
    after: Option<i64>,
    limit: usize,
) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(Column::PublishTime.is_null())
        .filter(Condition::all().add_option(after.map(|seq| Column::Seq.gt(seq))))
        .order_by_asc(Column::Seq)
        .limit(limit as u64)
        .all(db)
        .await
}

/// Marks exactly the rows `seqs`: a range could take in a row that committed meanwhile and was never published.
///
/// For a transaction of its own. PostgreSQL need not sync it: a server that dies right afterwards may forget it,
/// and then the events are published again, as after a relay that died.
pub(crate) fn mark_published(
    backend: DbBackend,
    seqs: Vec<i64>,
    now: Timestamp,
) -> UpdateStatement {
    let mut mark = Entity::update_many()
        .col_expr(Column::PublishTime, Expr::value(now))
        .filter(Column::Seq.is_in(rows::pad(seqs)));
    if backend == DbBackend::Postgres {
        // Once, before any row, and until the end of the transaction.
        let unsynced = "(SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL";
        mark = mark.filter(Expr::cust(unsynced));
    }
    mark.into_query()
}

/// What the outbox holds of a span of time.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// From this moment on.
    pub since: Timestamp,
    /// Up to this moment.
    pub until: Timestamp,
}

impl Span {
    fn published(self) -> Select<Entity> {
        Entity::find()
            .filter(Column::CreateTime.gte(self.since))
            .filter(Column::CreateTime.lt(self.until))
            .filter(Column::PublishTime.is_not_null())
    }
}

/// The oldest row: its position and when it was stored.
///
/// # Errors
/// The database's.
pub async fn oldest(db: &impl ConnectionTrait) -> Result<Option<(i64, Timestamp)>, DbErr> {
    Entity::find()
        .select_only()
        .columns([Column::Seq, Column::CreateTime])
        .order_by_asc(Column::Seq)
        .into_tuple()
        .one(db)
        .await
}

/// What a row tells of its age.
#[derive(Debug, FromQueryResult)]
pub(crate) struct Aged {
    pub(crate) seq: i64,
    pub(crate) create_time: Timestamp,
    pub(crate) publish_time: Option<Timestamp>,
}

/// The oldest rows after that at `after`.
pub(crate) async fn oldest_after(
    db: &impl ConnectionTrait,
    after: Option<i64>,
    limit: u64,
) -> Result<Vec<Aged>, DbErr> {
    Entity::find()
        .select_only()
        .columns([Column::Seq, Column::CreateTime, Column::PublishTime])
        .filter(Condition::all().add_option(after.map(|seq| Column::Seq.gt(seq))))
        .order_by_asc(Column::Seq)
        .limit(limit)
        .into_model()
        .all(db)
        .await
}

/// How many published rows a span holds.
///
/// # Errors
/// The database's.
pub async fn count_published(db: &impl ConnectionTrait, span: Span) -> Result<u64, DbErr> {
    span.published().count(db).await
}

/// Lets the relay publish the next rows of a span again, those after `after`; returns how many they are and
/// the last of them, none when there are no more.
///
/// # Errors
/// The database's.
pub async fn republish(
    db: &impl ConnectionTrait,
    span: Span,
    after: i64,
    limit: u64,
) -> Result<Option<(usize, i64)>, DbErr> {
    let seqs: Vec<i64> = span
        .published()
        .select_only()
        .column(Column::Seq)
        .filter(Column::Seq.gt(after))
        .order_by_asc(Column::Seq)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await?;
    let Some(&last) = seqs.last() else {
        return Ok(None);
    };
    let count = seqs.len();
    Entity::update_many()
        .col_expr(Column::PublishTime, Expr::value(None::<Timestamp>))
        .filter(Column::Seq.is_in(rows::pad(seqs)))
        .exec(db)
        .await?;
    Ok(Some((count, last)))
}
