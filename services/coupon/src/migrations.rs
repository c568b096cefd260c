//! The tables of this service.

use sea_orm_migration::prelude::*;

use crate::coupons;

/// Brings the database to this version's schema.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut migrations = couponmesh_messaging::migrations::migrations();
        migrations.push(Box::new(CreateCoupon));
        migrations
    }
}

struct CreateCoupon;

impl MigrationName for CreateCoupon {
    fn name(&self) -> &'static str {
        "m0002_create_coupon"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateCoupon {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(coupons::Entity))
            .await
    }
}
