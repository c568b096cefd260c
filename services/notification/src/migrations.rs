//! The tables of this service.

use sea_orm_migration::prelude::*;

use crate::{gate, notifications};

/// Brings the database to this version's schema.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut migrations = couponmesh_messaging::migrations::migrations();
        migrations.push(Box::new(CreateNotification));
        migrations.push(Box::new(OutlastOutages));
        migrations
    }
}

struct CreateNotification;

impl MigrationName for CreateNotification {
    fn name(&self) -> &'static str {
        "m0002_create_notification"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateNotification {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(notifications::Entity))
            .await?;
        // Partial: it holds only what waits. In the order in which the worker takes it.
        let pending = Index::create()
            .name("notifications_pending")
            .table(notifications::Entity)
            .col(notifications::Column::NextAttemptTime)
            .and_where(Expr::col(notifications::Column::NextAttemptTime).is_not_null())
            .to_owned();
        manager.create_index(pending).await?;
        // For lists of one state, newest first.
        let by_state = Index::create()
            .name("notifications_state")
            .table(notifications::Entity)
            .col(notifications::Column::State)
            .col(notifications::Column::NotificationId)
            .to_owned();
        manager.create_index(by_state).await
    }
}

/// Since when a notification fails, and the gate before a receiver that is away.
struct OutlastOutages;

impl MigrationName for OutlastOutages {
    fn name(&self) -> &'static str {
        "m0005_outlast_outages"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for OutlastOutages {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // A new database has it already: its tables are made from the entities as they are now.
        if !manager.has_column("notifications", "failing_since").await? {
            let since = ColumnDef::new(notifications::Column::FailingSince)
                .big_integer()
                // The release before this one does not know it.
                .null()
                .to_owned();
            let table = Table::alter()
                .table(notifications::Entity)
                .add_column(since)
                .to_owned();
            manager.alter_table(table).await?;
        }
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        let gates = schema.create_table_from_entity(gate::Entity);
        manager.create_table(gates).await
    }
}
