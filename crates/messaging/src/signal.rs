//! Signals: hints from one replica of a service to the others that something changed.
//!
//! They go through PostgreSQL's NOTIFY, outside of any transaction, and may be lost: whoever waits for one
//! also looks by itself now and then. On SQLite there is one process, and no one else to tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use couponmesh_runtime::{
    backoff::Backoff,
    database::{self, Database},
    running::Running,
};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, Statement,
    sqlx::{
        self, PgPool,
        postgres::{PgListener, PgPoolOptions},
    },
};
use tokio::{
    sync::{Mutex, broadcast, mpsc},
    time::{Instant, MissedTickBehavior},
};
use uuid::Uuid;

use crate::store::Store;

/// The one channel of a database.
const CHANNEL: &str = "couponmesh";
/// Items of one notification: 8,000 bytes is what PostgreSQL takes.
const MAX_ITEMS: usize = 200;
/// What waits to be sent or heard; beyond that it is lost, which is allowed.
const MAX_WAITING: usize = 4_096;
/// Signals that come within this time go out together.
const GATHER: Duration = Duration::from_millis(5);
/// After this long a silence the connection is made anew: it may be dead without our knowing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the database may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often a replica says that it is there, and how long the others believe it. As long as nobody else
/// is, nothing is sent.
const HELLO: Duration = Duration::from_secs(5);
const BELIEVED: Duration = Duration::from_secs(15);

/// What signals are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Events wait in the outbox.
    Outbox,
    /// Pages changed; the items are the members' ids.
    Page,
    /// A replica came or goes, or gave partitions back.
    Share,
    /// A replica is there.
    Hello,
}

const TOPICS: [Topic; 4] = [Topic::Outbox, Topic::Page, Topic::Share, Topic::Hello];

impl Topic {
    fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Page => "page",
            Self::Share => "share",
            Self::Hello => "hello",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        TOPICS.into_iter().find(|topic| topic.name() == name)
    }
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// These items of the topic.
    Items(Vec<Uuid>),
    /// Nobody knows: some signals were lost.
    Missed,
}

/// A replica's way to tell the others, and to hear from them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Signals(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    database: Database,
    pool: PgPool,
    replica: Uuid,
    out: mpsc::Sender<(Topic, Option<Uuid>)>,
    waiting: Mutex<mpsc::Receiver<(Topic, Option<Uuid>)>>,
    heard: broadcast::Sender<(Option<Topic>, Heard)>,
    /// When another replica was last heard of.
    others: std::sync::Mutex<Option<Instant>>,
}

impl Inner {
    fn others(&self) -> MutexGuard<'_, Option<Instant>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signals {
    pub(crate) fn new(database: &Database, replica: Uuid) -> Self {
        Self(database.postgres().map(|pool| {
            let (out, waiting) = mpsc::channel(MAX_WAITING);
            Arc::new(Inner {
                database: database.clone(),
                pool: pool.clone(),
                replica,
                out,
                waiting: Mutex::new(waiting),
                heard: broadcast::Sender::new(MAX_WAITING),
                others: std::sync::Mutex::default(),
            })
        }))
    }

    /// Tells the other replicas, a little later.
    pub fn send(&self, topic: Topic, items: impl IntoIterator<Item = Uuid>) {
        let Some(inner) = &self.0 else { return };
        if inner
            .others()
            .is_none_or(|heard| heard.elapsed() > BELIEVED)
        {
            return;
        }
        let mut items = items.into_iter().peekable();
        if items.peek().is_none() {
            let _ = inner.out.try_send((topic, None));
        }
        for item in items {
            // Full: some are lost, and those who wait look by themselves.
            let _ = inner.out.try_send((topic, Some(item)));
        }
    }

    /// Tells the other replicas with the commit of `tx`, whether or not it is known that there are any: for what is
    /// seldom told, by one who comes or goes.
    pub(crate) async fn tell(&self, tx: &impl ConnectionTrait, topic: Topic) -> Result<(), DbErr> {
        match &self.0 {
            Some(inner) => notify(tx, inner.replica, topic, "").await,
            None => Ok(()),
        }
    }

    /// What the other replicas tell from now on.
    #[must_use]
    pub fn listen(&self, topic: Topic) -> Listener {
        Listener {
            topic,
            heard: self.0.as_ref().map(|inner| inner.heard.subscribe()),
        }
    }
}

/// One who listens.
#[derive(Debug)]
pub struct Listener {
    topic: Topic,
    heard: Option<broadcast::Receiver<(Option<Topic>, Heard)>>,
}

