//! Rows and events that are new, and commit together without a look at what is there.

use couponmesh_runtime::{
    Context, Timestamp, database,
    id::{EventId, MemberId},
};
use prost::{Message, Name};
use sea_orm::{
    ActiveModelTrait, ConnectionTrait as _, DbBackend, DbErr, EntityTrait,
    sea_query::{CommonTableExpression, Expr, InsertStatement, OnConflict, Query, WithClause},
};
use uuid::Uuid;

use crate::{
    event::Event,
    outbox, rows,
    store::{Store, Transaction},
};

/// What shall be inserted, and published if and only if it is.
///
/// On PostgreSQL all of it is one statement, and so one round trip and one commit, where a
/// [`Transaction`] needs one for each statement and two more. What must be unique has to be so in the
/// schema: a conflict undoes the whole batch.
#[derive(Debug)]
pub struct Batch {
    store: Store,
    scope: &'static str,
    now: Timestamp,
    /// How many rows, and the statements that insert them.
    inserts: Vec<(usize, Vec<InsertStatement>)>,
    events: Vec<Event>,
}

impl Batch {
    pub(crate) fn new(store: &Store, scope: &'static str) -> Self {
        Self {
            store: store.clone(),
            scope,
            now: store.now(),
            inserts: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The one time of everything in it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// A new id: later ones sort later.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.store.random().uuid_v7(self.now)
    }

    /// Inserts `rows`.
    pub fn insert<E, A>(&mut self, rows: Vec<A>)
    where
        E: EntityTrait<ActiveModel = A>,
        A: ActiveModelTrait<Entity = E> + Send,
    {
        let backend = self.store.read().get_database_backend();
        let count = rows.len();
        self.inserts
            .push((count, rows::statements::<E, A>(backend, rows)));
    }

    /// Publishes `message` about `member_id`.
    pub fn append<M: Message + Name>(
        &mut self,
        context: &Context,
        member_id: MemberId,
        message: &M,
    ) {
        let id = EventId(self.new_id());
        let source = self.store.service();
        let event = Event::new(id, source, member_id, self.now, context, message);
        self.events.push(event);
    }

    /// Commits all of it. False, and nothing of it happened, when something that has to be unique is there
    /// already: on PostgreSQL that is no violation, whose values its server would write to its log.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub async fn commit(mut self) -> Result<bool, DbErr> {
        let faults = self.store.faults();
        if self.store.read().get_database_backend() != DbBackend::Postgres
            || faults.sabotaged("outbox.in_transaction")
        {
            return match self.commit_one_by_one().await {
                Err(error) if database::is_unique_violation(&error) => Ok(false),
                committed => committed.map(|()| true),
            };
        }
        let publishes = !self.events.is_empty();
        let events = std::mem::take(&mut self.events);
        self.inserts
            .push((events.len(), outbox::statements(events)));
        let mut parts = WithClause::new();
        let (mut names, mut wanted) = (Vec::new(), 0_i64);
        for (rows, inserts) in self.inserts.drain(..) {
            for mut insert in inserts {
                let name = format!("insert{}", names.len());
                insert
                    .on_conflict(OnConflict::new().do_nothing().to_owned())
                    .returning(Query::returning().expr(Expr::val(1)));
                let part = CommonTableExpression::new()
                    .table_name(name.clone())
                    .query(insert)
                    .to_owned();
                parts.cte(part);
                names.push(format!("(SELECT count(*) FROM \"{name}\")"));
                wanted += i64::try_from(rows).unwrap_or(i64::MAX);
            }
        }
        if names.is_empty() {
            return Ok(true);
        }
        // All or nothing: dividing by zero undoes the whole statement. How many it must be is a value, so that batches
        // of any size are one text, and prepared once.
        let inserted = names.join(" + ");
        let all = format!("1 / (CASE WHEN {inserted} = $1 THEN 1 ELSE 0 END)");
        let all = Expr::cust_with_values(all, [wanted]);
        let all_or_nothing = Query::select().expr(all).to_owned().with(parts);
        match self.store.execute(self.scope, &all_or_nothing).await {
            Err(error) if is_division_by_zero(&error) => return Ok(false),
            executed => executed.map(drop)?,
        }
        if publishes {
            self.store.wake_relay();
        }
        Ok(true)
    }

    async fn commit_one_by_one(self) -> Result<(), DbErr> {
        let tx: Transaction = self.store.begin(self.scope).await?;
        for insert in self.inserts.iter().flat_map(|(_, inserts)| inserts) {
            tx.execute(insert).await?;
        }
        tx.append_all(self.events);
        tx.commit().await
    }
}

fn is_division_by_zero(error: &DbErr) -> bool {
    /// PostgreSQL's code for it.
    const DIVISION_BY_ZERO: &str = "22012";
    database::code_of(error).as_deref() == Some(DIVISION_BY_ZERO)
}
