//! Bringing a database up to date, and the tables of outbox, positions, dead letters and leases, with which
//! every service's migrations begin.

mod bring_up;
mod checkpoint;
mod identity;
mod older_marks;
mod positions;
mod record;
mod redrive;

pub use bring_up::{MigrateError, bring_up, bring_up_prepared, missing};

use sea_orm_migration::prelude::*;

use crate::{clock_spans, consume::dead_letter, lease, outbox};

/// The migrations of this crate, in order.
#[must_use]
pub fn migrations() -> Vec<Box<dyn MigrationTrait>> {
    vec![
        Box::new(CreateMessaging),
        Box::new(record::CreateRecord),
        Box::new(redrive::CountRedrives),
        Box::new(clock_spans::CreateClockSpans),
        Box::new(checkpoint::CreateCheckpoint),
        Box::new(positions::CreatePositions),
        Box::new(identity::CreateIdentity),
        Box::new(older_marks::RememberOlder),
    ]
}

struct CreateMessaging;

impl MigrationName for CreateMessaging {
    fn name(&self) -> &'static str {
        "m0001_create_messaging"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateMessaging {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(outbox::Entity))
            .await?;
        manager
            .create_table(schema.create_table_from_entity(dead_letter::Entity))
            .await?;
        manager
            .create_table(schema.create_table_from_entity(lease::Entity))
            .await?;
        let by_member = Index::create()
            .name("outbox_member")
            .table(outbox::Entity)
            .col(outbox::Column::MemberId)
            .to_owned();
        manager.create_index(by_member).await
    }
}
