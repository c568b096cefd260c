//! The oldest binary that a schema serves.
//!
//! Schemas expand first and contract a release later, so that two releases run on one database. The
//! migration that contracts one calls [`serves_from`], and only binaries older than that are refused.

use sea_orm::{ActiveValue::Set, ConnectionTrait, entity::prelude::*, sea_query::OnConflict};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

/// There is one row.
const ONLY: i32 = 1;

/// What the schema says of itself.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "schema_record")]
pub(super) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(super) id: i32,
    /// A release, like 0.2.0.
    pub(super) oldest_binary: String,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(super) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub(super) async fn oldest_binary(db: &impl ConnectionTrait) -> Result<Option<String>, DbErr> {
    let row = Entity::find_by_id(ONLY).one(db).await?;
    Ok(row.map(|row| row.oldest_binary))
}

/// Records that from now on binaries older than `release` cannot work with the schema.
pub(super) async fn serves_from(db: &impl ConnectionTrait, release: &str) -> Result<(), DbErr> {
    let row = ActiveModel {
        id: Set(ONLY),
        oldest_binary: Set(release.to_owned()),
    };
    let newest = OnConflict::column(Column::Id)
        .update_column(Column::OldestBinary)
        .to_owned();
    Entity::insert(row)
        .on_conflict(newest)
        .exec_without_returning(db)
        .await?;
    Ok(())
}

pub(super) struct CreateRecord;

impl MigrationName for CreateRecord {
    fn name(&self) -> &'static str {
        "m0003_create_schema_record"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateRecord {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(Entity))
            .await?;
        serves_from(manager.get_connection(), "0.1.0").await
    }
}
