//! A service's database to try many cases on, and deliveries as bad as a bus may make them.

use std::{collections::HashSet, future::Future};

use couponmesh_messaging::{Event, Handler, Store, migrations::bring_up, outbox};
use couponmesh_runtime::{
    Clock, Context, CorrelationId, Random, Timestamp,
    fault::Faults,
    id::{EventId, MemberId},
};
use couponmesh_testbed::Home;
use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};
use prost::{Message, Name};
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _};
use sea_orm_migration::MigratorTrait;
use tokio::runtime::Runtime;

const CASES: u32 = 128;
/// The time stands still: what depends on it is the same for every order.
pub(crate) const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

/// A service's database, used by all cases: each has members of its own.
pub(crate) struct Bench {
    pub(crate) store: Store,
    runtime: Runtime,
    _home: Home,
}

impl Bench {
    pub(crate) fn new<M: MigratorTrait>(service: &'static str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (home, database) = runtime.block_on(async {
            let home = Home::new(&[service]).await;
            let database = home.database(service).await;
            bring_up::<M>(&database).await.unwrap();
            (home, database)
        });
        let (clock, random) = (Clock::manual(NOW), Random::seeded(1));
        let replica = uuid::Uuid::nil();
        Self {
            store: Store::new(service, replica, database, clock, random, Faults::none()),
            runtime,
            _home: home,
        }
    }

    /// Tries `case` with many values.
    pub(crate) fn check<S: Strategy, F: Future<Output = ()>>(
        &self,
        values: S,
        case: impl Fn(S::Value) -> F,
    ) {
        let config = Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        };
        let checked = TestRunner::new(config).run(&values, |value| {
            self.runtime.block_on(case(value));
            Ok(())
        });
        if let Err(failure) = checked {
            panic!("{failure}");
        }
    }

    pub(crate) fn new_member(&self) -> MemberId {
        MemberId(self.store.new_id())
    }

    /// An event about a member.
    pub(crate) fn event<M: Message + Name>(&self, member_id: MemberId, message: &M) -> Event {
        Event {
            id: EventId(self.store.new_id()),
            event_type: M::full_name(),
            source: M::PACKAGE.split('.').nth(1).unwrap().to_owned(),
            member_id,
            time: NOW,
            context: context(),
            payload: message.encode_to_vec(),
        }
    }

    /// Hands a batch to a handler as the consumer does: each event once, all in one transaction.
    pub(crate) async fn deliver(&self, handler: &impl Handler, batch: &[&Event]) {
        let mut seen = HashSet::new();
        let batch: Vec<&Event> = batch
            .iter()
            .copied()
            .filter(|event| seen.insert(event.id))
            .collect();
        let tx = self.store.begin("property").await.unwrap();
        handler.handle(&tx, &batch).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The events that were caused about a member, in their order.
    pub(crate) async fn caused(&self, member_id: MemberId) -> Vec<outbox::Model> {
        let events = outbox::Entity::find()
            .filter(outbox::Column::MemberId.eq(member_id))
            .order_by_asc(outbox::Column::Seq);
        events.all(self.store.read()).await.unwrap()
    }
}

pub(crate) fn context() -> Context {
    Context::new(CorrelationId::parse("a-test").unwrap())
}

/// A delivery of `count` events: in any order, some of them more than once, cut into batches anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    order: Vec<Index>,
    again: Vec<(Index, Index)>,
    cuts: Vec<bool>,
}

pub(crate) fn delivery() -> impl Strategy<Value = Delivery> {
    (
        vec(any::<Index>(), 40),
        vec(any::<(Index, Index)>(), 0..8),
        vec(any::<bool>(), 48),
    )
        .prop_map(|(order, again, cuts)| Delivery { order, again, cuts })
}

impl Delivery {
    /// The batches, each item of `items` in at least one of them.
    pub(crate) fn batches<'a, T>(&self, items: &'a [T]) -> Vec<Vec<&'a T>> {
        assert!(items.len() <= self.order.len());
        if items.is_empty() {
            return Vec::new();
        }
        let mut delivered: Vec<&T> = Vec::new();
        for (item, place) in items.iter().zip(&self.order) {
            delivered.insert(place.index(delivered.len() + 1), item);
        }
        for (item, place) in &self.again {
            delivered.insert(place.index(delivered.len() + 1), item.get(items));
        }
        let mut batches = vec![Vec::new()];
        for (item, cut) in delivered.into_iter().zip(&self.cuts) {
            if *cut && batches.last().is_some_and(|batch| !batch.is_empty()) {
                batches.push(Vec::new());
            }
            batches.last_mut().unwrap().push(item);
        }
        batches
    }
}

/// A fixed time, `seconds` after a beginning.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + seconds * 1_000_000)
}

#[test]
fn every_item_is_delivered_at_least_once() {
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let items: Vec<usize> = (0..40).collect();
    let checked = TestRunner::new(config).run(&delivery(), |delivery| {
        let batches = delivery.batches(&items);
        prop_assert!(batches.iter().all(|batch| !batch.is_empty()));
        let delivered: HashSet<usize> = batches.concat().into_iter().copied().collect();
        prop_assert_eq!(delivered.len(), items.len());
        Ok(())
    });
    checked.unwrap();
}
