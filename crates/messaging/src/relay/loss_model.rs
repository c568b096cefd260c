//! Every interleaving of a relay, a reader, another publisher and a bus that loses its tail, twice and anywhere: each
//! event of the outbox is handled in the end.
//!
//! What is modelled is what the real ones do. The relay looks whether the bus has what it published, at any time and over
//! each new connection. What it publishes may still arrive over another connection than it looked over: then it keeps
//! the furthest place of the one before, and stores nothing until it has looked. It goes back to an older place that the
//! bus still has; the reader does likewise with its position. When the bus loses something, everybody loses the
//! connection. That rows which commit late are not skipped, and that two relays or two readers do no harm, is for the
//! models of the relay and of the consumer.

use std::collections::HashSet;

/// Rows of the outbox.
const ROWS: u8 = 2;

/// How often at the most something happens that nobody here does.
#[derive(Clone, Copy)]
struct Bounds {
    /// Others publish.
    others: u8,
    /// The bus loses a part of what it has.
    losses: u8,
    /// An answer of the bus is lost.
    lost_answers: u8,
    /// Relay and reader die.
    crashes: u8,
    /// Time passes for the older places.
    ages: u8,
}

/// What is switched off, to see that the model finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sabotage {
    Nothing,
    /// The relay forgets the furthest place of the connection before.
    Checked,
    /// It stores what it has published over a new connection before it looks.
    Doubts,
    /// It goes back to the older place without a look whether the bus has it.
    Older,
    /// The reader trusts its position.
    Reader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    /// A row, and how often the relay had gone back when it was published.
    Ours(u8, u8),
    Theirs(u8),
}

