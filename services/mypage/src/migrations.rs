//! The tables of this service.

use sea_orm_migration::prelude::*;

use crate::pages;

/// Brings the database to this version's schema.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut migrations = couponmesh_messaging::migrations::migrations();
        migrations.push(Box::new(CreateMyPage));
        migrations
    }
}

struct CreateMyPage;

impl MigrationName for CreateMyPage {
    fn name(&self) -> &'static str {
        "m0002_create_mypage"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateMyPage {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(pages::Entity))
            .await
    }
}
