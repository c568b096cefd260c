//! A service's database together with its outbox: the only way to change either.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use couponmesh_runtime::{
    Clock, Context, Random, Timestamp,
    database::{self, Database, Reader},
    fault::Faults,
    id::{EventId, MemberId},
    wake::Wake,
};
use prost::{Message, Name};
use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, StatementBuilder, sea_query::Expr};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    batch::Batch,
    event::Event,
    outbox,
    signal::{Signals, Topic},
};

/// A service's database, its clock and its randomness. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: &'static str,
    replica: Uuid,
    database: Database,
    clock: Clock,
    random: Random,
    faults: Faults,
    outbox: Wake,
    /// Changes when the outbox has new rows.
    appended: watch::Sender<()>,
    erased: Wake,
    /// Whether this replica is the one that publishes what waits in the outbox.
    relays: AtomicBool,
    signals: Signals,
}

impl Store {
    /// The store of `service`, whose name is the events' source and the consumer's name.
    ///
    /// `replica` tells this process from others on the same database, in leases and claims; the
    /// embedded stack, which has one process, uses the nil UUID, so that a restart goes on at once
    /// with what it held.
    #[must_use]
    pub fn new(
        service: &'static str,
        replica: Uuid,
        database: Database,
        clock: Clock,
        random: Random,
        faults: Faults,
    ) -> Self {
        Self(Arc::new(Inner {
            signals: Signals::new(&database, replica),
            service,
            replica,
            database,
            clock,
            random,
            faults,
            outbox: Wake::default(),
            appended: watch::Sender::default(),
            erased: Wake::default(),
            relays: AtomicBool::new(false),
        }))
    }

    /// Begins a transaction; `scope` names it in faults and traces, e.g. `member.register`.
    ///
    /// # Errors
    /// When the database is not to be had.
    pub async fn begin(&self, scope: &'static str) -> Result<Transaction, DbErr> {
        self.faults().step(scope, "begin")?;
        Ok(Transaction {
            inner: self.0.database.begin().await?,
            store: self.clone(),
            scope,
            now: self.now(),
            pending: Mutex::default(),
        })
    }

    /// Executes a statement that is a transaction by itself; `scope` as in [`begin`](Self::begin). Returns how many rows
    /// it changed.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub(crate) async fn execute<S: StatementBuilder>(
        &self,
        scope: &'static str,
        statement: &S,
    ) -> Result<u64, DbErr> {
        self.faults().step(scope, "begin")?;
        self.faults().step(scope, "commit")?;
        let changed = self.database().execute(statement).await?;
        self.faults().step(scope, "committed")?;
        Ok(changed)
    }

    /// Begins a batch of what is new; `scope` as in [`begin`](Self::begin).
    #[must_use]
    pub fn batch(&self, scope: &'static str) -> Batch {
        Batch::new(self, scope)
    }

    /// The connection for reads outside a transaction.
    #[must_use]
    pub fn read(&self) -> &Reader {
        self.0.database.read()
    }

    /// The database itself, for migrations and closing.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.0.database
    }

    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.0.service
    }

    /// This process among those that share the database.
    #[must_use]
    pub fn replica(&self) -> Uuid {
        self.0.replica
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Where the time comes from.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Where ids and jitter come from.
    #[must_use]
    pub fn random(&self) -> &Random {
        &self.0.random
    }

    /// A new id: later ones sort later.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.0.random.uuid_v7(self.now())
    }

    /// Faults that tests inject.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// To and from the other replicas.
    #[must_use]
    pub fn signals(&self) -> &Signals {
        &self.0.signals
    }

    /// Whether this replica publishes what waits in the outbox; otherwise another does.
    pub(crate) fn set_relays(&self, relays: bool) {
        self.0.relays.store(relays, Ordering::Relaxed);
    }

    /// Tells of new rows in the outbox.
    pub(crate) fn appended(&self) -> watch::Receiver<()> {
        self.0.appended.subscribe()
    }

    /// Wakes those who read the outbox, and the relay, here or at the replica that has it.
    pub(crate) fn wake_relay(&self) {
        self.0.appended.send_replace(());
        self.outbox_wake().wake();
        if !self.0.relays.load(Ordering::Relaxed) {
            self.signals().send(Topic::Outbox, []);
        }
    }

    /// Wakes who lets go of what was erased.
    #[must_use]
    pub(crate) fn erased(&self) -> &Wake {
        &self.0.erased
    }

    /// Wakes the relay: the outbox may have rows to publish.
    #[must_use]
    pub(crate) fn outbox_wake(&self) -> &Wake {
        &self.0.outbox
    }
}

