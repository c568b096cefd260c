//! How far a consumer is: for each partition of the bus the position up to which it has dealt with everything.
//!
//! A position moves by compare-and-set, in the transaction that deals with what lies before it, and only for the one
//! who opened the partition last. So whoever has lost its turn and does not know it cannot commit, whatever it has read,
//! and what is read twice is handled once. An event's attempts are counted in the position before it.

use sea_orm::{
    ActiveValue::Set,
    Condition, ConnectionTrait, DbErr, QueryOrder, QueryTrait as _,
    entity::prelude::*,
    sea_query::{ExprTrait as _, OnConflict},
};

use crate::{
    bus::{Partition, Place},
    mark::Mark,
    rows,
    store::{Store, Transaction},
};

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "positions")]
pub struct Model {
    /// Its name on the bus.
    #[sea_orm(primary_key, auto_increment = false)]
    pub partition: String,
    /// Everything up to this position is dealt with.
    pub sequence: i64,
    /// What is there, by which it is seen that the bus has not lost it; none before the first.
    pub stamp: Option<Uuid>,
    /// Attempts at what comes next that were counted before the handler ran.
    pub attempts: i32,
    /// The types of events that were dealt with up to there, divided by blanks.
    pub types: String,
    /// Where it was some minutes before.
    pub older_sequence: Option<i64>,
    /// What is there.
    pub older_stamp: Option<Uuid>,
    /// How often the partition was opened: only who did so last moves the position.
    pub epoch: i64,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// Where the bus had the last event that was dealt with.
    pub(crate) fn place(&self) -> Option<Place> {
        self.stamp.map(|stamp| Place {
            sequence: self.sequence,
            stamp,
        })
    }
}

impl Model {
    /// Where it was some minutes before; none when it was moved back before that.
    pub(crate) fn older(&self) -> Option<Mark> {
        let sequence = self
            .older_sequence
            .filter(|older| *older <= self.sequence)?;
        let stamp = self.older_stamp?;
        Some(Mark {
            position: sequence,
            place: Place { sequence, stamp },
        })
    }
}

/// A move of one position.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) partition: String,
    /// That of whoever opened the partition.
    pub(crate) epoch: i64,
    pub(crate) from: i64,
    pub(crate) to: Place,
}

/// One of them, when the partition was ever read.
///
/// # Errors
/// The database's.
pub async fn find(db: &impl ConnectionTrait, partition: &str) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(partition.to_owned()).one(db).await
}

/// Lets one who has never read `partition` begin after position `sequence`.
pub(crate) async fn begin_at(
    store: &Store,
    partition: &str,
    sequence: i64,
    types: &[&str],
) -> Result<(), DbErr> {
    let tx = store.begin("positions").await?;
    insert(&tx, partition, sequence, types).await?;
    tx.commit().await
}

/// Stores where one begins who has never read `partition`.
async fn insert(
    tx: &Transaction,
    partition: &str,
    sequence: i64,
    types: &[&str],
) -> Result<(), DbErr> {
    let unless_there = OnConflict::column(Column::Partition)
        .do_nothing()
        .to_owned();
    let row = ActiveModel {
        partition: Set(partition.to_owned()),
        sequence: Set(sequence),
        stamp: Set(None),
        attempts: Set(0),
        types: Set(types.join(" ")),
        older_sequence: Set(None),
        older_stamp: Set(None),
        epoch: Set(0),
    };
    rows::insert::<Entity, _, _>(&**tx, vec![row], Some(unless_there)).await
}

/// Goes back to position `sequence` of `partition`, unless it is there or before. A consumer that runs reads again what
/// follows, within a few seconds. How many positions that moved.
///
/// # Errors
/// The database's.
pub async fn rewind(
    db: &impl ConnectionTrait,
    partition: &str,
    sequence: i64,
) -> Result<u64, DbErr> {
    let moved = Entity::update_many()
        .col_expr(Column::Sequence, Expr::value(sequence))
        .col_expr(Column::Stamp, Expr::value(None::<Uuid>))
        .col_expr(Column::OlderSequence, Expr::value(None::<i64>))
        .col_expr(Column::Attempts, Expr::value(0))
        .filter(Column::Partition.eq(partition))
        .filter(Column::Sequence.gt(sequence))
        .exec(db)
        .await?;
    Ok(moved.rows_affected)
}

/// All positions, by the names of their partitions.
///
/// # Errors
/// The database's.
pub async fn list(db: &impl ConnectionTrait) -> Result<Vec<Model>, DbErr> {
    Entity::find().order_by_asc(Column::Partition).all(db).await
}

