//! How far the relay is: the position in the outbox up to which every row is on the bus.
//!
//! It may lag behind: what lies above it and is on the bus already is published again by whoever takes
//! the relay over. It is never ahead.

use sea_orm::{
    ConnectionTrait, DbErr, QueryTrait as _,
    entity::prelude::*,
    sea_query::{CaseStatement, Expr, ExprTrait as _},
};

use uuid::Uuid;

use crate::{
    bus::Place,
    mark::Mark,
    store::{Store, unsynced},
};

/// The name of the one row: the relay's.
pub(crate) const RELAY: &str = "relay";

/// The row.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "checkpoints")]
pub struct Model {
    /// The relay's.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// Every row of the outbox up to this position is on the bus.
    pub position: i64,
    /// Where the bus said to have the furthest of them, by which it is seen that it lost none.
    pub bus_sequence: Option<i64>,
    /// What is there.
    pub bus_stamp: Option<Uuid>,
    /// The same from some minutes before: every row up to this position was on the bus by then.
    pub older_position: Option<i64>,
    /// Where the bus said to have the last of them.
    pub older_sequence: Option<i64>,
    /// What is there.
    pub older_stamp: Option<Uuid>,
    /// How often it was moved back, by an operator or after a loss, to have published once more what follows.
    pub rewinds: i64,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The checkpoint as it is stored.
///
/// # Errors
/// The database's.
pub async fn load(db: &impl ConnectionTrait) -> Result<Model, DbErr> {
    let row = Entity::find_by_id(RELAY.to_owned()).one(db).await?;
    row.ok_or_else(|| DbErr::RecordNotFound("the relay's row in checkpoints".to_owned()))
}

/// Moves the checkpoint on from `from` to `to`. False when somebody else has moved it: then what is known of
/// the outbox has to be looked at anew.
pub(crate) async fn advance(store: &Store, from: &Model, to: &Model) -> Result<bool, DbErr> {
    let mut advance = Entity::update_many()
        .col_expr(Column::Position, Expr::value(to.position))
        .col_expr(Column::BusSequence, Expr::value(to.bus_sequence))
        .col_expr(Column::BusStamp, Expr::value(to.bus_stamp))
        .col_expr(Column::OlderPosition, Expr::value(to.older_position))
        .col_expr(Column::OlderSequence, Expr::value(to.older_sequence))
        .col_expr(Column::OlderStamp, Expr::value(to.older_stamp))
        .filter(Column::Name.eq(RELAY))
        .filter(Column::Position.eq(from.position))
        .filter(Column::Rewinds.eq(from.rewinds));
    if store.database().postgres().is_some() {
        // When it is forgotten some events are published again, as after a relay that died.
        advance = advance.filter(unsynced());
    }
    let advanced = store
        .execute("relay.checkpoint", &advance.into_query())
        .await?;
    Ok(advanced > 0)
}

/// Moves the checkpoint back to `position`, unless it is there or before. A relay that runs publishes again what
/// follows, within two seconds.
///
/// # Errors
/// The database's.
pub async fn rewind(db: &impl ConnectionTrait, position: i64) -> Result<(), DbErr> {
    let back = CaseStatement::new()
        .case(Expr::col(Column::Position).gt(position), position)
        .finally(Expr::col(Column::Position));
    Entity::update_many()
        .col_expr(Column::Position, back.into())
        // What is not on the bus any more is what they may be about.
        .col_expr(Column::OlderPosition, Expr::value(None::<i64>))
        // A bus that drops repeats must not take these for some.
        .col_expr(Column::Rewinds, Expr::col(Column::Rewinds).add(1))
        .filter(Column::Name.eq(RELAY))
        .exec(db)
        .await?;
    Ok(())
}

/// The bus has lost events, as is seen with the checkpoint at `from`: what follows `kept` is published again, or all
/// that the outbox has, unless somebody else has seen it before.
pub(crate) async fn go_back(store: &Store, from: &Model, kept: Option<Mark>) -> Result<(), DbErr> {
    let anew = Entity::update_many()
        .col_expr(
            Column::Position,
            Expr::value(kept.map_or(0, |mark| mark.position)),
        )
        .col_expr(
            Column::BusSequence,
            Expr::value(kept.map(|mark| mark.place.sequence)),
        )
        .col_expr(
            Column::BusStamp,
            Expr::value(kept.map(|mark| mark.place.stamp)),
        )
        .col_expr(
            Column::OlderPosition,
            Expr::value(kept.map(|mark| mark.position)),
        )
        .col_expr(Column::Rewinds, Expr::col(Column::Rewinds).add(1))
        .filter(Column::Name.eq(RELAY))
        .filter(Column::Rewinds.eq(from.rewinds));
    store.execute("relay.rewind", &anew.into_query()).await?;
    Ok(())
}

impl Model {
    /// Where it was some minutes before; none when it was moved back before that.
    pub(crate) fn older(&self) -> Option<Mark> {
        let position = self
            .older_position
            .filter(|older| *older <= self.position)?;
        let (sequence, stamp) = (self.older_sequence?, self.older_stamp?);
        Some(Mark {
            position,
            place: Place { sequence, stamp },
        })
    }

    /// The same with another place some minutes before.
    pub(crate) fn with_older(self, older: Option<Mark>) -> Self {
        match older {
            Some(Mark { position, place }) => Self {
                older_position: Some(position),
                older_sequence: Some(place.sequence),
                older_stamp: Some(place.stamp),
                ..self
            },
            None => self,
        }
    }

    /// Where the bus said to have an event.
    pub(crate) fn place(&self) -> Option<Place> {
        let (sequence, stamp) = (self.bus_sequence?, self.bus_stamp?);
        Some(Place { sequence, stamp })
    }
}