impl Listener {
    /// What is heard next; never returns where there is no one to hear from.
    pub async fn next(&mut self) -> Heard {
        let Some(heard) = &mut self.heard else {
            return std::future::pending().await;
        };
        loop {
            match heard.recv().await {
                Ok((topic, heard)) if topic.is_none_or(|topic| topic == self.topic) => {
                    return heard;
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Heard::Missed,
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

pub(crate) fn start(store: &Store, running: &Running) {
    let Some(inner) = store.signals().0.clone() else {
        return;
    };
    let (sending, stop) = (inner.clone(), running.stopping());
    running.keep("signals out", move || {
        let (inner, stop) = (sending.clone(), stop.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = send(&inner) => {}
            }
        }
    });
    let (stop, store) = (running.stopping(), store.clone());
    running.keep("signals in", move || {
        let (inner, stop, store) = (inner.clone(), stop.clone(), store.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = hear(&inner, &store) => {}
            }
        }
    });
}

async fn send(inner: &Inner) {
    let mut waiting = inner.waiting.lock().await;
    let mut gathered = Vec::new();
    let mut hello = tokio::time::interval(HELLO);
    hello.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = waiting.recv_many(&mut gathered, MAX_WAITING) => {}
            _ = hello.tick() => gathered.push((Topic::Hello, None)),
        }
        let mut by_topic = BTreeMap::<Topic, BTreeSet<Uuid>>::new();
        for (topic, item) in gathered.drain(..) {
            by_topic.entry(topic).or_default().extend(item);
        }
        for (topic, items) in by_topic {
            let items: Vec<String> = items.iter().map(|item| item.simple().to_string()).collect();
            let mut chunks = items.chunks(MAX_ITEMS);
            let first = chunks.next().unwrap_or_default();
            for items in std::iter::once(first).chain(chunks) {
                let db = inner.database.read();
                if let Err(error) = notify(db, inner.replica, topic, &items.join(",")).await {
                    tracing::debug!(%error, "a signal to the other replicas was lost");
                }
            }
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn notify(
    db: &impl ConnectionTrait,
    replica: Uuid,
    topic: Topic,
    items: &str,
) -> Result<(), DbErr> {
    let payload = format!("{replica} {} {items}", topic.name());
    let notify = Statement::from_sql_and_values(
        DbBackend::Postgres,
        "SELECT pg_notify($1, $2)",
        [CHANNEL.into(), payload.into()],
    );
    db.execute_raw(notify).await.map(drop)
}

async fn hear(inner: &Inner, store: &Store) {
    let mut backoff = Backoff::new(store.random());
    loop {
        if let Err(error) = listen(inner, &mut backoff).await {
            tracing::debug!(%error, "signals of the other replicas are not heard now");
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

/// Ends when the connection is lost or has been silent for long, and when the pool's connections are lost: the primary
/// may have moved.
async fn listen(inner: &Inner, backoff: &mut Backoff) -> Result<(), sqlx::Error> {
    let mut losses = inner.database.losses();
    let connect = async {
        // A connection beside the pool: a listener that is given up says so on its connection before it lets
        // go, and on one that the network forgot it waits for an answer for good. Each time the services'
        // pool would be one connection smaller.
        let options = inner.pool.connect_options().as_ref().clone();
        // Without the pool's keeper of these two, which may spin for good (sqlx 0.9).
        let own = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None);
        let own = own.connect_with(options).await?;
        // One that was demoted may still let us listen, where nobody tells anything any more.
        let is_demoted = {
            // Given back before the listener takes it.
            let mut connection = own.acquire().await?;
            !database::takes_writes(&mut connection).await?
        };
        if is_demoted {
            return Err(sqlx::Error::PoolClosed);
        }
        let mut listener = PgListener::connect_with(&own).await?;
        // This function does, and tells those who listen that something may have been missed.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    };
    let connected = tokio::time::timeout(TIMEOUT, connect).await;
    let mut listener = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
    backoff.reset();
    // Whatever was said before.
    let _ = inner.heard.send((None, Heard::Missed));
    loop {
        let heard = tokio::select! {
            heard = tokio::time::timeout(SILENCE, listener.try_recv()) => heard,
            () = losses.next() => return Ok(()),
        };
        let Ok(heard) = heard else { return Ok(()) };
        let Some(notification) = heard? else {
            return Ok(());
        };
        if let Some(signal) = read(notification.payload(), inner.replica) {
            let known = inner.others().replace(Instant::now());
            if known.is_none_or(|heard| heard.elapsed() > BELIEVED) {
                // So that it need not wait for the next time to know of this one.
                let _ = inner.out.try_send((Topic::Hello, None));
            }
            let _ = inner.heard.send(signal);
        }
    }
}

/// What a notification says; none when this replica said it itself, or a newer release says it.
fn read(payload: &str, replica: Uuid) -> Option<(Option<Topic>, Heard)> {
    let mut words = payload.splitn(3, ' ');
    let from: Uuid = words.next()?.parse().ok()?;
    let topic = Topic::parse(words.next()?)?;
    let items = words
        .next()?
        .split(',')
        .filter_map(|item| item.parse().ok());
    (from != replica).then(|| (Some(topic), Heard::Items(items.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_read_unless_it_is_ones_own_or_unknown() {
        let (me, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let item = Uuid::from_u128(3);
        let payload = format!("{other} page {}", item.simple());
        let heard = (Some(Topic::Page), Heard::Items(vec![item]));
        assert_eq!(read(&payload, me), Some(heard));
        assert_eq!(read(&payload, other), None);
        let bare = (Some(Topic::Outbox), Heard::Items(vec![]));
        assert_eq!(read(&format!("{other} outbox "), me), Some(bare));
        for odd in ["", "x", &format!("{other} newer ")] {
            assert_eq!(read(odd, me), None, "{odd}");
        }
    }
}
