//! Request ids: which calls made something, and what.
//!
//! A row is as old as what its call made, whose id tells the time. It is forgotten after `KEPT`, and says
//! nothing about the content of a registration from the moment on in which the member is erased.

use std::time::Duration;

use couponmesh_messaging::rows;
use couponmesh_runtime::{
    Timestamp,
    id::{MemberId, RequestId, boundary},
};
use sea_orm::{
    ActiveValue::Set,
    ConnectionTrait, DbErr, QueryOrder, QuerySelect, Statement,
    entity::prelude::*,
    sea_query::{LockBehavior, LockType},
};

/// How long an id is remembered; the contract's.
pub(crate) const KEPT: Duration = Duration::from_secs(7 * 86_400);

/// A call that made something under a request id.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "requests")]
pub struct Model {
    /// The RPC: ids of different RPCs do not meet.
    #[sea_orm(primary_key, auto_increment = false)]
    pub rpc: String,
    /// The caller's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub request_id: RequestId,
    /// Tells the call's content from another's; empty once the member that it registered has withdrawn.
    pub digest: Vec<u8>,
    /// The member or withdrawal that it made.
    pub resource_id: Uuid,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The RPCs that take request ids.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rpc {
    Register,
    Withdraw,
}

impl Rpc {
    fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Withdraw => "withdraw",
        }
    }
}

/// The calls among `ids` that succeeded before.
pub(crate) async fn find(
    db: &impl ConnectionTrait,
    rpc: Rpc,
    ids: Vec<RequestId>,
) -> Result<Vec<Model>, DbErr> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let backend = db.get_database_backend();
    let asked = ids
        .into_iter()
        .map(|id| [id.into(), rpc.as_str().into()])
        .collect();
    let types = [ColumnType::Uuid, ColumnType::Text];
    let (asked, values) = rows::table(backend, &types, asked);
    // As a join in which every row names the RPC, too: where that is a constant, PostgreSQL may look through
    // everything of the RPC instead, and remember to. The columns by name: one that a newer release adds must not
    // change what a prepared statement returns.
    let sql = format!(
        "SELECT requests.rpc, requests.request_id, requests.digest, requests.resource_id \
         FROM ({asked}) AS asked \
         JOIN requests ON requests.request_id = asked.column1 AND requests.rpc = asked.column2"
    );
    Entity::find()
        .from_raw_sql(Statement::from_sql_and_values(backend, sql, values))
        .all(db)
        .await
}

pub(crate) fn row(
    rpc: Rpc,
    request_id: RequestId,
    digest: Vec<u8>,
    resource_id: Uuid,
) -> ActiveModel {
    ActiveModel {
        rpc: Set(rpc.as_str().to_owned()),
        request_id: Set(request_id),
        digest: Set(digest),
        resource_id: Set(resource_id),
    }
}

/// Takes away what tells of the content of the calls that registered `members`, who are erased: whoever guesses an
/// address could have the guess confirmed by it.
pub(crate) async fn erase(db: &impl ConnectionTrait, members: Vec<MemberId>) -> Result<(), DbErr> {
    let members = members.into_iter().map(|id| id.0).collect();
    // The RPC is not asked for: PostgreSQL may look through everything of it.
    Entity::update_many()
        .col_expr(Column::Digest, Expr::value(Vec::<u8>::new()))
        .filter(Column::ResourceId.is_in(rows::pad(members)))
        .exec(db)
        .await?;
    Ok(())
}

/// Forgets up to `limit` of the calls that made something before `before`, oldest first, and says how many.
pub(crate) async fn forget_oldest(
    db: &impl ConnectionTrait,
    before: Timestamp,
    limit: u64,
) -> Result<usize, DbErr> {
    let calls = take_oldest(db, before, limit).await?;
    let forgotten = calls.len();
    delete(db, calls).await?;
    Ok(forgotten)
}

/// The oldest calls, locked until the transaction ends. Replicas that forget at the same time pass each other's by.
async fn take_oldest(
    db: &impl ConnectionTrait,
    before: Timestamp,
    limit: u64,
) -> Result<Vec<(String, RequestId)>, DbErr> {
    // Ids of ours are UUID v7, so their order is that of time.
    Entity::find()
        .select_only()
        .columns([Column::Rpc, Column::RequestId])
        .filter(Column::ResourceId.lt(boundary(before)))
        .order_by_asc(Column::ResourceId)
        .limit(limit)
        // Dropped on SQLite, which has one writer.
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .into_tuple()
        .all(db)
        .await
}

async fn delete(db: &impl ConnectionTrait, calls: Vec<(String, RequestId)>) -> Result<(), DbErr> {
    for rpc in [Rpc::Register, Rpc::Withdraw].map(Rpc::as_str) {
        let of_rpc = calls.iter().filter(|(of, _)| of == rpc);
        let ids: Vec<RequestId> = of_rpc.map(|&(_, id)| id).collect();
        if !ids.is_empty() {
            Entity::delete_many()
                .filter(Column::Rpc.eq(rpc))
                .filter(Column::RequestId.is_in(rows::pad(ids)))
                .exec(db)
                .await?;
        }
    }
    Ok(())
}
