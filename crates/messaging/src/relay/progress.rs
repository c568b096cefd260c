//! What of the outbox is on the bus, as far as this relay knows.

use std::{ops::RangeInclusive, time::Duration};

use couponmesh_runtime::database::Reader;
use sea_orm::DbErr;
use tokio::time::Instant;

use super::{LOOK_AGAIN, POLL};
use crate::{
    bus::{BusError, Place, Publisher},
    checkpoint,
    event::Event,
    gaps::{Gaps, Writers},
    mark::{Aging, Mark},
    outbox,
    store::Store,
};

/// How much older than what is known the stored checkpoint may be. Storing costs a commit.
const STORE_DELAY: Duration = Duration::from_millis(250);
/// How often the bus is asked whether it still has what it took.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The same before something is published after so long in which nothing was: a server may have been away meanwhile
/// unnoticed, come back with less, and been filled up by others.
const IDLE: Duration = Duration::from_secs(1);
/// How long a bus has to go on without something before it counts as lost.
const CONFIRM: Duration = Duration::from_secs(2);
/// Gaps that are remembered. Behind so many nothing is read until some are filled or given up.
const MAX_GAPS: usize = 10_000;

/// Everything up to the newest position that was seen is on the bus, but for what its gaps hide.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    stored: checkpoint::Model,
    /// Where the checkpoint was when it was stored some time ago.
    aging: Aging,
    /// When the checkpoint is to be stored again; none while it is as it should be.
    store_at: Option<Instant>,
    newest: i64,
    gaps: Gaps,
    /// Where the bus has what was published last.
    latest: Option<Place>,
    /// The same when it was last seen that nothing is lost. A bus that loses its events between two such looks may have
    /// others at the latest place by the next one.
    checked: Option<Place>,
    check_at: Instant,
    /// The connection over which that was seen.
    connection: u64,
    /// Something was published over another one since: what came before may be lost, and that must not be forgotten by
    /// storing what came after.
    doubts: bool,
    /// When something was published last.
    published_at: Instant,
    /// Since when the bus does not have what it took; none while it has.
    missed_since: Option<Instant>,
    /// When it was last seen that nobody else has moved the checkpoint.
    seen_at: Instant,
}

/// What a look at the outbox found.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    late: Option<Late>,
    /// Rows after the newest position.
    newer: Vec<outbox::Model>,
    newer_positions: Vec<i64>,
}

/// A look into gaps.
#[derive(Clone, Debug)]
pub(super) struct Late {
    ranges: Vec<RangeInclusive<i64>>,
    /// Who wrote before the look.
    writers: Writers,
    rows: Vec<outbox::Model>,
    positions: Vec<i64>,
    /// Whether these are all rows that were there.
    all: bool,
}

impl Late {
    pub(super) fn new(
        ranges: Vec<RangeInclusive<i64>>,
        writers: Writers,
        rows: Vec<outbox::Model>,
        all: bool,
    ) -> Self {
        Self {
            positions: rows.iter().map(|row| row.seq).collect(),
            ranges,
            writers,
            rows,
            all,
        }
    }
}

impl Look {
    pub(super) fn new(late: Option<Late>, newer: Vec<outbox::Model>) -> Self {
        Self {
            newer_positions: newer.iter().map(|row| row.seq).collect(),
            late,
            newer,
        }
    }

    /// The events, in the order of their positions.
    pub(super) fn take_events(&mut self, source: &str) -> Vec<Event> {
        let late = self
            .late
            .as_mut()
            .map(|late| std::mem::take(&mut late.rows));
        let rows = late.unwrap_or_default().into_iter();
        let rows = rows.chain(std::mem::take(&mut self.newer));
        rows.map(|row| row.into_event(source)).collect()
    }
}

impl Progress {
    /// Begins at the stored checkpoint.
    pub(super) async fn load(store: &Store) -> Result<Self, DbErr> {
        let mut stored = checkpoint::load(store.read()).await?;
        let end = outbox::end(store.read()).await?;
        if stored.position > end {
            let (service, position) = (store.service(), stored.position);
            tracing::error!(
                service,
                position,
                end,
                "the relay's checkpoint is ahead of the outbox, as after a restore of some tables without the others: \
                 everything in the outbox is published again"
            );
            checkpoint::go_back(store, &stored, None).await?;
            stored = checkpoint::load(store.read()).await?;
        }
        Ok(Self::at(stored))
    }

