//! Where relay and consumer were some minutes before, for a bus that lost its tail.

use sea_orm::Iden;
use sea_orm_migration::prelude::*;

use crate::{checkpoint, consume::positions};

pub(super) struct RememberOlder;

impl MigrationName for RememberOlder {
    fn name(&self) -> &'static str {
        "m0010_remember_older"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for RememberOlder {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        use {checkpoint::Column as Checkpoint, positions::Column as Position};
        // What earlier builds of 0.4 remembered is told apart otherwise now.
        for (table, column) in [("checkpoints", "bus_event_id"), ("positions", "event_id")] {
            if manager.has_column(table, column).await? {
                let (table, column) = (Alias::new(table), Alias::new(column));
                let drop = Table::alter().table(table).drop_column(column).to_owned();
                manager.alter_table(drop).await?;
            }
        }
        add(manager, checkpoint::Entity, Checkpoint::BusStamp).await?;
        add(manager, positions::Entity, Position::Stamp).await?;
        add(manager, checkpoint::Entity, Checkpoint::OlderPosition).await?;
        add(manager, checkpoint::Entity, Checkpoint::OlderSequence).await?;
        add(manager, checkpoint::Entity, Checkpoint::OlderStamp).await?;
        add(manager, positions::Entity, Position::OlderSequence).await?;
        add(manager, positions::Entity, Position::OlderStamp).await
    }
}

/// A new database has them already: its tables are made from the entities as they are now.
async fn add<E: sea_orm::EntityTrait>(
    manager: &SchemaManager<'_>,
    table: E,
    column: E::Column,
) -> Result<(), DbErr> {
    use sea_orm::ColumnTrait as _;
    if manager
        .has_column(table.table_name(), column.to_string())
        .await?
    {
        return Ok(());
    }
    let definition = column.def();
    let column = ColumnDef::new_with_type(column, definition.get_column_type().clone());
    let table = Table::alter().table(table).add_column(column).to_owned();
    manager.alter_table(table).await
}
