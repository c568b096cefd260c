//! What a replica reads: its share of the partitions, each from its position, and whether the bus has lost something.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use couponmesh_runtime::backoff::Backoff;
use futures::future::join_all;
use sea_orm::DbErr;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamMap;

use super::{
    positions::{self, Step},
    share::{LOOK, Share},
};
use crate::{
    bus::{Bus, BusError, Delivery, Partition, Place, Reading},
    mark::{self, Aging, Mark},
    store::Store,
};

/// How often the bus is asked whether it still has what was read last.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a bus has to go on without something before it counts as lost: one of several servers may answer before it
/// knows everything again.
const CONFIRM: Duration = Duration::from_secs(2);
/// How long the bus may be away from this replica before others get its share. It may be on the wrong side of a network.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum ReaderError {
    #[error("the positions cannot be read or written")]
    Storage(#[from] DbErr),
    #[error("the bus cannot be read")]
    Bus(#[from] BusError),
}

/// What came of one partition, in its order.
pub(super) struct Turn {
    pub(super) partition: Arc<str>,
    /// When the partition was opened, and the position before it.
    pub(super) epoch: i64,
    pub(super) from: i64,
    pub(super) deliveries: Vec<Delivery>,
    /// Whether it is the first since this replica reads the partition.
    pub(super) careful: bool,
}

impl Turn {
    /// From a position past one delivery.
    pub(super) fn step(&self, from: i64, delivery: &Delivery) -> Step {
        Step {
            partition: self.partition.to_string(),
            epoch: self.epoch,
            from,
            to: delivery.place,
        }
    }

    /// Past all of it.
    pub(super) fn whole(&self) -> Option<Step> {
        let last = self.deliveries.last()?;
        Some(self.step(self.from, last))
    }
}

/// Where one partition is read.
struct Position {
    /// When the partition was opened.
    epoch: i64,
    /// As it is stored.
    stored: i64,
    place: Option<Place>,
    /// Over what there is nothing for this consumer, and since when that is not stored.
    passed: Option<(Step, Instant)>,
    careful: bool,
    /// Where it was some time ago.
    aging: Aging,
}

/// What comes of the partitions of this replica.
pub(super) type Readings = StreamMap<Arc<str>, Reading>;

/// Which partitions this replica reads, and how far it is.
pub(super) struct Reader {
    store: Store,
    bus: Arc<dyn Bus>,
    types: &'static [&'static str],
    share: Share,
    /// What there is to read for all replicas; none while it has to be asked for.
    partitions: Option<Vec<Partition>>,
    positions: HashMap<Arc<str>, Position>,
    check_at: Instant,
    /// Since when the bus is away; none while it is not.
    failing_since: Option<Instant>,
    /// When a reading has ended last.
    ended_at: Instant,
}

