//! An index of request ids by what they made, and no digests of those who left before there was one.
//!
//! A transaction that makes an index keeps everyone from writing to the table until it ends. On PostgreSQL both are
//! therefore done before the transaction of the migrations, which then finds little left to do.

use couponmesh_runtime::{database::Database, id::MemberId};
use sea_orm::{
    ColumnTrait as _, ConnectionTrait, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, QueryTrait as _, Statement, entity::prelude::Uuid,
    sea_query::IndexCreateStatement,
};
use sea_orm_migration::prelude::*;

use crate::{members, requests};

const NAME: &str = "requests_resource";
/// Request ids in one transaction.
const CHUNK: u64 = 500;

/// Finds requests by what they made: to forget the oldest, and what tells of a member who is erased. There is no
/// column for their time: one more would break the prepared statements of the release before this one, which
/// returns `requests.*`.
pub(super) struct IndexRequests;

impl MigrationName for IndexRequests {
    fn name(&self) -> &'static str {
        "m0006_index_requests"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for IndexRequests {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if !manager.has_index("requests", NAME).await? {
            manager.create_index(by_resource()).await?;
        }
        // Those who left before this was done when they left.
        let withdrawn = members::Entity::find()
            .select_only()
            .column(members::Column::MemberId)
            .filter(members::Column::State.eq(members::State::Withdrawn));
        requests::Entity::update_many()
            .col_expr(requests::Column::Digest, Expr::value(Vec::<u8>::new()))
            .filter(requests::Column::ResourceId.in_subquery(withdrawn.into_query()))
            .filter(requests::Column::Digest.ne(Vec::<u8>::new()))
            .exec(manager.get_connection())
            .await?;
        Ok(())
    }
}

fn by_resource() -> IndexCreateStatement {
    Index::create()
        .name(NAME)
        .table(requests::Entity)
        .col(requests::Column::ResourceId)
        .to_owned()
}

/// Makes the index while others write, and erases a few digests at a time. Begun anew when it was interrupted.
pub(super) async fn prepare(database: &Database) -> Result<(), DbErr> {
    if database.postgres().is_none() || !is_needed(database.read()).await? {
        return Ok(());
    }
    // What is left of an attempt that came to no end is never used.
    let drop = Index::drop()
        .name(NAME)
        .if_exists()
        .concurrently()
        .to_owned();
    database.execute_alone(&drop).await?;
    let create = by_resource().concurrently().to_owned();
    database.execute_alone(&create).await?;
    erase_of_leavers(database).await
}

/// Whether there are requests, and no index that can be used.
async fn is_needed(db: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let sql = format!(
        "SELECT to_regclass('requests') IS NOT NULL AND NOT EXISTS \
         (SELECT FROM pg_index WHERE indexrelid = to_regclass('{NAME}') AND indisvalid)"
    );
    let query = Statement::from_string(db.get_database_backend(), sql);
    let row = db.query_one_raw(query).await?;
    row.map_or(Ok(false), |row| row.try_get_by_index(0))
}

async fn erase_of_leavers(database: &Database) -> Result<(), DbErr> {
    let mut last = None;
    loop {
        let page = resources(database.read(), last).await?;
        let Some(end) = page.last() else {
            return Ok(());
        };
        last = Some(*end);
        let leavers = withdrawn_of(database.read(), page).await?;
        let tx = database.begin().await?;
        requests::erase(&tx, leavers).await?;
        tx.commit().await?;
    }
}

/// What the next requests after `last` made.
async fn resources(db: &impl ConnectionTrait, last: Option<Uuid>) -> Result<Vec<Uuid>, DbErr> {
    let after = last.map(|last| requests::Column::ResourceId.gt(last));
    requests::Entity::find()
        .select_only()
        .column(requests::Column::ResourceId)
        .filter(Condition::all().add_option(after))
        .order_by_asc(requests::Column::ResourceId)
        .limit(CHUNK)
        .into_tuple()
        .all(db)
        .await
}

/// Those of `ids` who left.
async fn withdrawn_of(db: &impl ConnectionTrait, ids: Vec<Uuid>) -> Result<Vec<MemberId>, DbErr> {
    members::Entity::find()
        .select_only()
        .column(members::Column::MemberId)
        .filter(members::Column::MemberId.is_in(ids))
        .filter(members::Column::State.eq(members::State::Withdrawn))
        .into_tuple()
        .all(db)
        .await
}