/// A condition that always holds, on PostgreSQL. The transaction whose first statement has it waits for no disk at its
/// commit: for what a server that dies may forget.
pub(crate) fn unsynced() -> Expr {
    // Once, and before the first row is looked at.
    Expr::cust("(SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL")
}

/// An open transaction on a service's database. State and events change through it and commit
/// together; what is dropped without [`commit`](Self::commit) never happened.
pub struct Transaction {
    inner: database::Transaction,
    store: Store,
    scope: &'static str,
    now: Timestamp,
    pending: Mutex<Pending>,
}

/// What a transaction does at and after its commit.
#[derive(Default)]
struct Pending {
    events: Vec<Event>,
    after: Vec<Box<dyn FnOnce() + Send>>,
}

impl Transaction {
    /// The one time of everything that this transaction changes.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// A new id: later ones sort later.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.store.0.random.uuid_v7(self.now)
    }

    /// Where codes and jitter come from.
    #[must_use]
    pub fn random(&self) -> &Random {
        self.store.random()
    }

    /// Faults that tests inject.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        self.store.faults()
    }

    /// Publishes `message` about `member_id`, if and only if this transaction commits.
    pub fn append<M: Message + Name>(&self, context: &Context, member_id: MemberId, message: &M) {
        let id = EventId(self.new_id());
        let source = self.store.service();
        let event = Event::new(id, source, member_id, self.now, context, message);
        self.pending().events.push(event);
    }

    /// Publishes events that are made already.
    pub fn append_all(&self, events: Vec<Event>) {
        self.pending().events.extend(events);
    }

    /// A condition that always holds. From the first statement on that has it, this transaction waits for each lock for
    /// half a second at the most: nobody holds one for longer than a commit takes, but who vanished in the middle of a
    /// transaction, and whoever else wants something of that must not keep those whose requests are in this one.
    ///
    /// None where there is one writer, who waits for nobody.
    #[must_use]
    pub fn impatiently(&self) -> Option<Expr> {
        // Once, and before the first row is looked at.
        let set = "(SELECT set_config('lock_timeout', '500', true)) IS NOT NULL";
        (self.inner.get_database_backend() == DbBackend::Postgres).then(|| Expr::cust(set))
    }

    /// Runs `action` once this transaction is committed, and never when it is not.
    pub fn after_commit(&self, action: impl FnOnce() + Send + 'static) {
        self.pending().after.push(Box::new(action));
    }

    /// Says that this transaction erases personal data: soon after its commit nothing of it is left in a file.
    pub fn erases(&self) {
        let erased = self.store.erased().clone();
        self.after_commit(move || erased.wake());
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits the changes and the events, then wakes the relay.
    ///
    /// # Errors
    /// When the database refuses. A connection lost during the commit leaves open whether it took
    /// place; every caller here is idempotent and tries again or looks again.
    pub async fn commit(self) -> Result<(), DbErr> {
        let Self {
            inner,
            store,
            scope,
            pending,
            ..
        } = self;
        let Pending { events, after } =
            pending.into_inner().unwrap_or_else(PoisonError::into_inner);
        let publishes = !events.is_empty();
        if store.faults().sabotaged("outbox.in_transaction") {
            inner.commit().await?;
            store.faults().step(scope, "committed")?;
            let late = store.0.database.begin().await?;
            outbox::insert(&late, events).await?;
            late.commit().await?;
        } else {
            outbox::insert(&inner, events).await?;
            store.faults().step(scope, "commit")?;
            inner.commit().await?;
            store.faults().step(scope, "committed")?;
        }
        if publishes {
            store.wake_relay();
        }
        for action in after {
            action();
        }
        Ok(())
    }
}

/// Tables read and write through the open transaction.
impl Deref for Transaction {
    type Target = database::Transaction;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}
