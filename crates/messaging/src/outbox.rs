//! The outbox: events that are committed with the state they tell of. It is only ever appended to, and cut off by
//! age where [nobody needs it](crate::bus::Bus::done_with).

use std::{ops::RangeInclusive, sync::Arc};

use couponmesh_runtime::{
    Context, Timestamp,
    id::{EventId, MemberId},
};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ConnectionTrait, DbBackend, DbErr, IdenStatic as _, Iterable as _, PaginatorTrait as _,
    QueryOrder, QuerySelect, Statement,
    entity::prelude::*,
    sea_query::InsertStatement,
};

use crate::{event::Event, gaps::Writers, rows};

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

/// The first rows after position `after`.
pub(crate) async fn after(
    db: &impl ConnectionTrait,
    after: i64,
    limit: usize,
) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(Column::Seq.gt(after))
        .order_by_asc(Column::Seq)
        .limit(limit as u64)
        .all(db)
        .await
}

/// The first rows at positions in `ranges`, on PostgreSQL.
pub(crate) async fn within(
    db: &impl ConnectionTrait,
    ranges: &[RangeInclusive<i64>],
    limit: usize,
) -> Result<Vec<Model>, DbErr> {
    let bounds = ranges
        .iter()
        .map(|range| [(*range.start()).into(), (*range.end()).into()])
        .collect();
    let types = [ColumnType::BigInteger, ColumnType::BigInteger];
    let (table, mut values) = rows::table(DbBackend::Postgres, &types, bounds);
    values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    let columns: Vec<&str> = Column::iter().map(|column| column.as_str()).collect();
    let columns = columns.join(", ");
    // Each range by the index, however many rows lie between them.
    let sql = format!(
        "SELECT {columns} FROM ({table}) AS ranges \
         CROSS JOIN LATERAL (SELECT * FROM outbox WHERE seq BETWEEN column1 AND column2) AS rows \
         ORDER BY seq LIMIT $3"
    );
    Entity::find()
        .from_raw_sql(Statement::from_sql_and_values(
            DbBackend::Postgres,
            sql,
            values,
        ))
        .all(db)
        .await
}

/// The transactions that have written to the outbox and not ended, on PostgreSQL. Whoever takes a position holds this
/// lock before, and until others see the row or it is clear that they never will.
pub(crate) async fn writers(db: &impl ConnectionTrait) -> Result<Writers, DbErr> {
    let sql = "SELECT virtualtransaction FROM pg_locks \
               WHERE locktype = 'relation' AND relation = 'outbox'::regclass \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND mode = 'RowExclusiveLock' AND granted";
    let rows = db
        .query_all_raw(Statement::from_string(DbBackend::Postgres, sql))
        .await?;
    let writers: Result<_, _> = rows.iter().map(|row| row.try_get_by_index(0)).collect();
    Ok(Arc::new(writers?))
}

/// The highest position that was ever handed out.
pub(crate) async fn end(db: &impl ConnectionTrait) -> Result<i64, DbErr> {
    let backend = db.get_database_backend();
    let sql = match backend {
        DbBackend::Postgres => {
            "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('outbox', 'seq')), max(seq)) FROM outbox"
        }
        _ => "SELECT max(seq) FROM sqlite_sequence WHERE name = 'outbox'",
    };
    let row = db
        .query_one_raw(Statement::from_string(backend, sql))
        .await?;
    let end: Option<Option<i64>> = row.map(|row| row.try_get_by_index(0)).transpose()?;
    Ok(end.flatten().unwrap_or(0))
}

/// The oldest row: its position and when it was stored.
///
/// # Errors
/// The database's.
pub async fn oldest(db: &impl ConnectionTrait) -> Result<Option<(i64, Timestamp)>, DbErr> {
    Ok(oldest_after(db, 0, 1).await?.pop())
}

/// The positions of the oldest rows after `after`, and when each was stored.
pub(crate) async fn oldest_after(
    db: &impl ConnectionTrait,
    after: i64,
    limit: u64,
) -> Result<Vec<(i64, Timestamp)>, DbErr> {
    Entity::find()
        .select_only()
        .columns([Column::Seq, Column::CreateTime])
        .filter(Column::Seq.gt(after))
        .order_by_asc(Column::Seq)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await
}

/// The event at a position.
pub(crate) async fn event_at(
    db: &impl ConnectionTrait,
    position: i64,
) -> Result<Option<EventId>, DbErr> {
    Entity::find_by_id(position)
        .select_only()
        .column(Column::EventId)
        .into_tuple()
        .one(db)
        .await
}

/// Where those of `events` are that are there.
pub(crate) async fn find(
    db: &impl ConnectionTrait,
    events: &[&Event],
) -> Result<Vec<(EventId, i64)>, DbErr> {
    // By the index of members.
    let members = events.iter().map(|event| event.member_id).collect();
    let ids = events.iter().map(|event| event.id).collect();
    Entity::find()
        .select_only()
        .columns([Column::EventId, Column::Seq])
        .filter(Column::MemberId.is_in(rows::pad(members)))
        .filter(Column::EventId.is_in(rows::pad(ids)))
        .into_tuple()
        .all(db)
        .await
}

/// How many rows follow position `after`.
///
/// # Errors
/// The database's.
pub async fn count_after(db: &impl ConnectionTrait, after: i64) -> Result<u64, DbErr> {
    Entity::find().filter(Column::Seq.gt(after)).count(db).await
}

/// The position before the first row that was stored at `since` or later; none when all are older.
///
/// # Errors
/// The database's.
pub async fn position_before(
    db: &impl ConnectionTrait,
    since: Timestamp,
) -> Result<Option<i64>, DbErr> {
    // The lowest, wherever it stands: the clocks of those who stored them may have differed.
    let first: Option<Option<i64>> = Entity::find()
        .select_only()
        .column_as(Column::Seq.min(), "first")
        .filter(Column::CreateTime.gte(since))
        .into_tuple()
        .one(db)
        .await?;
    Ok(first.flatten().map(|first| first - 1))
}
