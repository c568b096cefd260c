//! The log of releases up to 0.3.

use couponmesh_runtime::{
    Context, Timestamp,
    id::{EventId, MemberId},
};
use sea_orm::{ConnectionTrait, DbErr, QueryOrder, QuerySelect, entity::prelude::*};
use sea_orm_migration::prelude::*;

use crate::event::Event;

/// Events that are taken at once.
const CHUNK: u64 = 500;

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

/// Some events that `source` published, those after position `after`, in their order.
pub(super) async fn after(
    db: &impl ConnectionTrait,
    source: &str,
    after: i64,
) -> Result<Vec<(i64, Event)>, DbErr> {
    let rows = Entity::find()
        .filter(Column::Source.eq(source))
        .filter(Column::Seq.gt(after))
        .order_by_asc(Column::Seq)
        .limit(CHUNK)
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.seq, row.into_event()))
        .collect())
}

/// How far a consumer was.
pub(super) async fn offset(db: &impl ConnectionTrait, consumer: &str) -> Result<i64, DbErr> {
    let row = offset_table::Entity::find_by_id(consumer.to_owned())
        .one(db)
        .await?;
    Ok(row.map_or(0, |row| row.seq))
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
