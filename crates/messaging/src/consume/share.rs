//! Which replica reads which partitions: each is read by one at a time, and all have about as many.
//!
//! The shares spare double work and are no locks: who reads a partition that is no longer its own cannot move its
//! [position](super::positions). A replica that is killed loses its share within [`TERM`], one that stops gives it
//! back at once, and tells the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use sea_orm::{
    ActiveValue::Set, Condition, DbErr, FromQueryResult, entity::prelude::*, sea_query::OnConflict,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    lease::{ActiveModel, Column, Entity, Model, may_be_held_by},
    rows,
    signal::Topic,
    store::{Store, Transaction, unsynced},
};

/// How long a replica that died keeps its share.
const TERM: Duration = Duration::from_secs(6);
/// How often a share is renewed, and looked over.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// What the leases of readers and of partitions are called.
const READER: &str = "reader ";
const PARTITION: &str = "partition ";

type Names = BTreeSet<Arc<str>>;

/// A replica's share.
pub(super) struct Share {
    store: Store,
    /// Whether the others were told that this replica is there.
    announced: bool,
    /// Until when it leaves the partitions to others.
    away_until: Option<Instant>,
}

#[derive(FromQueryResult)]
struct Taken {
    name: String,
}

impl Share {
    pub(super) fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            announced: false,
            away_until: None,
        }
    }

    /// Renews the share of `all`, gives back what is more than it, and takes what is less. Where there is one process,
    /// all is its.
    pub(super) async fn claim(&mut self, all: &Names) -> Result<Names, DbErr> {
        if self.store.database().postgres().is_none() {
            return Ok(all.clone());
        }
        let tx = self.store.begin("share").await?;
        let leases = leases(&tx).await?;
        let is_away = self.away_until.is_some_and(|end| Instant::now() < end);
        let is_held = |lease: &Model| lease.is_held(tx.now(), TERM);
        let is_another = |lease: &Model| {
            lease.name.starts_with(READER) && lease.holder != self.store.replica() && is_held(lease)
        };
        if is_away && leases.iter().any(is_another) {
            return Ok(Names::new());
        }
        let plan = plan(&leases, self.store.replica(), all, is_held);
        if !plan.give.is_empty() {
            let names = plan.give.iter().map(|name| format!("{PARTITION}{name}"));
            self.delete(&tx, names.collect()).await?;
        }
        let reader = format!("{READER}{}", self.store.replica());
        let partitions = plan.take.iter().map(|name| format!("{PARTITION}{name}"));
        let taken = self.take(&tx, partitions.chain([reader])).await?;
        // Last, or two who do this and that would wait for each other.
        if !plan.gone.is_empty() {
            let gone = Entity::delete_many()
                .filter(Column::Name.is_in(rows::pad(plan.gone)))
                .filter(Column::EndTime.lt(tx.now()));
            gone.exec(&*tx).await?;
        }
        if !plan.give.is_empty() || !self.announced {
            self.store.signals().tell(&*tx, Topic::Share).await?;
        }
        tx.commit().await?;
        self.announced = true;
        let taken = taken.iter().filter_map(|name| name.strip_prefix(PARTITION));
        Ok(taken.map(Arc::from).collect())
    }

    /// Gives everything back, and leaves it to the others for a while, if there are any.
    pub(super) async fn leave(&mut self) {
        self.release().await;
        self.away_until = Some(Instant::now() + TERM);
    }

    /// Gives everything back, and tells the others.
    pub(super) async fn release(&mut self) {
        if !std::mem::take(&mut self.announced) {
            return;
        }
        let released = async {
            let tx = self.store.begin("share").await?;
            Entity::delete_many()
                .filter(Column::Holder.eq(self.store.replica()))
                .filter(ours())
                .exec(&*tx)
                .await?;
            self.store.signals().tell(&*tx, Topic::Share).await?;
            tx.commit().await
        };
        if let Err(error) = released.await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a share of the partitions was not given back; it ends by itself"
            );
        }
    }

    async fn delete(&self, tx: &Transaction, names: Vec<String>) -> Result<(), DbErr> {
        Entity::delete_many()
            .filter(Column::Holder.eq(self.store.replica()))
            .filter(Column::Name.is_in(rows::pad(names)))
            .exec(&**tx)
            .await?;
        Ok(())
    }

    /// Takes or renews leases that nobody else holds; which they were.
    async fn take(
        &self,
        tx: &Transaction,
        names: impl Iterator<Item = String>,
    ) -> Result<Vec<String>, DbErr> {
        let row = |name| ActiveModel {
            name: Set(name),
            holder: Set(self.store.replica()),
            end_time: Set(tx.now().plus(TERM)),
        };
        // In one order, so that two replicas do not deadlock.
        let names: BTreeSet<String> = names.collect();
        let is_free = may_be_held_by(self.store.replica(), tx.now(), TERM);
        let unless_held = OnConflict::column(Column::Name)
            .update_columns([Column::Holder, Column::EndTime])
            .action_and_where(is_free)
            .to_owned();
        let rows = names.into_iter().map(row).collect();
        let taken: Vec<Taken> =
            rows::insert_returning::<Entity, _, _, _>(&**tx, rows, unless_held, [Column::Name])
                .await?;
        Ok(taken.into_iter().map(|taken| taken.name).collect())
    }
}

