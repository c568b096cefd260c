//! A handler that does not tolerate repeats, and the check that its effects are exactly once.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex, OnceLock},
};

use async_trait::async_trait;
use couponmesh_messaging::{Event, Handler, HandlerError, Store, Transaction, consume::positions};
use couponmesh_proto::member::v1::MemberRegistered;
use couponmesh_runtime::id::{EventId, MemberId};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement, Value};
use sea_orm_migration::prelude::*;
use tokio::sync::Notify;

use crate::support::Mesh;

/// The publisher's `facts` (members that it registered) and the consumer's `counts` (events handled of each).
pub(crate) struct CreateTables;

impl MigrationName for CreateTables {
    fn name(&self) -> &'static str {
        "m0002_create_test_tables"
    }
}

#[async_trait]
impl MigrationTrait for CreateTables {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let member_id = || ColumnDef::new("member_id").uuid().primary_key().take();
        let facts = Table::create().table("facts").col(member_id()).take();
        manager.create_table(facts).await?;
        let counts = Table::create()
            .table("counts")
            .col(member_id())
            .col(ColumnDef::new("count").big_integer().not_null())
            .take();
        manager.create_table(counts).await
    }
}

/// `{}` stands for the one value.
fn statement(db: &impl ConnectionTrait, sql: &str, value: Option<Value>) -> Statement {
    let backend = db.get_database_backend();
    let value_in_place = match backend {
        DbBackend::Postgres => "($1)",
        _ => "(?)",
    };
    let sql = sql.replace("{}", value_in_place);
    Statement::from_sql_and_values(backend, sql, value)
}

pub(crate) async fn insert_fact(tx: &Transaction, member_id: MemberId) -> Result<(), DbErr> {
    let insert = statement(&**tx, "INSERT INTO facts VALUES {}", Some(member_id.into()));
    tx.execute_raw(insert).await.map(drop)
}

/// A handler of no events: for the publisher, which only publishes.
pub(crate) struct Idle;

#[async_trait]
impl Handler for Idle {
    const TYPES: &'static [&'static str] = &[];

    async fn handle(&self, _: &Transaction, events: &[&Event]) -> Result<(), HandlerError> {
        Err(HandlerError::UnknownType(events[0].event_type.clone()))
    }
}

/// What the handler does with a member's events, other than counting them.
#[derive(Clone, Copy)]
pub(crate) enum Trouble {
    /// An error of its own, after it has counted.
    Fails,
    Panics,
    /// Never ends, as far as the process is concerned that runs it.
    Hangs,
    /// Takes its time, once: until it is told to go on.
    Waits,
}

/// Counts the events of each member, without asking whether it saw them before.
#[derive(Clone, Default)]
pub(crate) struct Counting(Arc<State>);

#[derive(Default)]
struct State {
    trouble: Mutex<HashMap<MemberId, Trouble>>,
    /// Where it looks how many attempts are counted.
    store: OnceLock<Store>,
    /// The attempts that were counted at the position before the events, as others saw it while the handler ran.
    attempts: Mutex<HashMap<EventId, Vec<i32>>>,
    hanging: Notify,
    go_on: Notify,
}

impl Counting {
    /// Looks into `store` how many attempts are counted.
    pub(crate) fn looks_into(&self, store: &Store) {
        let _ = self.0.store.set(store.clone());
    }

    pub(crate) fn troubled_by(&self, member_id: MemberId, trouble: Trouble) {
        self.0.trouble.lock().unwrap().insert(member_id, trouble);
    }

    /// Handles everybody's events from now on.
    pub(crate) fn untroubled(&self) {
        self.0.trouble.lock().unwrap().clear();
    }

    /// For each call of the handler with this event, the attempts that were counted before it.
    pub(crate) fn attempts_at(&self, id: EventId) -> Vec<i32> {
        let attempts = self.0.attempts.lock().unwrap();
        attempts.get(&id).cloned().unwrap_or_default()
    }

