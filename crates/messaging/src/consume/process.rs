//! Dealing with what was read: the handler's changes, the events that it causes and the positions commit in one
//! transaction. When that fails for a reason of the handler's own, each event is handled alone, and the one to blame
//! is parked as a dead letter.

use std::collections::{HashMap, HashSet};

use couponmesh_runtime::backoff::Backoff;
use sea_orm::DbErr;

use super::{
    Handler, MAX_ATTEMPTS, call,
    consumer::Consumer,
    dead_letter,
    positions::{self, Step},
    reader::Turn,
};
use crate::{
    bus::Delivery,
    event::{Event, HandlerError, Verdict},
};

/// Why a batch was left as it is.
pub(super) enum Left {
    /// The service is stopping.
    Stopped,
    /// Somebody else has moved one of the positions, or a commit that was taken for failed had taken place.
    Moved,
}

/// What came of one transaction.
enum Handled {
    Done,
    Moved,
}

/// How often what comes after each position was tried, by partition.
type Counts = HashMap<String, i32>;

impl<H: Handler> Consumer<H> {
    /// Deals with every event of `turns`, each of which is of another partition: handled or parked.
    pub(super) async fn process(&self, turns: &[Turn]) -> Result<(), Left> {
        // An event may have killed the process that handled it last. Until the first events of a partition are handled,
        // attempts are counted before the handler runs, so that such an event is found and parked.
        let careful = turns.iter().filter(|turn| turn.careful);
        let careful: Vec<Step> = careful.filter_map(Turn::whole).collect();
        let counts = self.count(&careful).await?;
        if counts.values().all(|attempts| *attempts <= 1) && self.together(turns, &counts).await? {
            return Ok(());
        }
        for turn in turns {
            let mut counted = counts.get(&*turn.partition).copied();
            let mut from = turn.from;
            for delivery in &turn.deliveries {
                let step = turn.step(from, delivery);
                from = delivery.place.sequence;
                match &delivery.event {
                    Some(event) => self.alone(event, step, counted.take()).await?,
                    None => self.pass(&step).await?,
                }
            }
        }
        Ok(())
    }

    /// Handles all in one transaction; false when one of them has to be looked for.
    async fn together(&self, turns: &[Turn], counts: &Counts) -> Result<bool, Left> {
        let steps: Vec<Step> = turns.iter().filter_map(Turn::whole).collect();
        let events = distinct(turns.iter().flat_map(|turn| &turn.deliveries));
        let mut backoff = Backoff::new(self.store.random());
        let mut waited = false;
        let left = loop {
            let error = match self.handle(&events, &steps).await {
                Ok(Handled::Done) => return Ok(true),
                Ok(Handled::Moved) => break Left::Moved,
                Err(error) => error,
            };
            match error.verdict() {
                Verdict::Wait => {
                    waited = true;
                    if self.wait(&error, &mut backoff).await.is_err() {
                        break Left::Stopped;
                    }
                }
                Verdict::Retry | Verdict::Park => return Ok(false),
            }
        };
        let counted = steps
            .iter()
            .filter(|step| counts.contains_key(&step.partition));
        for step in counted.filter(|_| waited) {
            self.uncount(step).await;
        }
        Err(left)
    }

    /// Handles one event until it is handled or parked. `counted` is its count when this attempt is counted already.
    async fn alone(&self, event: &Event, step: Step, mut counted: Option<i32>) -> Result<(), Left> {
        let mut backoff = Backoff::new(self.store.random());
        loop {
            let attempts = match counted.take() {
                Some(attempts) => attempts,
                None => self
                    .count(std::slice::from_ref(&step))
                    .await?
                    .remove(&step.partition)
                    .unwrap_or(1),
            };
            if attempts > MAX_ATTEMPTS {
                // It never came to a verdict: each attempt ended with the process.
                let error = "the process died while handling the event";
                return self.park(event, &step, error, attempts - 1).await;
            }
            let mut waited = false;
            loop {
                let error = match self.handle(&[event], std::slice::from_ref(&step)).await {
                    Ok(Handled::Done) => return Ok(()),
                    Ok(Handled::Moved) => {
                        if waited {
                            self.uncount(&step).await;
                        }
                        return Err(Left::Moved);
                    }
                    Err(error) => error,
                };
                match error.verdict() {
                    Verdict::Wait => {
                        waited = true;
                        if self.wait(&error, &mut backoff).await.is_err() {
                            self.uncount(&step).await;
                            return Err(Left::Stopped);
                        }
                    }
                    Verdict::Retry if attempts < MAX_ATTEMPTS => {
                        tracing::warn!(service = self.store.service(), event.id = %event.id, event.type = event.event_type, attempts, error = &error as &dyn std::error::Error, "event not handled; tried again");
                        self.pause(&mut backoff).await?;
                        break;
                    }
                    Verdict::Retry | Verdict::Park => {
                        return self.park(event, &step, &error.to_string(), attempts).await;
                    }
                }
            }
        }
    }

