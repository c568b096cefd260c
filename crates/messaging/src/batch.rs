//! Rows and events that are new, and commit together without a look at what is there.

use couponmesh_runtime::{
    Context, Random, Timestamp,
    id::{EventId, MemberId},
};
use prost::{Message, Name};
use sea_orm::{
    ActiveModelTrait, ConnectionTrait as _, DbBackend, DbErr, EntityTrait,
    sea_query::{CommonTableExpression, InsertStatement, WithClause},
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
/// schema: a violation fails the whole batch, and nothing of it happened.
#[derive(Debug)]
pub struct Batch {
    store: Store,
    scope: &'static str,
    now: Timestamp,
    inserts: Vec<InsertStatement>,
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
        self.random().uuid_v7(self.now)
    }

    fn random(&self) -> &Random {
        self.store.random()
    }

    /// Inserts `rows`.
    pub fn insert<E, A>(&mut self, rows: Vec<A>)
    where
        E: EntityTrait<ActiveModel = A>,
        A: ActiveModelTrait<Entity = E> + Send,
    {
        let backend = self.store.read().get_database_backend();
        self.inserts.extend(rows::statements::<E, A>(backend, rows));
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

    /// Commits all of it.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub async fn commit(mut self) -> Result<(), DbErr> {
        let faults = self.store.faults();
        if self.store.read().get_database_backend() != DbBackend::Postgres
            || faults.sabotaged("outbox.in_transaction")
        {
            return self.commit_one_by_one().await;
        }
        faults.step(self.scope, "begin")?;
        let publishes = !self.events.is_empty();
        self.inserts
            .extend(outbox::statements(std::mem::take(&mut self.events)));
        let Some(last) = self.inserts.pop() else {
            return Ok(());
        };
        let mut others = WithClause::new();
        for (index, insert) in self.inserts.drain(..).enumerate() {
            others.cte(
                CommonTableExpression::new()
                    .table_name(format!("insert{index}"))
                    .query(insert)
                    .to_owned(),
            );
        }
        faults.step(self.scope, "commit")?;
        self.store.database().execute(&last.with(others)).await?;
        faults.step(self.scope, "committed")?;
        if publishes {
            self.store.wake_relay();
        }
        Ok(())
    }

    async fn commit_one_by_one(self) -> Result<(), DbErr> {
        let tx: Transaction = self.store.begin(self.scope).await?;
        for insert in &self.inserts {
            tx.execute(insert).await?;
        }
        tx.append_all(self.events);
        tx.commit().await
    }
}
