//! Every interleaving of three writers, two relays that both believe to hold the lease, and a crash of
//! one of them anywhere: what the checkpoint says to be on the bus is there, and in the end everything
//! that was committed is.
//!
//! The relays are the real ones in all that they decide ([`Progress`], its gaps); database and bus are
//! sets, and each of their reads and writes is a step of its own, between which anything may happen.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use couponmesh_runtime::{
    Timestamp,
    id::{EventId, MemberId},
};
use uuid::Uuid;

use super::progress::{Late, Look, Progress};
use crate::{checkpoint, gaps::Writers, outbox};

/// Transactions that write one row each. They take positions in this order.
const WRITERS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    NotBegun,
    Open,
    Committed,
    Aborted,
}

/// What a relay does next.
#[derive(Clone, Debug)]
enum Step {
    AskWhoWrites,
    LookIntoGaps(Writers),
    LookForNewer(Option<Late>),
    Publish(Look),
    Store,
}

#[derive(Clone, Debug)]
struct Relay {
    progress: Progress,
    step: Step,
}

/// What is switched off, to see that the model finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sabotage {
    Nothing,
    /// Gaps are given up at once.
    Gaps,
    /// The checkpoint moves before the bus has the events.
    Order,
}

#[derive(Clone, Debug)]
struct World {
    writers: [Writer; WRITERS],
    /// Positions of rows on the bus.
    bus: BTreeSet<i64>,
    checkpoint: checkpoint::Model,
    /// None when it has died.
    relays: [Option<Relay>; 2],
}

fn row(seq: i64) -> outbox::Model {
    outbox::Model {
        seq,
        event_id: EventId(Uuid::nil()),
        event_type: String::new(),
        member_id: MemberId(Uuid::nil()),
        correlation_id: String::new(),
        causation_id: None,
        traceparent: None,
        payload: Vec::new(),
        create_time: Timestamp(0),
    }
}

impl World {
    fn new() -> Self {
        let checkpoint = checkpoint::Model {
            name: checkpoint::RELAY.to_owned(),
            position: 0,
            bus_sequence: None,
            bus_stamp: None,
            older_position: None,
            older_sequence: None,
            older_stamp: None,
            rewinds: 0,
        };
        let relay = Relay {
            progress: Progress::at(checkpoint.clone()),
            step: Step::AskWhoWrites,
        };
        Self {
            writers: [Writer::NotBegun; WRITERS],
            bus: BTreeSet::new(),
            checkpoint,
            relays: [Some(relay.clone()), Some(relay)],
        }
    }

    /// The rows that others see.
    fn rows(&self) -> impl Iterator<Item = i64> {
        let committed = |(at, writer): (usize, &Writer)| {
            (*writer == Writer::Committed).then(|| i64::try_from(at + 1).unwrap())
        };
        self.writers.iter().enumerate().filter_map(committed)
    }

    fn who_writes(&self) -> Writers {
        let open = self.writers.iter().enumerate();
        let open = open.filter(|(_, writer)| **writer == Writer::Open);
        Arc::new(open.map(|(at, _)| at.to_string()).collect())
    }

    /// What is the same in two worlds that go on alike.
    fn key(&self) -> String {
        let relays = self.relays.iter().flatten().map(|relay| {
            let progress = relay.progress.key();
            match &relay.step {
                Step::AskWhoWrites => format!("{progress} ask"),
                Step::LookIntoGaps(writers) => {
                    let writers: BTreeSet<_> = writers.iter().collect();
                    format!("{progress} gaps {writers:?}")
                }
                Step::LookForNewer(late) => {
                    format!("{progress} newer {}", Late::key(late.as_ref()))
                }
                Step::Publish(look) => format!("{progress} publish {}", look.key()),
                Step::Store => format!("{progress} store"),
            }
        });
        // Which of the relays is which makes no difference.
        let mut relays: Vec<String> = relays.collect();
        relays.sort();
        let (writers, bus, position) = (&self.writers, &self.bus, self.checkpoint.position);
        format!("{writers:?} {bus:?} {position} {relays:?}")
    }

    /// Every world that may come next.
    fn next(&self, sabotage: Sabotage) -> Vec<Self> {
        let mut worlds = Vec::new();
        for at in 0..WRITERS {
            let becomes: &[Writer] = match self.writers[at] {
                Writer::NotBegun if at == 0 || self.writers[at - 1] != Writer::NotBegun => {
                    &[Writer::Open]
                }
                Writer::Open => &[Writer::Committed, Writer::Aborted],
                _ => &[],
            };
            for &writer in becomes {
                let mut world = self.clone();
                world.writers[at] = writer;
                worlds.push(world);
            }
        }
        for at in 0..self.relays.len() {
            let mut world = self.clone();
            if world.take_step(at, sabotage) {
                worlds.push(world);
            }
        }
        // One crash, anywhere; the other one goes on, and stands for whoever takes over, too.
        if let [Some(_), Some(_)] = &self.relays {
            let mut world = self.clone();
            world.relays[0] = None;
            worlds.push(world);
        }
        worlds
    }

