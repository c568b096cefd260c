//! The database's own id, made once and kept for as long as the database, and by every copy of it: by it a bus tells
//! one installation from another.

use sea_orm::{
    ActiveValue::Set, DbErr, QueryTrait as _, entity::prelude::*, sea_query::OnConflict,
};
use uuid::Uuid;

use crate::store::Store;

/// The name of the one row.
const DATABASE: &str = "database";

/// The row.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "identity")]
pub struct Model {
    /// The database's.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// Random.
    pub id: Uuid,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The database's id, which is made when it has none.
///
/// # Errors
/// The database's.
pub async fn load_or_make(store: &Store) -> Result<Uuid, DbErr> {
    if let Some(id) = load(store).await? {
        return Ok(id);
    }
    let row = ActiveModel {
        name: Set(DATABASE.to_owned()),
        id: Set(store.new_id()),
    };
    let unless_another_did = OnConflict::column(Column::Name).do_nothing().to_owned();
    let make = Entity::insert(row).on_conflict(unless_another_did);
    store.execute("identity.make", &make.into_query()).await?;
    let id = load(store).await?;
    id.ok_or_else(|| DbErr::RecordNotFound("the row in identity".to_owned()))
}

async fn load(store: &Store) -> Result<Option<Uuid>, DbErr> {
    let row = Entity::find_by_id(DATABASE.to_owned());
    Ok(row.one(store.read()).await?.map(|row| row.id))
}