/// Opens `partition` for one who reads events of `types`: from now on nobody else moves its position, until it is
/// opened again. Who reads more types than those before reads everything once more, since they passed over events that
/// it wants: e.g. a newer release, or after a rollback.
pub(crate) async fn open(
    store: &Store,
    partition: &Partition,
    types: &[&str],
) -> Result<Model, DbErr> {
    let tx = store.begin("positions").await?;
    insert(&tx, &partition.name, partition.begins_after, types).await?;
    // Whoever had it may be in the middle of a batch, and stand still: the other partitions do not wait for that.
    let opened = Entity::update_many()
        .col_expr(Column::Epoch, Expr::col(Column::Epoch).add(1))
        .filter(Condition::all().add_option(tx.impatiently()))
        .filter(Column::Partition.eq(&*partition.name))
        .exec_with_returning(&*tx)
        .await?;
    let opened = opened.into_iter().next();
    let mut opened = opened.ok_or_else(|| DbErr::RecordNotFound("a position".to_owned()))?;
    let wanted = types.join(" ");
    if opened.types != wanted {
        let known: Vec<&str> = opened.types.split(' ').collect();
        if types.iter().any(|one| !known.contains(one)) {
            tracing::info!(
                service = store.service(),
                partition = opened.partition,
                "this release reads more types of events than the one before: the partition is read from its beginning"
            );
            opened = go_back(&tx, opened, None).await?;
        }
        Entity::update_many()
            .col_expr(Column::Types, Expr::value(wanted))
            .filter(Column::Partition.eq(&*partition.name))
            .exec(&*tx)
            .await?;
    }
    tx.commit().await?;
    Ok(opened)
}

/// Moves on; false when somebody else has moved one of them, and then nothing of `tx` may be committed.
pub(crate) async fn advance(tx: &Transaction, steps: &[Step]) -> Result<bool, DbErr> {
    let row = |step: &Step| {
        [
            step.partition.clone().into(),
            step.from.into(),
            step.to.sequence.into(),
            step.to.stamp.into(),
            step.epoch.into(),
        ]
    };
    let types = [
        ColumnType::Text,
        ColumnType::BigInteger,
        ColumnType::BigInteger,
        ColumnType::Uuid,
        ColumnType::BigInteger,
    ];
    let set = "sequence = news.column3, stamp = news.column4, attempts = 0";
    let which = if tx.faults().sabotaged("positions.compare") {
        "positions.partition = news.column1"
    } else {
        "positions.partition = news.column1 AND positions.sequence = news.column2 \
         AND positions.epoch = news.column5"
    };
    let rows = steps.iter().map(row).collect();
    match rows::update(&**tx, "positions", types, rows, set, which).await {
        Err(DbErr::RecordNotUpdated) => Ok(false),
        moved => moved.map(|()| true),
    }
}

/// Counts an attempt at what comes after the beginning of `step`, and returns how many there were; none when somebody
/// else has moved the position.
pub(crate) async fn count_attempt(tx: &Transaction, step: &Step) -> Result<Option<i32>, DbErr> {
    let mut count = Entity::update_many()
        .col_expr(Column::Attempts, Expr::col(Column::Attempts).add(1))
        .filter(Column::Partition.eq(&step.partition));
    if !tx.faults().sabotaged("positions.compare") {
        count = count
            .filter(Column::Sequence.eq(step.from))
            .filter(Column::Epoch.eq(step.epoch));
    }
    let counted = count.exec_with_returning(&**tx).await?;
    Ok(counted.first().map(|row| row.attempts))
}

/// Takes the count of an attempt back.
pub(crate) async fn uncount_attempt(db: &impl ConnectionTrait, step: &Step) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::Attempts, Expr::col(Column::Attempts).sub(1))
        .filter(Column::Partition.eq(&step.partition))
        .filter(Column::Sequence.eq(step.from))
        .filter(Column::Attempts.gt(0))
        .exec(db)
        .await?;
    Ok(())
}

/// Remembers where a position was some minutes before, for whoever has opened its partition with that epoch.
pub(crate) async fn remember_older(
    store: &Store,
    partition: &str,
    epoch: i64,
    older: Place,
) -> Result<(), DbErr> {
    let remember = Entity::update_many()
        .col_expr(Column::OlderSequence, Expr::value(older.sequence))
        .col_expr(Column::OlderStamp, Expr::value(older.stamp))
        .filter(Column::Partition.eq(partition))
        .filter(Column::Epoch.eq(epoch))
        .into_query();
    store.execute("positions.older", &remember).await?;
    Ok(())
}

/// Goes back to `kept`, or before the first event, unless somebody else has moved the position. Returns where it is then.
pub(crate) async fn go_back(
    tx: &Transaction,
    from: Model,
    kept: Option<Mark>,
) -> Result<Model, DbErr> {
    let sequence = kept.map_or(0, |mark| mark.position);
    let stamp = kept.map(|mark| mark.place.stamp);
    Entity::update_many()
        .col_expr(Column::Sequence, Expr::value(sequence))
        .col_expr(Column::Stamp, Expr::value(stamp))
        .col_expr(
            Column::OlderSequence,
            Expr::value(kept.map(|mark| mark.position)),
        )
        .col_expr(Column::Attempts, Expr::value(0))
        .filter(Column::Partition.eq(&from.partition))
        .filter(Column::Sequence.eq(from.sequence))
        .filter(Column::Epoch.eq(from.epoch))
        .exec(&**tx)
        .await?;
    Ok(Model {
        sequence,
        stamp,
        older_sequence: kept.map(|mark| mark.position),
        attempts: 0,
        ..from
    })
}
