//! The tables of the embedded bus.

use std::{collections::HashMap, time::Duration};

use couponmesh_runtime::{
    Context, Timestamp,
    database::Database,
    id::{EventId, MemberId},
};
use sea_orm::{
    ActiveValue::Set,
    ConnectionTrait, DbErr, QueryOrder, QuerySelect,
    entity::prelude::*,
    sea_query::{OnConflict, SimpleExpr},
};
use sea_orm_migration::prelude::*;

use crate::{bus::Delivery, event::Event, rows};

/// Events in one transaction: short enough that publishers hardly notice.
const CHUNK: u64 = 500;
const HOUR: Duration = Duration::from_secs(3_600);

/// The log.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "events")]
pub(crate) struct Model {
    /// Position in the log, from 1, without gaps at its end.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) seq: i64,
    pub(crate) event_id: EventId,
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) member_id: MemberId,
    pub(crate) event_time: Timestamp,
    pub(crate) correlation_id: String,
    pub(crate) causation_id: Option<Uuid>,
    pub(crate) traceparent: Option<String>,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(crate) fn into_event(self) -> Event {
        Event {
            id: self.event_id,
            event_type: self.event_type,
            source: self.source,
            member_id: self.member_id,
            time: self.event_time,
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

/// Where each consumer left off.
mod offset_table {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "offsets")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) consumer: String,
        /// The last position that was dealt with.
        pub(crate) seq: i64,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(super) fn after(position: i64) -> SimpleExpr {
    Column::Seq.gt(position)
}

pub(super) async fn newest(db: &impl ConnectionTrait) -> Result<i64, DbErr> {
    let newest: Option<Option<i64>> = Entity::find()
        .select_only()
        .column_as(Column::Seq.max(), "newest")
        .into_tuple()
        .one(db)
        .await?;
    // A janitor may have emptied the log: positions go on after the furthest consumer.
    let furthest: Option<Option<i64>> = offset_table::Entity::find()
        .select_only()
        .column_as(offset_table::Column::Seq.max(), "furthest")
        .into_tuple()
        .one(db)
        .await?;
    Ok(Ord::max(newest.flatten(), furthest.flatten()).unwrap_or(0))
}

pub(super) async fn insert(
    db: &impl ConnectionTrait,
    events: &[(i64, Delivery)],
) -> Result<(), DbErr> {
    let row = |(seq, event): &(i64, Delivery)| ActiveModel {
        seq: Set(*seq),
        event_id: Set(event.id),
        event_type: Set(event.event_type.clone()),
        source: Set(event.source.clone()),
        member_id: Set(event.member_id),
        event_time: Set(event.time),
        correlation_id: Set(event.context.correlation_id.as_str().to_owned()),
        causation_id: Set(event.context.causation_id),
        traceparent: Set(event.context.traceparent.clone()),
        payload: Set(event.payload.clone()),
    };
    rows::insert::<Entity, _, _>(db, events.iter().map(row).collect(), None).await
}

pub(super) async fn offset(db: &impl ConnectionTrait, consumer: &str) -> Result<i64, DbErr> {
    let row = offset_table::Entity::find_by_id(consumer.to_owned())
        .one(db)
        .await?;
    Ok(row.map_or(0, |row| row.seq))
}

/// Gives each of `consumers` that has no offset one before the first event.
pub(super) async fn keep_for(database: &Database, consumers: &[&'static str]) -> Result<(), DbErr> {
    let row = |consumer: &&str| offset_table::ActiveModel {
        consumer: Set((*consumer).to_owned()),
        seq: Set(0),
    };
    let unless_there = OnConflict::column(offset_table::Column::Consumer)
        .do_nothing()
        .to_owned();
    let tx = database.begin().await?;
    let rows = consumers.iter().map(row).collect();
    rows::insert::<offset_table::Entity, _, _>(&tx, rows, Some(unless_there)).await?;
    tx.commit().await
}

pub(super) async fn store_offsets(
    database: &Database,
    offsets: HashMap<&'static str, i64>,
) -> Result<(), DbErr> {
    let row = |(consumer, seq): (&str, i64)| offset_table::ActiveModel {
        consumer: Set(consumer.to_owned()),
        seq: Set(seq),
    };
    let newer = OnConflict::column(offset_table::Column::Consumer)
        .update_column(offset_table::Column::Seq)
        .to_owned();
    let tx = database.begin().await?;
    rows::insert::<offset_table::Entity, _, _>(
        &tx,
        offsets.into_iter().map(row).collect(),
        Some(newer),
    )
    .await?;
    tx.commit().await
}

/// Deletes events from before `before` that every consumer is past.
pub(super) async fn delete_before(
    database: &Database,
    before: Timestamp,
    now: Timestamp,
) -> Result<(), DbErr> {
    let slowest: Option<Option<i64>> = offset_table::Entity::find()
        .select_only()
        .column_as(offset_table::Column::Seq.min(), "slowest")
        .into_tuple()
        .one(database.read())
        .await?;
    let Some(slowest) = slowest.flatten() else {
        return Ok(());
    };
    let mut last = 0;
    loop {
        // In the order of the log, which is that of time, up to the first that is too young: a search by time would
        // read the whole log to find that there is nothing to do.
        let oldest: Vec<(i64, Timestamp)> = Entity::find()
            .select_only()
            .columns([Column::Seq, Column::EventTime])
            .filter(Column::Seq.gt(last))
            .filter(Column::Seq.lte(slowest))
            .order_by_asc(Column::Seq)
            .limit(CHUNK)
            .into_tuple()
            .all(database.read())
            .await?;
        let Some(&(newest, time)) = oldest.last() else {
            return Ok(());
        };
        last = newest;
        let old = oldest.into_iter().filter(|(_, time)| *time < before);
        let seqs: Vec<i64> = old.map(|(seq, _)| seq).collect();
        if !seqs.is_empty() {
            let tx = database.begin().await?;
            Entity::delete_many()
                .filter(Column::Seq.is_in(seqs))
                .exec(&tx)
                .await?;
            tx.commit().await?;
        }
        // A time to come was a wrong clock's, and says nothing of the events behind it.
        if time >= before && time <= now.plus(HOUR) {
            return Ok(());
        }
    }
}

pub(super) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(CreateLog)]
    }
}

struct CreateLog;

impl MigrationName for CreateLog {
    fn name(&self) -> &'static str {
        "m0001_create_log"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateLog {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(Entity))
            .await?;
        manager
            .create_table(schema.create_table_from_entity(offset_table::Entity))
            .await
    }
}