/// A position on the bus, from 1, and the event there.
type Place = (usize, Event);
/// The same for who reads it, and knows when the bus took it.
type Stamped = (usize, Event, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Checkpoint {
    position: u8,
    place: Option<Place>,
    older: Option<(u8, Place)>,
    rewinds: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Relay {
    newest: u8,
    latest: Option<Place>,
    checked: Option<Place>,
    /// Over which connection it was seen that nothing is lost; none when that has to be seen first.
    connection: Option<u8>,
    /// It has published over another connection than that, and not looked since: what it knows is not stored.
    doubts: bool,
    /// It has looked, and is about to publish.
    sends: bool,
    /// Where the server has what is under way.
    under_way: Option<Place>,
}

impl Relay {
    fn at(stored: Checkpoint) -> Self {
        Self {
            newest: stored.position,
            latest: stored.place,
            checked: stored.place,
            connection: None,
            doubts: false,
            sends: false,
            under_way: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    bus: Vec<(Event, u8)>,
    time: u8,
    /// How often the bus has lost something, and everybody the connection.
    connection: u8,
    others: u8,
    lost_answers: u8,
    crashes: u8,
    ages: u8,
    relay: Relay,
    stored: Checkpoint,
    /// Over which connection the partition is read.
    reading: Option<u8>,
    position: Option<Stamped>,
    older: Option<Stamped>,
    handled: [bool; ROWS as usize],
}

impl World {
    fn new() -> Self {
        let stored = Checkpoint {
            position: 0,
            place: None,
            older: None,
            rewinds: 0,
        };
        Self {
            bus: Vec::new(),
            time: 0,
            connection: 0,
            others: 0,
            lost_answers: 0,
            crashes: 0,
            ages: 0,
            relay: Relay::at(stored),
            stored,
            reading: None,
            position: None,
            older: None,
            handled: [false; ROWS as usize],
        }
    }

    fn holds(&self, (position, event): Place) -> bool {
        self.bus
            .get(position - 1)
            .is_some_and(|(one, _)| *one == event)
    }

    fn holds_stamped(&self, (position, event, time): Stamped) -> bool {
        self.bus.get(position - 1) == Some(&(event, time))
    }

    fn append(&mut self, event: Event) -> Place {
        self.time += 1;
        self.bus.push((event, self.time));
        (self.bus.len(), event)
    }

    /// The relay looks whether the bus has what it took, and goes back where it has not.
    fn look(&mut self, sabotage: Sabotage) {
        let places = [self.relay.checked, self.relay.latest];
        if places.into_iter().flatten().all(|place| self.holds(place)) {
            self.relay.checked = self.relay.latest;
            self.relay.connection = Some(self.connection);
            self.relay.doubts = false;
            return;
        }
        let kept = self.stored.older.filter(|(position, place)| {
            *position <= self.stored.position && (sabotage == Sabotage::Older || self.holds(*place))
        });
        self.stored.position = kept.map_or(0, |(position, _)| position);
        self.stored.place = kept.map(|(_, place)| place);
        self.stored.rewinds += 1;
        self.relay = Relay::at(self.stored);
    }

    /// It is about to publish the next row, unless it has to look first.
    fn publish(&mut self, sabotage: Sabotage) {
        if self.relay.connection != Some(self.connection) {
            self.look(sabotage);
        } else {
            self.relay.sends = self.relay.newest < ROWS;
        }
    }

    /// What it publishes arrives, over whatever connection there is by now.
    fn send(&mut self) {
        if std::mem::take(&mut self.relay.sends) {
            let (row, rewinds) = (self.relay.newest, self.stored.rewinds);
            let place = self.append(Event::Ours(row, rewinds));
            self.relay.under_way = Some(place);
        }
    }

    /// It hears that the server has what was under way.
    fn hear(&mut self, sabotage: Sabotage) {
        let Some(place) = self.relay.under_way.take() else {
            return;
        };
        if self.relay.latest.is_none_or(|latest| place.0 > latest.0) {
            if self.relay.connection != Some(self.connection) {
                self.relay.doubts = sabotage != Sabotage::Doubts;
                if sabotage != Sabotage::Checked {
                    self.relay.checked = self.relay.latest;
                }
            }
            self.relay.latest = Some(place);
        } else {
            self.relay.connection = None;
        }
        self.relay.newest += 1;
    }

    fn store(&mut self) {
        if self.relay.doubts {
            return;
        }
        self.stored.position = self.relay.newest;
        self.stored.place = self.relay.latest;
    }

    /// The reader opens the partition, or reads what comes next.
    fn read(&mut self, sabotage: Sabotage) {
        if self.reading != Some(self.connection) {
            self.reading = Some(self.connection);
            let is_lost = self
                .position
                .is_some_and(|place| !self.holds_stamped(place));
            if is_lost && sabotage != Sabotage::Reader {
                let position = self.position.map_or(0, |place| place.0);
                let kept = |older: &Stamped| older.0 <= position && self.holds_stamped(*older);
                self.position = self.older.filter(kept);
            }
            return;
        }
        let after = self.position.map_or(0, |place| place.0);
        if let Some(&(event, time)) = self.bus.get(after) {
            self.position = Some((after + 1, event, time));
            if let Event::Ours(row, _) = event {
                self.handled[usize::from(row)] = true;
            }
        }
    }

    /// Every world that may come next.
    fn next(&self, bounds: Bounds, sabotage: Sabotage) -> Vec<Self> {
        let mut worlds = Vec::new();
        let mut may = |step: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            step(&mut world);
            worlds.push(world);
        };
        if self.relay.sends {
            may(&Self::send);
        } else if self.relay.under_way.is_some() {
            may(&|world| world.hear(sabotage));
            if self.lost_answers < bounds.lost_answers {
                // It is published again.
                may(&|world| {
                    world.lost_answers += 1;
                    world.relay.under_way = None;
                    world.relay.connection = None;
                });
            }
        } else {
            may(&|world| world.publish(sabotage));
            may(&|world| world.look(sabotage));
            may(&Self::store);
        }
        may(&|world| world.read(sabotage));
        if self.others < bounds.others {
            may(&|world| {
                world.others += 1;
                world.append(Event::Theirs(world.others));
            });
        }
        if self.connection < bounds.losses {
            for kept in 0..self.bus.len() {
                may(&|world| {
                    world.bus.truncate(kept);
                    world.connection += 1;
                });
            }
        }
        if self.crashes < bounds.crashes {
            may(&|world| {
                world.crashes += 1;
                world.relay = Relay::at(world.stored);
                world.reading = None;
            });
        }
        if self.ages < bounds.ages {
            may(&|world| {
                world.ages += 1;
                let stored = world.stored;
                world.stored.older = stored.place.map(|place| (stored.position, place));
                world.older = world.position;
            });
        }
        worlds
    }

    /// Lets everybody go on without further faults, and looks at the end of it.
    fn check_end(mut self, sabotage: Sabotage) -> Result<(), String> {
        let begin = self.clone();
        // The two find what is lost, and do again what followed.
        for _ in 0..4 * (ROWS + 2) {
            self.send();
            self.hear(sabotage);
            self.publish(sabotage);
            self.send();
            self.hear(sabotage);
            self.look(sabotage);
            self.read(sabotage);
            self.read(sabotage);
        }
        match self.handled.iter().position(|handled| !handled) {
            None => Ok(()),
            Some(row) => Err(format!("{row} is lost: {begin:?}")),
        }
    }
}

/// All worlds that can be reached; how many they are.
fn explore(bounds: Bounds, sabotage: Sabotage) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let mut open = vec![World::new()];
    while let Some(world) = open.pop() {
        if seen.contains(&world) {
            continue;
        }
        world.clone().check_end(sabotage)?;
        open.extend(world.next(bounds, sabotage));
        seen.insert(world);
    }
    Ok(seen.len())
}

/// Together they would be too many worlds for a test.
const DYING: Bounds = Bounds {
    others: 1,
    losses: 1,
    lost_answers: 0,
    crashes: 1,
    ages: 0,
};
const AGEING: Bounds = Bounds {
    others: 1,
    losses: 1,
    lost_answers: 0,
    crashes: 0,
    ages: 1,
};

#[test]
fn no_loss_of_the_bus_loses_an_event() {
    for bounds in [DYING, AGEING] {
        let worlds = explore(bounds, Sabotage::Nothing).unwrap();
        assert!(worlds > 10_000, "{worlds}");
    }
}

#[test]
fn the_model_goes_red_for_each_protection_that_is_taken_away() {
    for (bounds, sabotage) in [
        (DYING, Sabotage::Checked),
        (DYING, Sabotage::Doubts),
        (AGEING, Sabotage::Older),
        (DYING, Sabotage::Reader),
    ] {
        assert!(explore(bounds, sabotage).unwrap_err().contains("is lost"));
    }
}
