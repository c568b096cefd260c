//! The consumer's loop: has the reader look which partitions are its own, takes what comes of them, and deals with it.

use std::{sync::Arc, time::Duration};

use couponmesh_runtime::{backoff::Backoff, running::Running};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Handler,
    positions::Step,
    process::Left,
    reader::{Reader, Readings, Turn},
};
use crate::{bus::Bus, pace::Pace, signal::Topic, store::Store};

/// How long a position may lag behind where there is nothing for this consumer.
const PASS_AFTER: Duration = Duration::from_secs(5);

/// Starts reading what this replica has to read.
pub(crate) fn start<H: Handler>(
    store: &Store,
    bus: &Arc<dyn Bus>,
    handler: &Arc<H>,
    batch: usize,
    running: &Running,
) {
    let (store, bus, handler, stop) = (
        store.clone(),
        bus.clone(),
        handler.clone(),
        running.stopping(),
    );
    running.keep("consumer", move || {
        let consumer = Consumer {
            store: store.clone(),
            handler: handler.clone(),
            batch,
            stop: stop.clone(),
        };
        consumer.run(Reader::new(&store, &bus, H::TYPES))
    });
}

/// What deals with events.
pub(super) struct Consumer<H> {
    pub(super) store: Store,
    pub(super) handler: Arc<H>,
    batch: usize,
    pub(super) stop: CancellationToken,
}

impl<H: Handler> Consumer<H> {
    async fn run(self, mut reader: Reader) {
        let mut backoff = Backoff::new(self.store.random());
        let mut pace = Pace::of(&self.store);
        let mut changes = self.store.signals().listen(Topic::Share);
        let mut look_at = Instant::now();
        let mut readings = Readings::new();
        let mut read = Vec::new();
        loop {
            pace.keep().await;
            let is_reading = !readings.is_empty();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = sleep_until(look_at) => {
                    let steps = reader.passed_over(PASS_AFTER);
                    match self.pass_all(steps, &mut reader).await {
                        Ok(()) => {}
                        Err(Left::Stopped) => break,
                        Err(Left::Moved) => readings.clear(),
                    }
                    let pause = tokio::select! {
                        pause = reader.look(&mut readings, &mut backoff) => pause,
                        () = self.stop.cancelled() => break,
                    };
                    look_at = Instant::now() + pause;
                    continue;
                }
                _ = changes.next() => {
                    look_at = Instant::now();
                    continue;
                }
                // Takes all that came. The scheduler would end the batch after 128 of them.
                _ = unconstrained(readings.next_many(&mut read, self.batch)), if is_reading => {}
            }
            let begun = Instant::now();
            let is_full = read.len() >= self.batch;
            let (turns, ended) = reader.take_turns(read.drain(..));
            if !ended.is_empty() {
                look_at = look_at.min(Instant::now() + backoff.next_pause());
            }
            for name in ended.iter() {
                readings.remove(name);
            }
            let names: Vec<Arc<str>> = turns.iter().map(|turn| turn.partition.clone()).collect();
            match self.deal_with(turns, &mut reader).await {
                Ok(()) if ended.is_empty() => backoff.reset(),
                Ok(()) => {}
                Err(Left::Stopped) => break,
                Err(Left::Moved) => {
                    // Each is read anew from where it is stored.
                    for name in &names {
                        readings.remove(name);
                    }
                    // Not at once, or two that take a partition for theirs would keep each other from it for good.
                    look_at = look_at.min(Instant::now() + backoff.next_pause());
                }
            }
            if !is_full {
                pace.rest(begun);
            }
        }
        // So that nothing is kept for this service that it does not want.
        let steps = reader.passed_over(Duration::ZERO);
        let _ = self.pass_all(steps, &mut reader).await;
        reader.release().await;
    }

    async fn pass_all(&self, steps: Vec<Step>, reader: &mut Reader) -> Result<(), Left> {
        for step in steps {
            self.pass(&step).await?;
            reader.is_at(&step);
        }
        Ok(())
    }

    async fn deal_with(&self, turns: Vec<Turn>, reader: &mut Reader) -> Result<(), Left> {
        let (wanted, passed): (Vec<Turn>, Vec<Turn>) = turns
            .into_iter()
            .partition(|turn| turn.deliveries.iter().any(|one| one.event.is_some()));
        // A commit only to pass over what others want is not worth it, but for now and then.
        for step in passed.iter().filter_map(Turn::whole) {
            reader.passes_over(step);
        }
        if !wanted.is_empty() {
            self.process(&wanted).await?;
            for step in wanted.iter().filter_map(Turn::whole) {
                reader.is_at(&step);
            }
        }
        reader.acknowledge(wanted).await;
        Ok(())
    }
}
