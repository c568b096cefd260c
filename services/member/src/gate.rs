//! The gate before CancelCoupon: one row that paces all replicas' workers while the call fails.
//!
//! Open: the worker has many calls in flight. A failure that is an outage closes it: then one probe at a
//! time, each failed probe doubling the pause. Any success opens it. The pace is of the dependency, not
//! of each withdrawal: a thousand pending withdrawals make no more probes than one. A probe that lies
//! further ahead than any pause is due: it was put there under a wrong clock.

use std::time::Duration;

use couponmesh_messaging::Transaction;
use couponmesh_runtime::{Timestamp, wake::Wake};
use sea_orm::{
    ActiveValue::Set,
    ConnectionTrait, DbErr,
    entity::prelude::*,
    sea_query::{ExprTrait as _, OnConflict},
};

use crate::{config::WithdrawalConfig, withdrawals};

/// The one gate there is.
const COUPON: &str = "coupon";

/// A gate.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "gates")]
pub struct Model {
    /// The dependency behind it.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// The pause after the last failed probe, in microseconds.
    pub pause: i64,
    /// When the next probe may begin; a probe under way holds it until its own end.
    pub probe_time: Timestamp,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// How long to wait for the next probe; zero when it is due.
    pub(crate) fn until_probe(&self, now: Timestamp, config: &WithdrawalConfig) -> Duration {
        if self.probe_time > now.latest_deadline(config.longest_wait()) {
            return Duration::ZERO;
        }
        self.probe_time.since(now)
    }
}

/// The gate's row while it is closed; none while it is open.
pub(crate) async fn closed(db: &impl ConnectionTrait) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(COUPON.to_owned()).one(db).await
}

/// Takes the next probe until its claim ends; false when another has it.
pub(crate) async fn take_probe(tx: &Transaction, config: &WithdrawalConfig) -> Result<bool, DbErr> {
    let now = tx.now();
    let wrong = now.latest_deadline(config.longest_wait());
    let due = Column::ProbeTime.lte(now).or(Column::ProbeTime.gt(wrong));
    let taken = Entity::update_many()
        .col_expr(Column::ProbeTime, Expr::value(now.plus(config.claim())))
        .filter(Column::Name.eq(COUPON))
        .filter(due)
        .exec(&**tx)
        .await?;
    Ok(taken.rows_affected > 0)
}

/// Opens the gate. When it was closed, what waited behind it is due then, and `pending` wakes the worker.
pub(crate) async fn open(tx: &Transaction, pending: &Wake) -> Result<(), DbErr> {
    let opened = Entity::delete_by_id(COUPON.to_owned()).exec(&**tx).await?;
    if opened.rows_affected > 0 {
        withdrawals::make_due(tx).await?;
        let pending = pending.clone();
        tx.after_commit(move || pending.wake());
    }
    Ok(())
}

/// Notes an outage and returns when the next probe may begin. The first failure closes the gate; after
/// that only a failed probe lengthens the pause, however many other calls fail beside it. `floor` is
/// what the other side asked to be left alone for.
pub(crate) async fn close(
    tx: &Transaction,
    config: &WithdrawalConfig,
    probe: bool,
    floor: Option<Duration>,
) -> Result<Timestamp, DbErr> {
    let before = closed(&**tx).await?;
    let pause = match &before {
        None => config.first_pause,
        Some(gate) if !probe => return Ok(tx.now().plus(gate.until_probe(tx.now(), config))),
        Some(gate) => longer(gate.pause, config),
    };
    let wait = tx
        .random()
        .jitter(pause)
        .max(floor.unwrap_or_default().min(config.longest_pause));
    let probe_time = tx.now().plus(wait);
    let row = ActiveModel {
        name: Set(COUPON.to_owned()),
        pause: Set(i64::try_from(pause.as_micros()).unwrap_or(i64::MAX)),
        probe_time: Set(probe_time),
    };
    let newest = OnConflict::column(Column::Name)
        .update_columns([Column::Pause, Column::ProbeTime])
        .to_owned();
    Entity::insert(row)
        .on_conflict(newest)
        .exec_without_returning(&**tx)
        .await?;
    Ok(probe_time)
}

fn longer(pause: i64, config: &WithdrawalConfig) -> Duration {
    let doubled = Duration::from_micros(u64::try_from(pause).unwrap_or(0)) * 2;
    doubled.clamp(config.first_pause, config.longest_pause)
}
