//! Counting attempts in the inbox, so that an event that kills the process is found.

use std::collections::HashMap;

use couponmesh_runtime::{backoff::Backoff, id::EventId};
use sea_orm::DbErr;

use super::{Consumer, Handler, Stopped};
use crate::{event::Event, inbox};

impl<H: Handler> Consumer<H> {
    /// Counts an attempt at each event that is not dealt with; returns their counts. None, and nothing is
    /// counted, when `first` and one of them was tried before: then each is counted right before its own
    /// attempt, or all would bear the blame for the one that ends the process. Waits out outages: without
    /// this nothing else can go on.
    pub(super) async fn count(
        &self,
        events: &[&Event],
        first: bool,
    ) -> Result<Option<HashMap<EventId, i32>>, Stopped> {
        let mut backoff = Backoff::new(self.store.random());
        loop {
            match self.try_count(events, first).await {
                Ok(counts) => return Ok(counts),
                Err(error) => self.wait(&error.into(), &mut backoff).await?,
            }
        }
    }

    async fn try_count(
        &self,
        events: &[&Event],
        first: bool,
    ) -> Result<Option<HashMap<EventId, i32>>, DbErr> {
        let tx = self.store.begin("consumer.count").await?;
        let fresh = inbox::count_attempt(&*tx, self.store.service(), events, tx.now()).await?;
        if first && fresh.iter().any(|fresh| fresh.attempts > 1) {
            return Ok(None);
        }
        tx.commit().await?;
        let counts = fresh
            .into_iter()
            .map(|fresh| (fresh.event_id, fresh.attempts));
        Ok(Some(counts.collect()))
    }

    /// Takes back the count of an attempt that met an outage until the service was stopped: however often a
    /// service is restarted meanwhile, an outage parks nothing. Not waited for.
    pub(super) async fn uncount(&self, event: &Event) {
        let uncounted = async {
            let tx = self.store.begin("consumer.count").await?;
            inbox::uncount_attempt(&*tx, self.store.service(), event.id).await?;
            tx.commit().await
        };
        if let Err(error) = uncounted.await {
            tracing::debug!(event.id = %event.id, error = &error as &dyn std::error::Error, "an attempt stays counted");
        }
    }
}
