//! A lease: work that one process at a time does, taken over when its holder dies.
//!
//! It spares double work and is no lock: a holder that stalls past its end may still act once more.
//! What is done under a lease must be harmless when done twice.
//!
//! The end in the row goes by the clock that all replicas share. The holder itself counts on its
//! monotonic clock, and an end that lies further ahead than any term is a wrong clock's and over.

use std::time::Duration;

use couponmesh_runtime::Timestamp;
use sea_orm::{
    DbErr,
    entity::prelude::*,
    sea_query::{ExprTrait as _, OnConflict},
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::store::Store;

/// How long a dead holder keeps others waiting.
const TERM: Duration = Duration::from_secs(10);

/// How soon a replica that does not have it asks for it again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Who holds what.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "leases")]
pub struct Model {
    /// The work.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// The replica that does it.
    pub holder: Uuid,
    /// Until when it may, unless it renews.
    pub end_time: Timestamp,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The leases that `replica` has, and those that are over.
pub(crate) fn may_be_held_by(replica: Uuid, now: Timestamp, term: Duration) -> Expr {
    Expr::col((Entity, Column::Holder))
        .eq(replica)
        .or(Expr::col((Entity, Column::EndTime)).lt(now))
        .or(Expr::col((Entity, Column::EndTime)).gt(now.latest_deadline(term)))
}

impl Model {
    /// Whether it is not over.
    pub(crate) fn is_held(&self, now: Timestamp, term: Duration) -> bool {
        self.end_time >= now && self.end_time <= now.latest_deadline(term)
    }
}

pub(crate) struct Lease {
    store: Store,
    name: &'static str,
    held_until: Option<Instant>,
    /// Another has it: it is not asked for again before. Asking costs a commit.
    ask_again: Option<Instant>,
}

impl Lease {
    pub(crate) fn new(store: &Store, name: &'static str) -> Self {
        Self {
            store: store.clone(),
            name,
            held_until: None,
            ask_again: None,
        }
    }

    /// Whether this process holds the lease; takes or renews it when it can.
    pub(crate) async fn hold(&mut self) -> Result<bool, DbErr> {
        let begun = Instant::now();
        // Renewed at half its term, so that a slow renewal does not lose it.
        if self.held_until.is_some_and(|end| begun + TERM / 2 < end) {
            return Ok(true);
        }
        if self.ask_again.is_some_and(|time| begun < time) {
            return Ok(false);
        }
        let tx = self.store.begin("lease").await?;
        let now = tx.now();
        let mine = may_be_held_by(self.store.replica(), now, TERM);
        let taken = Entity::insert(ActiveModel {
            name: sea_orm::Set(self.name.to_owned()),
            holder: sea_orm::Set(self.store.replica()),
            end_time: sea_orm::Set(now.plus(TERM)),
        })
        .on_conflict(
            OnConflict::column(Column::Name)
                .update_columns([Column::Holder, Column::EndTime])
                .action_and_where(mine)
                .to_owned(),
        )
        .exec_without_returning(&*tx)
        .await?;
        tx.commit().await?;
        self.held_until = (taken > 0).then_some(begun + TERM);
        self.ask_again = (taken == 0).then_some(begun + ASK_AGAIN);
        Ok(taken > 0)
    }

    /// Lets go, and leaves it to others, if there are any.
    pub(crate) async fn leave(&mut self) {
        self.release().await;
        self.ask_again = Some(Instant::now() + ASK_AGAIN * 2);
    }

    /// Lets go, so that another replica need not wait for the end of the term.
    pub(crate) async fn release(&mut self) {
        if self.held_until.take().is_none() {
            return;
        }
        let released = async {
            let tx = self.store.begin("lease").await?;
            Entity::delete_many()
                .filter(Column::Name.eq(self.name))
                .filter(Column::Holder.eq(self.store.replica()))
                .exec(&*tx)
                .await?;
            tx.commit().await
        };
        if let Err(error) = released.await {
            tracing::debug!(
                lease = self.name,
                error = &error as &dyn std::error::Error,
                "lease not released; it ends by itself"
            );
        }
    }
}