impl Reader {
    pub(super) fn new(store: &Store, bus: &Arc<dyn Bus>, types: &'static [&'static str]) -> Self {
        Self {
            share: Share::new(store),
            partitions: None,
            positions: HashMap::new(),
            check_at: Instant::now() + CHECK_INTERVAL,
            failing_since: None,
            ended_at: Instant::now(),
            bus: bus.clone(),
            store: store.clone(),
            types,
        }
    }

    /// Gives the share back.
    pub(super) async fn release(&mut self) {
        self.share.release().await;
    }

    /// Reads what is this replica's to read and nothing else; how long to wait until the next look.
    pub(super) async fn look(
        &mut self,
        readings: &mut Readings,
        backoff: &mut Backoff,
    ) -> Duration {
        match self.try_look(readings).await {
            Ok(()) => {
                self.failing_since = None;
                // A reading that ends as soon as it is opened is opened less and less often.
                if self.ended_at.elapsed() > CHECK_INTERVAL {
                    backoff.reset();
                }
                LOOK
            }
            Err(error) => {
                let waits_for = match error {
                    ReaderError::Storage(_) => "consumer waits for the database",
                    ReaderError::Bus(_) => "consumer waits for the bus",
                };
                tracing::warn!(
                    service = self.store.service(),
                    error = &error as &dyn std::error::Error,
                    "{waits_for}"
                );
                self.partitions = None;
                // Others have no better way to the same database. One partition that cannot be opened is no reason to let
                // go of those that are read.
                if matches!(error, ReaderError::Bus(_)) && readings.is_empty() {
                    self.failing_since.get_or_insert_with(Instant::now);
                }
                backoff.next_pause()
            }
        }
    }

    async fn try_look(&mut self, readings: &mut Readings) -> Result<(), ReaderError> {
        if self
            .failing_since
            .is_some_and(|since| since.elapsed() > PATIENCE)
        {
            readings.clear();
            self.positions.clear();
            self.failing_since = None;
            self.share.leave().await;
        }
        let consumer = self.store.service();
        let all = match &self.partitions {
            Some(known) => known,
            None => {
                let found = self.bus.partitions(consumer, self.types).await?;
                self.partitions.insert(found)
            }
        };
        let names: BTreeSet<Arc<str>> = all.iter().map(|one| one.name.clone()).collect();
        let mine = self.share.claim(&names).await?;
        let is_mine = |name: &Arc<str>| mine.contains(name);
        for gone in self.positions.keys().filter(|name| !is_mine(name)) {
            readings.remove(gone);
        }
        self.positions.retain(|name, _| is_mine(name));
        for stored in positions::list(self.store.read()).await? {
            let known = self.positions.get(stored.partition.as_str());
            let place = |known: &Position| (known.epoch, known.stored);
            if known.is_some_and(|known| place(known) != (stored.epoch, stored.sequence)) {
                // An operator has moved it, or another replica has opened the partition.
                readings.remove(stored.partition.as_str());
            }
        }
        self.remember_older().await?;
        if self.has_lost_newest().await? {
            // Each is opened anew, and then seen to have lost something or not.
            readings.clear();
        }
        let missing = |one: &&Partition| is_mine(&one.name) && !readings.contains_key(&one.name);
        let missing = self.partitions.iter().flatten().filter(missing).cloned();
        let opening: Vec<_> = missing.map(|one| self.open(one)).collect();
        let mut outcome = Ok(());
        for opened in join_all(opening).await {
            match opened {
                Ok((name, position, reading)) => {
                    self.positions.insert(name.clone(), position);
                    readings.insert(name, reading);
                }
                // The others are read meanwhile.
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Stores where the positions were some minutes before, now and then.
    async fn remember_older(&mut self) -> Result<(), DbErr> {
        for (name, position) in &mut self.positions {
            let newest = position.place.map(|place| Mark {
                position: place.sequence,
                place,
            });
            if let Some(older) = newest.and_then(|newest| position.aging.at(newest)) {
                positions::remember_older(&self.store, name, position.epoch, older.place).await?;
            }
        }
        Ok(())
    }

    /// Begins to read one partition where its position is.
    async fn open(
        &self,
        partition: Partition,
    ) -> Result<(Arc<str>, Position, Reading), ReaderError> {
        let mut found = positions::open(&self.store, &partition, self.types).await?;
        if let Some(place) = found.place()
            && self.has_lost(&partition.name, place).await?
        {
            let holds = |place| self.bus.holds(&partition.name, place);
            let kept = mark::kept(found.older(), holds).await?;
            tracing::error!(
                service = self.store.service(),
                partition = found.partition,
                sequence = found.sequence,
                after = kept.map(|mark| mark.position),
                "the bus has lost events that were handled here; what it has after that position is read again, or all \
                 of it"
            );
            let tx = self.store.begin("positions").await?;
            found = positions::go_back(&tx, found, kept).await?;
            tx.commit().await?;
        }
        let consumer = self.store.service();
        let reading = self
            .bus
            .read(consumer, &partition.name, self.types, found.sequence)
            .await?;
        let position = Position {
            epoch: found.epoch,
            stored: found.sequence,
            place: found.place(),
            passed: None,
            careful: true,
            aging: Aging::default(),
        };
        Ok((partition.name, position, reading))
    }

    /// Whether the bus has lost what was at `place`, and does not come back to it.
    async fn has_lost(&self, partition: &str, place: Place) -> Result<bool, BusError> {
        if self.store.faults().sabotaged("positions.loss")
            || self.bus.holds(partition, place).await?
        {
            return Ok(false);
        }
        sleep(CONFIRM).await;
        Ok(!self.bus.holds(partition, place).await?)
    }

    /// Whether the bus has lost the last of what was read; asked now and then.
    async fn has_lost_newest(&mut self) -> Result<bool, BusError> {
        if Instant::now() < self.check_at {
            return Ok(false);
        }
        self.check_at = Instant::now() + CHECK_INTERVAL;
        let places = self.positions.iter();
        let places = places.filter_map(|(name, position)| Some((name, position.place?)));
        match places.max_by_key(|(_, place)| place.sequence) {
            Some((name, newest)) => self.has_lost(name, newest).await,
            None => Ok(false),
        }
    }

    /// What was read, by partition, and which readings have ended.
    pub(super) fn take_turns(
        &mut self,
        read: impl Iterator<Item = (Arc<str>, Result<Delivery, BusError>)>,
    ) -> (Vec<Turn>, Vec<Arc<str>>) {
        let mut turns: Vec<Turn> = Vec::new();
        let mut ended = Vec::new();
        for (name, read) in read {
            let delivery = match read {
                Ok(delivery) => delivery,
                Err(error) => {
                    tracing::warn!(
                        service = self.store.service(),
                        partition = &*name,
                        error = &error as &dyn std::error::Error,
                        "a partition is read anew"
                    );
                    ended.push(name);
                    continue;
                }
            };
            if let Some(turn) = turns.iter_mut().find(|turn| turn.partition == name) {
                turn.deliveries.push(delivery);
            } else if let Some(position) = self.positions.get(&name) {
                turns.push(Turn {
                    epoch: position.epoch,
                    from: position.stored,
                    careful: position.careful,
                    deliveries: vec![delivery],
                    partition: name,
                });
            }
        }
        if !ended.is_empty() {
            // There may be other partitions now.
            self.partitions = None;
            self.ended_at = Instant::now();
        }
        (turns, ended)
    }

    /// The step over events of others, to be stored later.
    pub(super) fn passes_over(&mut self, step: Step) {
        if let Some(position) = self.positions.get_mut(step.partition.as_str()) {
            let since = position.passed.take().map(|(_, since)| since);
            position.passed = Some((step, since.unwrap_or_else(Instant::now)));
        }
    }

    /// The steps over events of others that are not stored for so long.
    pub(super) fn passed_over(&self, unstored_for: Duration) -> Vec<Step> {
        let passed = self
            .positions
            .values()
            .filter_map(|one| one.passed.as_ref());
        let due = passed.filter(|(_, since)| since.elapsed() >= unstored_for);
        due.map(|(step, _)| step.clone()).collect()
    }

    /// A step is stored.
    pub(super) fn is_at(&mut self, step: &Step) {
        if let Some(position) = self.positions.get_mut(step.partition.as_str()) {
            position.stored = step.to.sequence;
            position.place = Some(step.to);
            position.passed = None;
            position.careful = false;
        }
    }

    /// Tells the bus how far the consumer is.
    pub(super) async fn acknowledge(&self, turns: Vec<Turn>) {
        let last = turns
            .into_iter()
            .filter_map(|mut turn| turn.deliveries.pop());
        let receipts = last.filter_map(|delivery| delivery.receipt).collect();
        self.bus.passed(receipts).await;
    }
}