    /// One step of a relay; false when it has died.
    fn take_step(&mut self, at: usize, sabotage: Sabotage) -> bool {
        let Some(Relay { mut progress, step }) = self.relays[at].take() else {
            return false;
        };
        let step = match step {
            Step::AskWhoWrites if progress.has_gaps() => Step::LookIntoGaps(self.who_writes()),
            Step::AskWhoWrites => Step::LookForNewer(None),
            Step::LookIntoGaps(writers) => {
                let ranges = progress.gaps_to_look_into();
                let found = self
                    .rows()
                    .filter(|seq| ranges.iter().any(|gap| gap.contains(seq)));
                let rows: Vec<_> = found.map(row).collect();
                Step::LookForNewer(Some(Late::new(ranges, writers, rows, true)))
            }
            Step::LookForNewer(late) => {
                let newer = self.rows().filter(|seq| *seq > progress.newest());
                let look = Look::new(late, newer.map(row).collect());
                if sabotage == Sabotage::Order {
                    let mut early = look.clone();
                    early.take_events("");
                    progress.published(early, None, 0);
                    self.store(&mut progress);
                }
                Step::Publish(look)
            }
            Step::Publish(mut look) => {
                self.bus.extend(look.positions());
                look.take_events("");
                progress.published(look, None, 0);
                if sabotage == Sabotage::Gaps {
                    progress.forget_gaps();
                }
                Step::Store
            }
            Step::Store => {
                if !self.store(&mut progress) {
                    progress = Progress::at(self.checkpoint.clone());
                }
                Step::AskWhoWrites
            }
        };
        self.relays[at] = Some(Relay { progress, step });
        true
    }

    /// As the statement does it: only when nobody else has moved the checkpoint.
    fn store(&mut self, progress: &mut Progress) -> bool {
        let (from, to) = progress.to_store();
        if from != self.checkpoint {
            return false;
        }
        self.checkpoint = to.clone();
        progress.stored(to);
        true
    }

    /// # Errors
    /// What is wrong in this world.
    fn check(&self) -> Result<(), String> {
        let lost = self
            .rows()
            .find(|seq| *seq <= self.checkpoint.position && !self.bus.contains(seq));
        lost.map_or(Ok(()), |seq| {
            Err(format!("{seq} is skipped: {}", self.key()))
        })
    }

    /// Lets the first relay that lives go on alone, and looks at the end of it.
    fn check_end(mut self) -> Result<(), String> {
        let at = usize::from(self.relays[0].is_none());
        // Each round has at most five steps, and settles something.
        for _ in 0..5 * (WRITERS + 3) {
            self.take_step(at, Sabotage::Nothing);
            self.check()?;
        }
        let missing: Vec<i64> = self.rows().filter(|seq| !self.bus.contains(seq)).collect();
        let last = self
            .writers
            .iter()
            .rposition(|writer| *writer == Writer::Committed);
        let end = last.map_or(0, |at| i64::try_from(at + 1).unwrap());
        if missing.is_empty() && self.checkpoint.position >= end {
            return Ok(());
        }
        Err(format!(
            "{missing:?} is never published, or not noted: {}",
            self.key()
        ))
    }
}

/// All worlds that can be reached; how many they are.
fn explore(sabotage: Sabotage) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let mut open = vec![World::new()];
    while let Some(world) = open.pop() {
        if !seen.insert(world.key()) {
            continue;
        }
        world.check()?;
        let all_ended = |writer: &Writer| matches!(writer, Writer::Committed | Writer::Aborted);
        if sabotage == Sabotage::Nothing && world.writers.iter().all(all_ended) {
            world.clone().check_end()?;
        }
        open.extend(world.next(sabotage));
    }
    Ok(seen.len())
}

#[test]
fn no_interleaving_of_writers_relays_and_a_crash_loses_an_event() {
    let worlds = explore(Sabotage::Nothing).unwrap();
    assert!(worlds > 10_000, "{worlds}");
}

#[test]
fn the_model_goes_red_when_gaps_are_given_up_at_once() {
    assert!(explore(Sabotage::Gaps).unwrap_err().contains("is skipped"));
}

#[test]
fn the_model_goes_red_when_the_checkpoint_moves_before_the_bus_has_the_events() {
    assert!(explore(Sabotage::Order).unwrap_err().contains("is skipped"));
}
