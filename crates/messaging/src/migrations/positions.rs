//! The consumer's positions, in place of a mark for each event that it has handled.

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

use super::record::serves_from;
use crate::{checkpoint, consume::positions};

pub(super) struct CreatePositions;

impl MigrationName for CreatePositions {
    fn name(&self) -> &'static str {
        "m0008_create_positions"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreatePositions {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(positions::Entity))
            .await?;
        if manager.get_database_backend() == DbBackend::Sqlite {
            // Releases up to 0.3 want a log beside the outboxes, which this one removes.
            return serves_from(manager.get_connection(), "0.4.0").await;
        }
        // Releases up to 0.3 have the table `inbox`, and publish what was published here once more when they are put
        // back in place: the bus must not take that for repeats of ours.
        if manager.has_table("inbox").await? {
            let rewinds = Query::update()
                .table(checkpoint::Entity)
                .value(checkpoint::Column::Rewinds, 1)
                .and_where(Expr::col(checkpoint::Column::Rewinds).eq(0))
                .to_owned();
            manager.execute(rewinds).await?;
        }
        Ok(())
    }
}
