//! Brings addresses that an older release stored into the form in which they are now compared.

use couponmesh_runtime::id::MemberId;
use sea_orm::{QueryOrder as _, QuerySelect as _, entity::prelude::*};
use sea_orm_migration::prelude::*;

use crate::{
    members::{Column, Entity},
    profile::Email,
};

/// Rows read at once.
const PAGE: u64 = 1_000;

/// The unique index, not a lookup of several forms, is what keeps one address one member's: so the
/// rows change, once.
pub(super) struct NormaliseAddresses;

impl MigrationName for NormaliseAddresses {
    fn name(&self) -> &'static str {
        "m0005_normalise_addresses"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for NormaliseAddresses {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        let mut last = None;
        let mut kept = 0;
        loop {
            let page = candidates(db, last).await?;
            let Some((id, _)) = page.last() else {
                break;
            };
            last = Some(*id);
            for (id, stored) in page {
                let normalised = Email::parse(&stored).ok();
                let done = match &normalised {
                    Some(email) if email.expose() == stored => true,
                    Some(email) => give(db, id, email).await?,
                    None => false,
                };
                kept += u64::from(!done);
            }
        }
        if kept > 0 {
            tracing::warn!(
                members = kept,
                "addresses stay as an older release stored them: this one would refuse them, or \
                 another member has the same address in its new form"
            );
        }
        Ok(())
    }
}

/// The next addresses whose form may be another now: all others are plain ASCII.
async fn candidates(
    db: &impl ConnectionTrait,
    last: Option<MemberId>,
) -> Result<Vec<(MemberId, String)>, DbErr> {
    let changed = Condition::any()
        .add(Expr::cust("octet_length(email) <> length(email)"))
        .add(Column::Email.starts_with("\""));
    let after = last.map(|last| Column::MemberId.gt(last));
    Entity::find()
        .select_only()
        .columns([Column::MemberId, Column::Email])
        .filter(changed)
        .filter(Condition::all().add_option(after))
        .order_by_asc(Column::MemberId)
        .limit(PAGE)
        .into_tuple()
        .all(db)
        .await
}

/// Gives a member the new form, unless another one has it; returns whether it did.
async fn give(db: &impl ConnectionTrait, id: MemberId, email: &Email) -> Result<bool, DbErr> {
    let taken = Entity::find().filter(Column::Email.eq(email.expose()));
    if taken.count(db).await? > 0 {
        return Ok(false);
    }
    Entity::update_many()
        .col_expr(Column::Email, Expr::value(email.expose()))
        .filter(Column::MemberId.eq(id))
        .exec(db)
        .await?;
    Ok(true)
}
