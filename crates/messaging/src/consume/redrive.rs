//! Redrive: handles dead letters again that an operator asked for.
//!
//! The handler runs and the letter is closed in one transaction, so that wherever the process dies the event is either
//! handled and closed or neither. Nothing is published again: the letter holds the event, also when the bus has long
//! forgotten it.

use std::{sync::Arc, time::Duration};

use couponmesh_runtime::{backoff::Backoff, id::EventId, running::Running};
use sea_orm::DbErr;
use tokio_util::sync::CancellationToken;

use super::{Handler, MAX_ATTEMPTS, call, dead_letter::redriving};
use crate::{
    event::{HandlerError, Verdict},
    lease::Lease,
    store::Store,
};

/// How often the table is looked at: who flags a letter is another process.
const POLL: Duration = Duration::from_secs(1);

pub(crate) fn start<H: Handler>(store: &Store, handler: &Arc<H>, running: &Running) {
    let worker = Arc::new(Worker {
        store: store.clone(),
        handler: handler.clone(),
        stop: running.stopping(),
    });
    running.keep("redrive", move || {
        let worker = worker.clone();
        async move { worker.run().await }
    });
}

struct Worker<H> {
    store: Store,
    handler: Arc<H>,
    stop: CancellationToken,
}

/// What the worker is at.
struct AtHand {
    /// One replica at a time counts: attempts that several began at the same letter would look like failures.
    lease: Lease,
    /// The letter whose attempt is counted: an outage that it meets costs it no further count.
    counted: Option<EventId>,
    /// The letter whose count was stored by a commit that may or may not have taken place, and the count.
    doubtful: Option<(EventId, i32)>,
}

/// What came of one attempt.
enum Attempted {
    /// Handled, by this worker or by another.
    Done,
    /// The handler's own failure.
    Failed(HandlerError),
}

impl<H: Handler> Worker<H> {
    async fn run(&self) {
        let mut backoff = Backoff::new(self.store.random());
        let mut at_hand = AtHand {
            lease: Lease::new(&self.store, "redrive"),
            counted: None,
            doubtful: None,
        };
        while !self.stop.is_cancelled() {
            let pause = match self.next(&mut at_hand).await {
                Ok(true) => {
                    backoff.reset();
                    continue;
                }
                Ok(false) => {
                    backoff.reset();
                    POLL
                }
                Err(error) => {
                    tracing::warn!(
                        service = self.store.service(),
                        error = &error as &dyn std::error::Error,
                        "redrive of dead letters waits for the database"
                    );
                    backoff.next_pause()
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(event_id) = at_hand.counted {
            self.uncount(event_id).await;
        }
        at_hand.lease.release().await;
    }

    /// Deals with one letter; false when there is none. Errors are outages: the letter stays flagged.
    async fn next(&self, at_hand: &mut AtHand) -> Result<bool, DbErr> {
        let event_id = match at_hand.counted {
            Some(event_id) => event_id,
            None => match self.count(at_hand).await? {
                Some(event_id) => *at_hand.counted.insert(event_id),
                None => return Ok(false),
            },
        };
        match self.attempt(event_id).await? {
            Attempted::Done => {}
            Attempted::Failed(error) => {
                self.open_again(event_id, &error.to_string(), 1).await?;
            }
        }
        at_hand.counted = None;
        Ok(true)
    }

    /// Counts an attempt at the letter that is next: one that kills the process must not do so at every start.
    async fn count(&self, at_hand: &mut AtHand) -> Result<Option<EventId>, DbErr> {
        let service = self.store.service();
        loop {
            // Without a transaction, which on SQLite would keep writers waiting every second for nothing.
            if !redriving::any(self.store.read(), service).await? {
                return Ok(None);
            }
            if !at_hand.lease.hold().await? {
                return Ok(None);
            }
            let tx = self.store.begin("redrive.count").await?;
            let Some(letter) = redriving::take_first(&*tx, service).await? else {
                return Ok(None);
            };
            let id = letter.event_id;
            let attempts = match at_hand.doubtful {
                Some((doubtful, attempts)) if doubtful == id => attempts,
                _ => letter.redrive_attempts + 1,
            };
            if attempts <= MAX_ATTEMPTS {
                at_hand.doubtful = Some((id, attempts));
                redriving::count(&*tx, service, id, attempts).await?;
                tx.commit().await?;
                at_hand.doubtful = None;
                return Ok(Some(id));
            }
            // It never came to a verdict: each attempt ended with the process.
            drop(tx);
            let error = "the process died while handling the event";
            self.open_again(id, error, MAX_ATTEMPTS).await?;
        }
    }

    /// Handler and letter in one transaction.
    async fn attempt(&self, event_id: EventId) -> Result<Attempted, DbErr> {
        let tx = self.store.begin("redrive").await?;
        let service = self.store.service();
        let Some(letter) = redriving::take(&*tx, service, event_id).await? else {
            return Ok(Attempted::Done);
        };
        if let Err(error) = call(self.handler.as_ref(), &tx, &[&letter.to_event()]).await {
            return match (error.verdict(), error) {
                (Verdict::Wait, HandlerError::Storage(outage)) => Err(outage),
                (_, error) => Ok(Attempted::Failed(error)),
            };
        }
        redriving::close(&*tx, service, event_id, tx.now()).await?;
        tx.commit().await?;
        tracing::info!(service, event.id = %event_id, event.r#type = letter.event_type, member.id = %letter.member_id, "dead letter handled");
        Ok(Attempted::Done)
    }

    /// In a transaction of its own: that of the attempt never happened.
    async fn open_again(&self, event_id: EventId, error: &str, attempts: i32) -> Result<(), DbErr> {
        let service = self.store.service();
        tracing::error!(service, event.id = %event_id, error, "dead letter not handled; it is open as before");
        let tx = self.store.begin("redrive.failed").await?;
        redriving::open_again(&*tx, service, event_id, error, attempts).await?;
        tx.commit().await
    }

    /// Takes the count of an attempt back that met an outage until the service was stopped. Not waited for.
    async fn uncount(&self, event_id: EventId) {
        let uncounted = async {
            let tx = self.store.begin("redrive.count").await?;
            redriving::uncount(&*tx, self.store.service(), event_id).await?;
            tx.commit().await
        };
        if let Err(error) = uncounted.await {
            tracing::debug!(event.id = %event_id, error = &error as &dyn std::error::Error, "an attempt stays counted");
        }
    }
}