fn ours() -> Condition {
    Condition::any()
        .add(Column::Name.starts_with(READER))
        .add(Column::Name.starts_with(PARTITION))
}

/// The leases of readers and partitions, in a transaction that waits for no disk: what a server that dies forgets of
/// them is claimed anew.
async fn leases(tx: &Transaction) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(ours())
        .filter(unsynced())
        .all(&**tx)
        .await
}

/// What to do about a share.
#[derive(Debug, PartialEq)]
struct Plan {
    /// To be taken or renewed.
    take: Names,
    /// To be given back.
    give: Names,
    /// The leases of replicas that died.
    gone: Vec<String>,
}

/// All replicas that plan by the same leases come to shares that differ by one at the most.
fn plan(leases: &[Model], me: Uuid, all: &Names, is_held: impl Fn(&Model) -> bool) -> Plan {
    let (held, over): (Vec<&Model>, Vec<&Model>) = leases.iter().partition(|lease| is_held(lease));
    let gone = over.iter().filter(|lease| lease.name.starts_with(READER));
    let gone = gone
        .filter(|lease| lease.holder != me)
        .map(|lease| lease.name.clone());
    let (mut readers, mut holders) = (BTreeSet::from([me]), BTreeMap::new());
    for lease in held {
        if lease.name.starts_with(READER) {
            readers.insert(lease.holder);
        } else if let Some(name) = lease.name.strip_prefix(PARTITION) {
            holders.insert(name, lease.holder);
        }
    }
    // Each has the whole part, and the first ones of them one more.
    let (part, rest) = (all.len() / readers.len(), all.len() % readers.len());
    let before_me = readers.iter().take_while(|reader| **reader < me).count();
    let quota = part + usize::from(before_me < rest);
    let is_mine = |name: &&Arc<str>| holders.get(name.as_ref()) == Some(&me);
    let is_free = |name: &&Arc<str>| !holders.contains_key(name.as_ref());
    let mine: Vec<&Arc<str>> = all.iter().filter(is_mine).collect();
    let kept = mine.iter().take(quota).copied();
    let free = all.iter().filter(is_free);
    Plan {
        take: kept.chain(free).take(quota).cloned().collect(),
        give: mine
            .iter()
            .skip(quota)
            .map(|name| (*name).clone())
            .collect(),
        gone: gone.collect(),
    }
}

#[cfg(test)]
mod tests {
    use couponmesh_runtime::Timestamp;

    use super::*;

    fn names(count: usize) -> Names {
        (0..count).map(|name| name.to_string().into()).collect()
    }

    /// Who holds what after each of `replicas` has planned several times in turns.
    fn settled(all: &Names, replicas: &[Uuid], leases: &mut Vec<Model>) -> Vec<usize> {
        let lease = |name: String, holder| Model {
            name,
            holder,
            end_time: Timestamp(0),
        };
        for _ in 0..3 {
            for &me in replicas {
                let plan = plan(leases, me, all, |_| true);
                leases.retain(|lease| lease.holder != me);
                leases.push(lease(format!("{READER}{me}"), me));
                for name in plan.take {
                    leases.push(lease(format!("{PARTITION}{name}"), me));
                }
            }
        }
        let held = |me: &Uuid| {
            let mine = leases.iter().filter(|lease| lease.holder == *me);
            mine.filter(|lease| lease.name.starts_with(PARTITION))
                .count()
        };
        replicas.iter().map(held).collect()
    }

    #[test]
    fn replicas_that_come_and_go_share_all_partitions() {
        let all = names(8);
        let replicas: Vec<Uuid> = (1..=10).map(Uuid::from_u128).collect();
        let mut leases = Vec::new();
        for count in [1, 2, 3, 10, 3, 1] {
            leases.retain(|lease: &Model| replicas[..count].contains(&lease.holder));
            let shares = settled(&all, &replicas[..count], &mut leases);
            let (most, least) = (shares.iter().max().unwrap(), shares.iter().min().unwrap());
            assert_eq!(shares.iter().sum::<usize>(), 8, "{shares:?}");
            assert!(most - least <= 1, "{shares:?}");
            let partitions = leases
                .iter()
                .filter(|lease| lease.name.starts_with(PARTITION));
            let names: BTreeSet<&str> = partitions.map(|lease| lease.name.as_str()).collect();
            assert_eq!(names.len(), 8, "each has one holder");
        }
    }

    #[test]
    fn what_another_holds_is_not_taken() {
        let (me, other) = (Uuid::from_u128(2), Uuid::from_u128(1));
        let lease = |name: &str, holder| Model {
            name: name.to_owned(),
            holder,
            end_time: Timestamp(0),
        };
        let leases = [
            lease("reader 1", other),
            lease("partition 0", other),
            lease("partition 1", other),
        ];
        let waiting = plan(&leases, me, &names(2), |_| true);
        assert_eq!(
            (waiting.take, waiting.give, waiting.gone),
            Default::default()
        );
        let over = plan(&leases, me, &names(2), |_| false);
        assert_eq!(
            (over.take, over.gone),
            (names(2), vec!["reader 1".to_owned()])
        );
    }
}
