//! Request ids: which calls succeeded before, and what they made.

use couponmesh_messaging::rows;
use couponmesh_runtime::id::RequestId;
use sea_orm::{ActiveValue::Set, ConnectionTrait, DbErr, Statement, entity::prelude::*};

/// A call that succeeded under a request id. Never deleted.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "requests")]
pub struct Model {
    /// The RPC: ids of different RPCs do not meet.
    #[sea_orm(primary_key, auto_increment = false)]
    pub rpc: String,
    /// The caller's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub request_id: RequestId,
    /// Tells the call's content from another's.
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
    // everything of the RPC instead, and remember to.
    let sql = format!(
        "SELECT requests.* FROM ({asked}) AS asked \
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
