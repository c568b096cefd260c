//! The tables of this service.

mod addresses;
mod request_index;

use couponmesh_messaging::migrations::{MigrateError, bring_up_prepared};
use couponmesh_runtime::database::Database;
use sea_orm_migration::prelude::*;

use crate::{gate, members, requests, withdrawals};

/// Brings the database to this version's schema.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut migrations = couponmesh_messaging::migrations::migrations();
        migrations.push(Box::new(CreateMember));
        migrations.push(Box::new(addresses::NormaliseAddresses));
        migrations.push(Box::new(request_index::IndexRequests));
        migrations
    }
}

/// Brings `database` up to date while others use it.
///
/// # Errors
/// See [`MigrateError`].
pub async fn bring_up(database: &Database) -> Result<(), MigrateError> {
    bring_up_prepared::<Migrator>(database, request_index::prepare(database)).await
}

struct CreateMember;

impl MigrationName for CreateMember {
    fn name(&self) -> &'static str {
        "m0002_create_member"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateMember {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(members::Entity))
            .await?;
        manager
            .create_table(schema.create_table_from_entity(withdrawals::Entity))
            .await?;
        manager
            .create_table(schema.create_table_from_entity(requests::Entity))
            .await?;
        manager
            .create_table(schema.create_table_from_entity(gate::Entity))
            .await?;
        // Partial: it holds only what waits. In the order in which the worker takes it.
        let pending = Index::create()
            .name("withdrawals_pending")
            .table(withdrawals::Entity)
            .col(withdrawals::Column::WithdrawalId)
            .and_where(Expr::col(withdrawals::Column::State).eq("PENDING"))
            .to_owned();
        manager.create_index(pending).await?;
        // For lists of one state, newest first.
        let by_state = Index::create()
            .name("members_state")
            .table(members::Entity)
            .col(members::Column::State)
            .col(members::Column::MemberId)
            .to_owned();
        manager.create_index(by_state).await
    }
}
