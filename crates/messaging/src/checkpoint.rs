//! How far the relay is: the position in the outbox up to which every row is on the bus.
//!
//! It may lag behind: what lies above it and is on the bus already is published again by whoever takes
//! the relay over. It is never ahead.

use sea_orm::{
    ConnectionTrait, DbErr, QueryTrait as _, Statement,
    entity::prelude::*,
    sea_query::{CaseStatement, Expr, ExprTrait as _},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager, prelude::Index};

use crate::store::Store;

/// Whose it is. There is one row.
const RELAY: &str = "relay";

/// The row.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "checkpoints")]
pub struct Model {
    /// Whose it is.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// Every row of the outbox up to this position is on the bus.
    pub position: i64,
    /// How often it was moved back, to publish once more what follows.
    pub rewinds: i64,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The checkpoint as it is stored.
///
/// # Errors
/// The database's.
pub async fn load(db: &impl ConnectionTrait) -> Result<Model, DbErr> {
    let row = Entity::find_by_id(RELAY.to_owned()).one(db).await?;
    row.ok_or_else(|| DbErr::RecordNotFound("the relay's row in checkpoints".to_owned()))
}

/// Moves the checkpoint from `from` on to `position`. False when somebody else has moved it: then what is known of
/// the outbox has to be looked at anew.
pub(crate) async fn advance(store: &Store, from: &Model, position: i64) -> Result<bool, DbErr> {
    let mut advance = Entity::update_many()
        .col_expr(Column::Position, Expr::value(position))
        .filter(Column::Name.eq(RELAY))
        .filter(Column::Position.eq(from.position))
        .filter(Column::Rewinds.eq(from.rewinds));
    if store.database().postgres().is_some() {
        // Once, before the row, and until the end of the transaction. A server that dies right afterwards may forget it,
        // and then some events are published again, as after a relay that died.
        let unsynced = "(SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL";
        advance = advance.filter(Expr::cust(unsynced));
    }
    let advanced = store
        .execute("relay.checkpoint", &advance.into_query())
        .await?;
    Ok(advanced > 0)
}

/// Moves the checkpoint back to `position`, unless it is there or before: a relay that runs publishes again what
/// follows, within a second.
///
/// # Errors
/// The database's.
pub async fn rewind(db: &impl ConnectionTrait, position: i64) -> Result<(), DbErr> {
    let back = CaseStatement::new()
        .case(Expr::col(Column::Position).gt(position), position)
        .finally(Expr::col(Column::Position));
    Entity::update_many()
        .col_expr(Column::Position, back.into())
        // A bus that drops repeats must not take these for some.
        .col_expr(Column::Rewinds, Expr::col(Column::Rewinds).add(1))
        .filter(Column::Name.eq(RELAY))
        .exec(db)
        .await?;
    Ok(())
}

pub(crate) struct CreateCheckpoint;

impl MigrationName for CreateCheckpoint {
    fn name(&self) -> &'static str {
        "m0007_create_checkpoint"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateCheckpoint {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let schema = sea_orm::Schema::new(backend);
        manager
            .create_table(schema.create_table_from_entity(Entity))
            .await?;
        // Releases up to 0.3 marked each row instead. They run on without the index, and the column is theirs.
        let is_marked = manager.has_column("outbox", "publish_time").await?;
        let marks = Index::drop()
            .name("outbox_unpublished")
            .if_exists()
            .to_owned();
        // Waits for whoever writes, so that every row up to the last one is seen next.
        manager.drop_index(marks).await?;
        let end = "SELECT coalesce(max(seq), 0) FROM outbox";
        let position = if is_marked {
            format!("SELECT coalesce(min(seq) - 1, ({end})) FROM outbox WHERE publish_time IS NULL")
        } else {
            end.to_owned()
        };
        let begin = format!(
            "INSERT INTO checkpoints (name, position, rewinds) VALUES ('{RELAY}', ({position}), 0)"
        );
        let begin = Statement::from_string(backend, begin);
        manager.get_connection().execute_raw(begin).await?;
        Ok(())
    }
}