    /// Moves past what is not for this consumer.
    pub(super) async fn pass(&self, step: &Step) -> Result<(), Left> {
        let mut backoff = Backoff::new(self.store.random());
        loop {
            match self.handle(&[], std::slice::from_ref(step)).await {
                Ok(Handled::Done) => return Ok(()),
                Ok(Handled::Moved) => return Err(Left::Moved),
                Err(error) => self.wait(&error, &mut backoff).await?,
            }
        }
    }

    /// One transaction over `events`, which are all that lies in `steps`.
    async fn handle(&self, events: &[&Event], steps: &[Step]) -> Result<Handled, HandlerError> {
        let mut tx = self.store.begin("consumer").await?;
        let faults = self.store.faults();
        if faults.sabotaged("positions.compare") {
            call(self.handler.as_ref(), &tx, events).await?;
        }
        // First, so that whoever has lost its turn does no work for nothing, and nobody opens a partition meanwhile.
        if !positions::advance(&tx, steps).await? {
            return Ok(Handled::Moved);
        }
        if faults.sabotaged("positions.in_transaction") {
            tx.commit().await?;
            tx = self.store.begin("consumer").await?;
        }
        if !events.is_empty() && !faults.sabotaged("positions.compare") {
            call(self.handler.as_ref(), &tx, events).await?;
        }
        tx.commit().await?;
        Ok(Handled::Done)
    }

    /// Counts an attempt at what comes first in each of `steps`, so that an event that kills the process is found. Waits out
    /// outages: without this nothing else can go on.
    async fn count(&self, steps: &[Step]) -> Result<Counts, Left> {
        let mut backoff = Backoff::new(self.store.random());
        loop {
            match self.try_count(steps).await {
                Ok(Some(counts)) => return Ok(counts),
                Ok(None) => return Err(Left::Moved),
                Err(error) => self.wait(&error.into(), &mut backoff).await?,
            }
        }
    }

    async fn try_count(&self, steps: &[Step]) -> Result<Option<Counts>, DbErr> {
        let mut counts = Counts::new();
        if steps.is_empty() {
            return Ok(Some(counts));
        }
        let tx = self.store.begin("consumer.count").await?;
        for step in steps {
            match positions::count_attempt(&tx, step).await? {
                Some(attempts) => counts.insert(step.partition.clone(), attempts),
                None => return Ok(None),
            };
        }
        tx.commit().await?;
        Ok(Some(counts))
    }

    /// Takes back the count of an attempt that met an outage until the service was stopped, or another replica took the
    /// partition: however often that happens, an outage parks nothing. Not waited for.
    async fn uncount(&self, step: &Step) {
        let uncounted = async {
            let tx = self.store.begin("consumer.count").await?;
            positions::uncount_attempt(&*tx, step).await?;
            tx.commit().await
        };
        if let Err(error) = uncounted.await {
            tracing::debug!(
                partition = step.partition,
                error = &error as &dyn std::error::Error,
                "an attempt stays counted"
            );
        }
    }

    /// Puts `event` aside, so that the others go on. Waits out outages, as `count` does.
    async fn park(
        &self,
        event: &Event,
        step: &Step,
        error: &str,
        attempts: i32,
    ) -> Result<(), Left> {
        tracing::error!(service = self.store.service(), event.id = %event.id, event.r#type = event.event_type, member.id = %event.member_id, attempts, error, "event parked as a dead letter");
        let mut backoff = Backoff::new(self.store.random());
        loop {
            match self.try_park(event, step, error, attempts).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Left::Moved),
                Err(error) => self.wait(&error.into(), &mut backoff).await?,
            }
        }
    }

    /// Dead letter and position in one transaction.
    async fn try_park(
        &self,
        event: &Event,
        step: &Step,
        error: &str,
        attempts: i32,
    ) -> Result<bool, DbErr> {
        let tx = self.store.begin("consumer.park").await?;
        if !positions::advance(&tx, std::slice::from_ref(step)).await? {
            return Ok(false);
        }
        let consumer = self.store.service();
        dead_letter::park(&*tx, consumer, event, error, attempts, tx.now()).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn wait(&self, error: &HandlerError, backoff: &mut Backoff) -> Result<(), Left> {
        tracing::warn!(
            service = self.store.service(),
            error = error as &dyn std::error::Error,
            "consumer waits for the database"
        );
        self.pause(backoff).await
    }

    async fn pause(&self, backoff: &mut Backoff) -> Result<(), Left> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Left::Stopped),
            () = tokio::time::sleep(backoff.next_pause()) => Ok(()),
        }
    }
}

/// The events, each once: what was published twice need not be handled twice in one transaction.
fn distinct<'a>(deliveries: impl Iterator<Item = &'a Delivery>) -> Vec<&'a Event> {
    let mut seen = HashSet::new();
    deliveries
        .filter_map(|delivery| delivery.event.as_ref())
        .filter(|event| seen.insert(event.id))
        .collect()
}