    /// Nothing is known but the checkpoint.
    pub(super) fn at(stored: checkpoint::Model) -> Self {
        Self {
            newest: stored.position,
            latest: stored.place(),
            checked: stored.place(),
            check_at: Instant::now(),
            connection: 0,
            doubts: false,
            published_at: Instant::now(),
            missed_since: None,
            seen_at: Instant::now(),
            aging: Aging::default(),
            stored,
            store_at: None,
            gaps: Gaps::default(),
        }
    }

    /// How often events were to be published again.
    pub(super) fn rewinds(&self) -> i64 {
        self.stored.rewinds
    }

    /// Whether the bus has lost events; asked now and then, over each new connection, and before anything is published
    /// after a failure or a pause. A bus of several servers may answer before it knows everything again, so it is asked
    /// a second time.
    ///
    /// # Errors
    /// When the bus is away, or has to be asked again.
    pub(super) async fn has_bus_lost(
        &mut self,
        bus: &dyn Publisher,
        publishes: bool,
    ) -> Result<bool, BusError> {
        let connection = bus.connection();
        let is_due = self.missed_since.is_some()
            || Instant::now() >= self.check_at
            || connection != self.connection
            || (publishes && self.published_at.elapsed() >= IDLE);
        if !is_due {
            return Ok(false);
        }
        if self.bus_has_all(bus).await? {
            self.missed_since = None;
            self.connection = connection;
            self.doubts = false;
            self.checked = self.latest;
            self.check_at = Instant::now() + CHECK_INTERVAL;
            return Ok(false);
        }
        let missed_since = *self.missed_since.get_or_insert_with(Instant::now);
        if missed_since.elapsed() >= CONFIRM {
            return Ok(true);
        }
        Err(BusError(
            "it does not have what it took; it is asked again".into(),
        ))
    }

