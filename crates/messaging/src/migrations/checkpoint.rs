//! The relay's checkpoint, in place of a mark on each row of the outbox.

use sea_orm::{ConnectionTrait as _, DbBackend, Statement};
use sea_orm_migration::prelude::*;

use super::record::serves_from;
use crate::checkpoint;

pub(super) struct CreateCheckpoint;

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
            .create_table(schema.create_table_from_entity(checkpoint::Entity))
            .await?;
        // Releases up to 0.3 marked each row instead. They run on without the index, and the column is theirs.
        let is_marked = manager.has_column("outbox", "publish_time").await?;
        if backend == DbBackend::Postgres {
            // Waits for whoever writes, so that every row up to the last one is seen next.
            let still = "LOCK TABLE outbox IN SHARE MODE";
            manager.get_connection().execute_unprepared(still).await?;
        }
        let end = "SELECT coalesce(max(seq), 0) FROM outbox";
        if !is_marked {
            // Those releases cannot do without the column.
            serves_from(manager.get_connection(), "0.4.0").await?;
        }
        let position = if is_marked {
            format!("SELECT coalesce(min(seq) - 1, ({end})) FROM outbox WHERE publish_time IS NULL")
        } else {
            end.to_owned()
        };
        let name = checkpoint::RELAY;
        let begin = format!(
            "INSERT INTO checkpoints (name, position, rewinds) VALUES ('{name}', ({position}), 0)"
        );
        let begin = Statement::from_string(backend, begin);
        manager.get_connection().execute_raw(begin).await?;
        // Last: the look for the first row without a mark needs it.
        let marks = Index::drop()
            .name("outbox_unpublished")
            .if_exists()
            .to_owned();
        manager.drop_index(marks).await
    }
}
