//! The gate before the receiver: one row that paces all replicas' deliveries while it is away.
//!
//! Open: as many deliveries at once as configured. An outage closes it: then there is one probe at
//! a time, and the pauses between probes grow. Any answer opens it, a refusal too. What waits
//! behind it stays due and flows at once when it opens.
//!
//! Each notification has its own pauses, too, but they do not suffice: a thousand pending ones
//! would make a thousand attempts in each longest pause at a receiver that is down, each for as
//! long as the timeout, and hold up the fresh ones behind them. A notification that fails alone, at
//! a receiver that takes the others, closes the gate for a moment only: the next probe is another
//! one.

use std::time::Duration;

use couponmesh_messaging::Transaction;
use couponmesh_runtime::Timestamp;
use sea_orm::{
    ActiveValue::Set, ConnectionTrait, DbErr, entity::prelude::*, sea_query::OnConflict,
};

use crate::config::NotificationConfig;

/// A closed gate.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "gates")]
pub struct Model {
    /// The receiver behind it. Another one, in a changed configuration, has a gate of its own.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// When it closed: since then the receiver was away.
    pub close_time: Timestamp,
    /// When the next probe may begin; a probe under way holds it until its own end.
    pub probe_time: Timestamp,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// How long until the next probe. A wait that is longer than any that this configuration makes
    /// was written by a clock that was wrong: it is over.
    pub(crate) fn wait(&self, now: Timestamp, config: &NotificationConfig) -> Duration {
        let wait = self.probe_time.since(now);
        if wait > config.longest_wait() {
            return Duration::ZERO;
        }
        wait
    }
}

/// The gate's row while it is closed; none while it is open.
pub(crate) async fn closed(db: &impl ConnectionTrait, name: &str) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(name.to_owned()).one(db).await
}

/// Takes the next probe, which ends by `end`; false when another has it.
pub(crate) async fn take_probe(
    tx: &Transaction,
    gate: &Model,
    end: Timestamp,
) -> Result<bool, DbErr> {
    let taken = Entity::update_many()
        .col_expr(Column::ProbeTime, Expr::value(end))
        .filter(Column::Name.eq(gate.name.as_str()))
        // As it was seen: whoever comes second sees another time.
        .filter(Column::ProbeTime.eq(gate.probe_time))
        .exec(&**tx)
        .await?;
    Ok(taken.rows_affected > 0)
}

/// Opens the gate; false when it was open.
pub(crate) async fn open(tx: &Transaction, name: &str) -> Result<bool, DbErr> {
    let opened = Entity::delete_by_id(name.to_owned()).exec(&**tx).await?;
    Ok(opened.rows_affected > 0)
}

/// Closes the gate, or leaves it closed, until the next probe; false when it was closed. `floor` is
/// what the receiver asked to be left alone for.
pub(crate) async fn close(
    tx: &Transaction,
    name: &str,
    config: &NotificationConfig,
    floor: Option<Duration>,
) -> Result<bool, DbErr> {
    let before = closed(&**tx, name).await?;
    // One in the future is of a clock that was wrong.
    let close_time = before
        .as_ref()
        .map_or(tx.now(), |gate| gate.close_time.min(tx.now()));
    let pause = config.pause(tx.random(), tx.now().since(close_time), floor);
    let row = ActiveModel {
        name: Set(name.to_owned()),
        close_time: Set(close_time),
        probe_time: Set(tx.now().plus(pause)),
    };
    let newest = OnConflict::column(Column::Name)
        .update_columns([Column::CloseTime, Column::ProbeTime])
        .to_owned();
    Entity::insert(row)
        .on_conflict(newest)
        .exec_without_returning(&**tx)
        .await?;
    Ok(before.is_none())
}

/// Lets the next probe begin at once, at whatever receiver, as if the gate had closed just now: an
/// operator has something sent again, and so believes that the receiver is back.
pub(crate) async fn probe_now(tx: &Transaction) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::CloseTime, Expr::value(tx.now()))
        .col_expr(Column::ProbeTime, Expr::value(tx.now()))
        .exec(&**tx)
        .await?;
    Ok(())
}
