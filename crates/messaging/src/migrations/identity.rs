//! The database's own id. Its row is made when it is first asked for.

use sea_orm_migration::prelude::*;

use crate::identity;

pub(super) struct CreateIdentity;

impl MigrationName for CreateIdentity {
    fn name(&self) -> &'static str {
        "m0009_create_identity"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateIdentity {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(identity::Entity))
            .await
    }
}
