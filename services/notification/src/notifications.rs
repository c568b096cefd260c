//! Notifications, one row per member.

use couponmesh_messaging::{Transaction, frontier::Frontier, rows};
use couponmesh_proto::notification::v1 as proto;
use couponmesh_runtime::{
    Timestamp,
    id::{MemberId, NotificationId},
    page::Page,
};
use sea_orm::{
    ActiveValue::Set,
    Condition, ConnectionTrait, DbErr, IntoActiveModel as _, QueryOrder, QuerySelect,
    QueryTrait as _,
    entity::prelude::*,
    sea_query::{ExprTrait as _, LockBehavior, LockType, OnConflict},
};

use crate::{config::NotificationConfig, waiting};

/// A notification.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "notifications")]
pub struct Model {
    /// UUID v7, and the identity of every delivery.
    #[sea_orm(primary_key, auto_increment = false)]
    pub notification_id: NotificationId,
    /// The member it is about.
    #[sea_orm(unique)]
    pub member_id: MemberId,
    /// Who gets it.
    pub recipient: String,
    /// The channel's name.
    pub channel: String,
    /// Subject line.
    pub subject: String,
    /// Text.
    pub body: String,
    /// Where it stands.
    pub state: State,
    /// Attempts that were begun.
    pub attempt_count: i32,
    /// When it was stored.
    pub create_time: Timestamp,
    /// When it is due; while an attempt is under way, when that is given up for dead. None once it ended.
    pub next_attempt_time: Option<Timestamp>,
    /// When it was sent.
    pub send_time: Option<Timestamp>,
    /// What the last failed attempt said; empty when none failed.
    pub last_error: String,
    /// When its first attempt failed, since it was stored or an operator had it sent again; none
    /// when none failed.
    pub failing_since: Option<Timestamp>,
    /// Shared by all that the registration caused.
    pub correlation_id: String,
    /// The event that it tells of.
    pub causation_id: Option<Uuid>,
    /// W3C trace context of the registration.
    pub traceparent: Option<String>,
}

/// Where a notification stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum State {
    /// It is tried.
    #[sea_orm(string_value = "PENDING")]
    Pending,
    /// The channel took it.
    #[sea_orm(string_value = "SENT")]
    Sent,
    /// It was refused or given up.
    #[sea_orm(string_value = "FAILED")]
    Failed,
}

impl From<State> for proto::NotificationState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Sent => Self::Sent,
            State::Failed => Self::Failed,
        }
    }
}

impl State {
    /// The state that a request names; `None` for UNSPECIFIED and unknown numbers.
    #[must_use]
    pub fn from_request(number: i32) -> Option<Self> {
        match proto::NotificationState::try_from(number).ok()? {
            proto::NotificationState::Unspecified => None,
            proto::NotificationState::Pending => Some(Self::Pending),
            proto::NotificationState::Sent => Some(Self::Sent),
            proto::NotificationState::Failed => Some(Self::Failed),
        }
    }
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl From<Model> for proto::Notification {
    fn from(row: Model) -> Self {
        Self {
            notification_id: row.notification_id.to_string(),
            member_id: row.member_id.to_string(),
            recipient: row.recipient,
            channel: row.channel,
            subject: row.subject,
            body: row.body,
            state: proto::NotificationState::from(row.state).into(),
            attempt_count: row.attempt_count,
            create_time: Some(row.create_time.into()),
            send_time: row.send_time.map(Into::into),
            last_error: row.last_error,
        }
    }
}

/// One notification.
///
/// # Errors
/// The database's.
pub async fn find(db: &impl ConnectionTrait, id: NotificationId) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id).one(db).await
}

/// One page, newest first.
pub(crate) async fn list(
    db: &impl ConnectionTrait,
    page: &Page,
    member_id: Option<MemberId>,
    state: Option<State>,
) -> Result<Vec<Model>, DbErr> {
    let mut query = Entity::find()
        .order_by_desc(Column::NotificationId)
        .limit(page.limit());
    if let Some(after) = page.after() {
        query = query.filter(Column::NotificationId.lt(NotificationId(after)));
    }
    if let Some(member_id) = member_id {
        query = query.filter(Column::MemberId.eq(member_id));
    }
    if let Some(state) = state {
        query = query.filter(Column::State.eq(state));
    }
    query.all(db).await
}

