//! Redriving dead letters: how often one was begun, and an index of those that are asked for.

use sea_orm_migration::prelude::*;

use crate::dead_letter::{Column, Entity};

pub(super) struct CountRedrives;

impl MigrationName for CountRedrives {
    fn name(&self) -> &'static str {
        "m0004_count_redrives"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CountRedrives {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // A new database has it already: its tables are made from the entities as they are now.
        if !manager
            .has_column("dead_letters", "redrive_attempts")
            .await?
        {
            let attempts = ColumnDef::new(Column::RedriveAttempts)
                .integer()
                .not_null()
                // The release before this one does not know it.
                .default(0)
                .to_owned();
            let table = Table::alter().table(Entity).add_column(attempts).to_owned();
            manager.alter_table(table).await?;
        }
        // Partial: it holds only what is asked for, which is nothing nearly always.
        let asked_for = Index::create()
            .name("dead_letters_redrive")
            .table(Entity)
            .col(Column::RedriveTime)
            .and_where(Expr::col(Column::RedriveTime).is_not_null())
            .to_owned();
        manager.create_index(asked_for).await
    }
}