    /// Lets a handler that waits go on.
    pub(crate) fn go_on(&self) {
        self.0.go_on.notify_one();
    }

    /// Waits until the handler hangs, or waits.
    pub(crate) async fn hangs(&self) {
        self.0.hanging.notified().await;
    }

    pub(crate) async fn count_of(&self, consumer: &Store, member_id: MemberId) -> i64 {
        let sql = "SELECT count FROM counts WHERE member_id = {}";
        let query = statement(consumer.read(), sql, Some(member_id.into()));
        let row = consumer.read().query_one_raw(query).await.unwrap();
        row.map_or(0, |row| row.try_get("", "count").unwrap())
    }

    async fn count(&self, tx: &Transaction, event: &Event) -> Result<(), HandlerError> {
        if let Some(store) = self.0.store.get() {
            let attempts = positions::list(store.read()).await?;
            let attempts = attempts.iter().map(|one| one.attempts).max();
            let mut seen = self.0.attempts.lock().unwrap();
            seen.entry(event.id).or_default().extend(attempts);
        }
        if event.decode::<MemberRegistered>()?.is_none() {
            return Err(HandlerError::UnknownType(event.event_type.clone()));
        }
        let sql = "INSERT INTO counts SELECT {}, 1 WHERE true ON CONFLICT (member_id) DO UPDATE SET count = counts.count + 1";
        let count = statement(&**tx, sql, Some(event.member_id.into()));
        tx.execute_raw(count).await?;
        let trouble = self
            .0
            .trouble
            .lock()
            .unwrap()
            .get(&event.member_id)
            .copied();
        match trouble {
            None => Ok(()),
            Some(Trouble::Fails) => Err(DbErr::Custom("the handler's own fault".to_owned()).into()),
            Some(Trouble::Panics) => panic!("the handler's own panic"),
            Some(Trouble::Hangs) => {
                self.0.hanging.notify_one();
                std::future::pending().await
            }
            Some(Trouble::Waits) => {
                self.0.trouble.lock().unwrap().remove(&event.member_id);
                self.0.hanging.notify_one();
                self.0.go_on.notified().await;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Handler for Counting {
    const TYPES: &'static [&'static str] = &[
        "couponmesh.member.v1.MemberRegistered",
        "couponmesh.member.v1.NotKnownHere",
    ];

    async fn handle(&self, tx: &Transaction, events: &[&Event]) -> Result<(), HandlerError> {
        for event in events {
            self.count(tx, event).await?;
        }
        Ok(())
    }
}

/// What is not exactly once: every registered member has to be counted once, and nothing else at all.
pub(crate) async fn violations(mesh: &Mesh) -> Vec<String> {
    violations_of(mesh, 1..=1).await
}

/// The same where what was published more than once may be handled so often.
pub(crate) async fn violations_of(mesh: &Mesh, times: RangeInclusive<i64>) -> Vec<String> {
    let facts = rows(
        &mesh.publisher,
        "SELECT member_id, CAST(1 AS BIGINT) AS count FROM facts",
    )
    .await;
    let counts = rows(&mesh.consumer, "SELECT member_id, count FROM counts").await;
    let mut violations = Vec::new();
    for id in facts.keys() {
        match counts.get(id).copied().unwrap_or(0) {
            count if times.contains(&count) => {}
            0 => violations.push(format!("{id} is lost")),
            count => violations.push(format!("{id} is counted {count} times")),
        }
    }
    let unheard_of = counts.keys().filter(|id| !facts.contains_key(id));
    violations.extend(unheard_of.map(|id| format!("{id} was never committed")));
    violations
}

async fn rows(store: &Store, sql: &str) -> HashMap<MemberId, i64> {
    let db = store.read();
    let rows = db.query_all_raw(statement(db, sql, None)).await;
    let pair = |row: &sea_orm::QueryResult| {
        (
            row.try_get("", "member_id").unwrap(),
            row.try_get("", "count").unwrap(),
        )
    };
    rows.unwrap().iter().map(pair).collect()
}