/// Inserts notifications, but none for a member that has one already.
pub(crate) async fn insert_new(tx: &Transaction, mut rows: Vec<Model>) -> Result<(), DbErr> {
    // In the order of what has to be unique, so that two replicas do not deadlock.
    rows.sort_unstable_by_key(|row| row.member_id);
    let one_each = OnConflict::column(Column::MemberId).do_nothing().to_owned();
    let rows = rows
        .into_iter()
        .map(|row| row.into_active_model().reset_all())
        .collect();
    rows::insert::<Entity, _, _>(&**tx, rows, Some(one_each)).await
}

/// Claims up to `limit` notifications that are due, oldest first, and counts an attempt at each.
/// Until the claim ends no one else delivers them.
pub(crate) async fn claim(
    tx: &Transaction,
    frontier: &mut Frontier,
    limit: usize,
    config: &NotificationConfig,
) -> Result<Vec<Model>, DbErr> {
    let look = frontier.look();
    let after = look.after.map(Timestamp);
    if after.is_none() {
        waiting::recall(tx, config.longest_wait()).await?;
    }
    // In a statement of its own: as the subquery of an UPDATE it may be carried out more than once on
    // PostgreSQL, and go beyond its limit.
    let due = Entity::find()
        .select_only()
        .columns([Column::NotificationId, Column::NextAttemptTime])
        // Only what is PENDING has one, and the index holds nothing else.
        .filter(Column::NextAttemptTime.lte(tx.now()))
        .filter(Condition::all().add_option(after.map(|time| Column::NextAttemptTime.gt(time))))
        .order_by_asc(Column::NextAttemptTime)
        .limit(limit as u64)
        // Dropped on SQLite, which has one writer; on PostgreSQL replicas pass each other's rows by.
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .into_tuple()
        .all(&**tx)
        .await;
    frontier.looked(&look);
    let due: Vec<(NotificationId, Timestamp)> = due?;
    let Some(&(_, last)) = due.last() else {
        return Ok(Vec::new());
    };
    // Also when this is not committed: the next look at all finds them.
    frontier.dealt_with(last.0);
    let due = due.into_iter().map(|(id, _)| id).collect();
    Entity::update_many()
        .col_expr(
            Column::NextAttemptTime,
            Expr::value(tx.now().plus(config.claim_time())),
        )
        .col_expr(Column::AttemptCount, Expr::col(Column::AttemptCount).add(1))
        .filter(Column::NotificationId.is_in(rows::pad(due)))
        .exec_with_returning(&**tx)
        .await
}

/// Marks notifications as sent and returns the ids of those that were not before.
pub(crate) async fn sent(
    tx: &Transaction,
    ids: Vec<NotificationId>,
) -> Result<Vec<NotificationId>, DbErr> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let row = ActiveModel {
        state: Set(State::Sent),
        send_time: Set(Some(tx.now())),
        next_attempt_time: Set(None),
        last_error: Set(String::new()),
        failing_since: Set(None),
        ..Default::default()
    };
    let mut sent = Entity::update_many()
        .set(row)
        .filter(Column::NotificationId.is_in(rows::pad(ids)))
        .filter(Column::State.ne(State::Sent))
        .into_query();
    sent.returning_col(Column::NotificationId);
    let sent = tx.query_all(&sent).await?;
    sent.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What it said.
    pub(crate) error: String,
    /// When the first of them failed.
    pub(crate) since: Timestamp,
    /// When the next may begin; none when this was the last.
    pub(crate) next_attempt_time: Option<Timestamp>,
}

/// Notes a failed attempt.
pub(crate) async fn failed(
    tx: &Transaction,
    id: NotificationId,
    failed: Failed,
) -> Result<(), DbErr> {
    let row = ActiveModel {
        state: Set(if failed.next_attempt_time.is_some() {
            State::Pending
        } else {
            State::Failed
        }),
        next_attempt_time: Set(failed.next_attempt_time),
        last_error: Set(failed.error),
        failing_since: Set(Some(failed.since)),
        ..Default::default()
    };
    Entity::update_many()
        .set(row)
        .filter(Column::NotificationId.eq(id))
        .filter(Column::State.eq(State::Pending))
        .exec(&**tx)
        .await?;
    Ok(())
}
