//! The tables of this service.

mod addresses;

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QuerySelect as _, QueryTrait as _,
};
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
        migrations.push(Box::new(IndexRequests));
        migrations
    }
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

/// Finds requests by what they made: to forget the oldest, and what tells of a member who is erased. There is no
/// column for their time: one more would break the prepared statements of the release before this one, which
/// returns `requests.*`.
struct IndexRequests;

impl MigrationName for IndexRequests {
    fn name(&self) -> &'static str {
        "m0006_index_requests"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for IndexRequests {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let by_resource = Index::create()
            .name("requests_resource")
            .table(requests::Entity)
            .col(requests::Column::ResourceId)
            .to_owned();
        manager.create_index(by_resource).await?;
        // Those who left before this was done when they left.
        let withdrawn = members::Entity::find()
            .select_only()
            .column(members::Column::MemberId)
            .filter(members::Column::State.eq(members::State::Withdrawn));
        requests::Entity::update_many()
            .col_expr(requests::Column::Digest, Expr::value(Vec::<u8>::new()))
            .filter(requests::Column::ResourceId.in_subquery(withdrawn.into_query()))
            .exec(manager.get_connection())
            .await?;
        Ok(())
    }
}
