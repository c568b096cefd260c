//! Parking: an event that cannot be handled is put aside, so that the others go on.

use couponmesh_runtime::backoff::Backoff;
use sea_orm::DbErr;

use super::{Consumer, Handler, Stopped};
use crate::{
    dead_letter,
    event::Event,
    inbox::{self, Outcome},
};

impl<H: Handler> Consumer<H> {
    /// Parks `event`. Waits out outages, as `count` does.
    pub(super) async fn park(
        &self,
        event: &Event,
        error: &str,
        attempts: i32,
    ) -> Result<(), Stopped> {
        tracing::error!(service = self.store.service(), event.id = %event.id, event.r#type = event.event_type, member.id = %event.member_id, attempts, error, "event parked as a dead letter");
        let mut backoff = Backoff::new(self.store.random());
        loop {
            match self.try_park(event, error, attempts).await {
                Ok(()) => return Ok(()),
                Err(error) => self.wait(&error.into(), &mut backoff).await?,
            }
        }
    }

    /// Dead letter and inbox mark in one transaction.
    async fn try_park(&self, event: &Event, error: &str, attempts: i32) -> Result<(), DbErr> {
        let tx = self.store.begin("consumer.park").await?;
        let consumer = self.store.service();
        dead_letter::park(&*tx, consumer, event, error, attempts, tx.now()).await?;
        inbox::mark(&*tx, consumer, &[event], Outcome::Parked, tx.now()).await?;
        tx.commit().await
    }
}