    async fn bus_has_all(&self, bus: &dyn Publisher) -> Result<bool, BusError> {
        for place in [self.checked, self.latest].into_iter().flatten() {
            if !bus.holds(place).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The bus may be another the next time.
    pub(super) fn doubt_bus(&mut self) {
        self.check_at = Instant::now();
    }

    /// Never again asks whether the bus has lost events: for a sabotage.
    pub(super) fn trust_bus(&mut self) {
        (self.checked, self.latest) = (None, None);
    }

    /// Gives up every position that is missing: for a sabotage.
    pub(super) fn forget_gaps(&mut self) {
        self.gaps = Gaps::default();
    }

    /// Looks for up to `limit` rows that are not on the bus.
    pub(super) async fn look(&mut self, db: &Reader, limit: usize) -> Result<Look, DbErr> {
        let mut room = limit;
        let mut late = None;
        if !self.gaps.is_empty() {
            let found = self.look_into_gaps(db, limit).await?;
            room -= found.rows.len();
            late = Some(found);
        }
        let mut newer = Vec::new();
        if room > 0 && self.gaps.len() < MAX_GAPS {
            newer = outbox::after(db, self.newest, room).await?;
        }
        Ok(Look::new(late, newer))
    }

    async fn look_into_gaps(&mut self, db: &Reader, limit: usize) -> Result<Late, DbErr> {
        let ranges = self.gaps.look();
        // In this order: what those committed who have ended by now is seen.
        let writers = outbox::writers(db).await?;
        let rows = outbox::within(db, &ranges, limit).await?;
        let all = rows.len() < limit;
        Ok(Late::new(ranges, writers, rows, all))
    }

    /// Everything that `look` found is on the bus, the furthest of it at `place`, over that connection.
    pub(super) fn published(&mut self, look: Look, place: Option<Place>, connection: u64) {
        // A place that is not further than the last may be of what was published before, or of another bus.
        let is_further = place.map(|at| at.sequence) > self.latest.map(|at| at.sequence);
        if is_further {
            if connection != self.connection {
                // What was published over the one before is what has to be looked for.
                self.checked = self.latest;
                self.doubts = true;
            }
            self.published_at = Instant::now();
            self.latest = place;
            // The first one: nothing older can be looked for.
            self.checked = self.checked.or(place);
        } else if place.is_some() {
            self.doubt_bus();
        }
        let before = self.position();
        if let Some(late) = look.late {
            self.gaps
                .looked(&late.ranges, &late.writers, &late.positions, late.all);
        }
        if let Some(&newest) = look.newer_positions.last() {
            self.gaps.note(self.newest, look.newer_positions);
            self.newest = newest;
        }
        if self.position() > before {
            self.store_at
                .get_or_insert_with(|| Instant::now() + STORE_DELAY);
        }
    }

    /// Everything up to here is on the bus.
    fn position(&self) -> i64 {
        self.gaps.first().map_or(self.newest, |first| first - 1)
    }

    /// Stores the checkpoint when it is time. False when somebody else has moved it.
    pub(super) async fn store_when_due(&mut self, store: &Store) -> Result<bool, DbErr> {
        match self.store_at {
            Some(time) if time <= Instant::now() => self.store(store).await,
            _ => Ok(true),
        }
    }

    /// Stores the checkpoint, unless it is stored. False when somebody else has moved it.
    pub(super) async fn store(&mut self, store: &Store) -> Result<bool, DbErr> {
        if self.store_at.is_none() || self.doubts || self.missed_since.is_some() {
            return Ok(true);
        }
        let (from, to) = self.to_store();
        let newest = to.place().map(|place| Mark {
            position: to.position,
            place,
        });
        let to = to.with_older(newest.and_then(|newest| self.aging.at(newest)));
        if !checkpoint::advance(store, &from, &to).await? {
            return Ok(false);
        }
        self.stored(to);
        Ok(true)
    }

    /// The checkpoint as it was stored, and as it is to be.
    pub(super) fn to_store(&self) -> (checkpoint::Model, checkpoint::Model) {
        let to = checkpoint::Model {
            position: self.position(),
            bus_sequence: self.latest.map(|place| place.sequence),
            bus_stamp: self.latest.map(|place| place.stamp),
            ..self.stored.clone()
        };
        (self.stored.clone(), to)
    }

    /// The checkpoint was stored.
    pub(super) fn stored(&mut self, checkpoint: checkpoint::Model) {
        self.stored = checkpoint;
        self.store_at = None;
        self.seen_at = Instant::now();
    }

    /// Whether nobody else has moved the checkpoint; looked at every now and then.
    pub(super) async fn is_as_stored(&mut self, db: &Reader) -> Result<bool, DbErr> {
        if self.seen_at.elapsed() < POLL {
            return Ok(true);
        }
        self.seen_at = Instant::now();
        Ok(checkpoint::load(db).await? == self.stored)
    }

    /// How long to wait for a wake-up.
    pub(super) fn pause(&self) -> Duration {
        let now = Instant::now();
        let store_in = self
            .store_at
            .map(|time| time.saturating_duration_since(now));
        let look_in = if self.gaps.is_empty() {
            POLL
        } else {
            LOOK_AGAIN
        };
        store_in.map_or(look_in, |pause| pause.min(look_in))
    }
}

/// What the model looks at.
#[cfg(test)]
impl Progress {
    pub(super) fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    pub(super) fn gaps_to_look_into(&mut self) -> Vec<RangeInclusive<i64>> {
        self.gaps.look()
    }

    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    /// What is the same in two that go on alike.
    pub(super) fn key(&self) -> String {
        let (stored, newest, gaps) = (self.stored.position, self.newest, self.gaps.key());
        format!("{stored} {newest} {gaps}")
    }
}

#[cfg(test)]
impl Look {
    pub(super) fn positions(&self) -> impl Iterator<Item = i64> {
        let late = self.late.iter().flat_map(|late| &late.positions);
        late.chain(&self.newer_positions).copied()
    }

    pub(super) fn key(&self) -> String {
        format!(
            "{} {:?}",
            Late::key(self.late.as_ref()),
            self.newer_positions
        )
    }
}

#[cfg(test)]
impl Late {
    pub(super) fn key(late: Option<&Self>) -> String {
        late.map_or_else(String::new, |late| {
            let writers: std::collections::BTreeSet<_> = late.writers.iter().collect();
            format!("{:?} {writers:?} {:?}", late.ranges, late.positions)
        })
    }
}
