//! What comes of a delivery: sent, tried again later, refused or given up.
//!
//! A notification is given up when it has failed for `give_up_after`, counted not from when it was
//! stored but from its first failed attempt, or from when it began to wait for a receiver that was
//! away. Only time in which the service was seen to run counts, by [`clock_spans`]: a stop of a
//! week leaves a notification the time that it had. What waits behind a gate is given up without
//! an attempt of its own: at a receiver that is gone for good, more would come than one probe at a
//! time can give up.

use std::collections::HashMap;

use couponmesh_messaging::{Store, Transaction, clock_spans};
use couponmesh_proto::notification::v1::NotificationSent;
use couponmesh_runtime::{Context, Timestamp, id::NotificationId};
use sea_orm::DbErr;
use tokio_util::sync::CancellationToken;

use crate::{
    channel::{DeliveryError, Failure},
    config::NotificationConfig,
    gate,
    notifications::{self, Failed, Model},
    waiting,
};

/// Notifications that are given up in one transaction.
const CHUNK: u64 = 500;

/// What came of one delivery.
pub(crate) type Outcome = (Model, Result<(), DeliveryError>);

/// Where the outcomes of one round are noted.
pub(crate) struct Noting<'a> {
    pub(crate) store: &'a Store,
    pub(crate) config: &'a NotificationConfig,
    /// The channel's name: the receiver's is not logged, it may be an address.
    pub(crate) channel: &'static str,
    /// The gate before the receiver.
    pub(crate) gate: &'a str,
    /// Since when it was closed when the round began.
    pub(crate) closed_since: Option<Timestamp>,
    pub(crate) stop: &'a CancellationToken,
}

impl Noting<'_> {
    /// Notes outcomes; `closed` is whether the gate is, before and after.
    pub(crate) async fn note(&self, outcomes: &[Outcome], closed: &mut bool) -> Result<(), DbErr> {
        let end = self.end_of(outcomes).await?;
        let tx = self.store.begin("notification.note").await?;
        note_sent(&tx, outcomes).await?;
        for (notification, sent) in outcomes {
            if let Err(error) = sent {
                let failed = self.failed(&tx, notification, error, end);
                notifications::failed(&tx, notification.notification_id, failed).await?;
            }
        }
        let closes = self.move_gate(&tx, outcomes, *closed).await?;
        tx.commit().await?;
        *closed = closes;
        Ok(())
    }

    /// Since when a notification fails whose attempt failed.
    fn failing_since(&self, notification: &Model, now: Timestamp) -> Timestamp {
        let waited_since = self
            .closed_since
            .map_or(now, |closed| closed.max(notification.create_time));
        let since = notification.failing_since.unwrap_or(waited_since);
        // One in the future is of a clock that was wrong.
        since.min(now)
    }

    /// [`end`](Self::end), where any of these may have come to it: the spans are not read at each
    /// failure.
    async fn end_of(&self, outcomes: &[Outcome]) -> Result<Option<Timestamp>, DbErr> {
        let now = self.store.now();
        let may_be_over = |(notification, sent): &Outcome| {
            let since = self.failing_since(notification, now);
            sent.is_err() && now.since(since) >= self.config.give_up_after
        };
        if outcomes.iter().any(may_be_over) {
            self.end().await
        } else {
            Ok(None)
        }
    }

    /// What has failed since then, or longer, was tried for long enough; none when the service has
    /// not run for so long.
    async fn end(&self) -> Result<Option<Timestamp>, DbErr> {
        clock_spans::older_than(self.store, self.config.give_up_after).await
    }

    /// What becomes of a notification whose attempt failed; `end` is when those began to fail that
    /// are given up.
    fn failed(
        &self,
        tx: &Transaction,
        notification: &Model,
        error: &DeliveryError,
        end: Option<Timestamp>,
    ) -> Failed {
        let id = notification.notification_id;
        let attempt = notification.attempt_count;
        let since = self.failing_since(notification, tx.now());
        let failing = tx.now().since(since);
        let next_attempt_time = match error.failure() {
            Failure::Refusal => {
                tracing::error!(
                    notification.id = %id,
                    attempt,
                    %error,
                    "notification refused; `couponmesh notifications resend` sends it again"
                );
                None
            }
            Failure::Outage if end.is_some_and(|end| since <= end) => {
                tracing::error!(
                    notification.id = %id,
                    attempt,
                    ?failing,
                    %error,
                    "notification given up; `couponmesh notifications resend` sends it again"
                );
                None
            }
            Failure::Outage => {
                tracing::warn!(
                    notification.id = %id,
                    attempt,
                    %error,
                    "notification not delivered; tried again later"
                );
                let pause = self.config.pause(tx.random(), failing, error.retry_after());
                Some(tx.now().plus(pause))
            }
        };
        Failed {
            error: error.to_string(),
            since,
            next_attempt_time,
        }
    }

    /// An answer, of whatever kind, opens the gate; outages and nothing else close it. Returns
    /// whether it is closed.
    async fn move_gate(
        &self,
        tx: &Transaction,
        outcomes: &[Outcome],
        closed: bool,
    ) -> Result<bool, DbErr> {
        let mut outages = Vec::new();
        for (_, sent) in outcomes {
            match sent {
                Err(error) if error.failure() == Failure::Outage => outages.push(error),
                Ok(()) | Err(_) => {}
            }
        }
        if outages.len() < outcomes.len() {
            if closed && gate::open(tx, self.gate).await? {
                tracing::info!(
                    channel = self.channel,
                    "the receiver of notifications is back"
                );
            }
            return Ok(false);
        }
        let Some(error) = outages.last() else {
            return Ok(closed);
        };
        let floor = outages.iter().filter_map(|error| error.retry_after()).max();
        if gate::close(tx, self.gate, self.config, floor).await? {
            tracing::warn!(
                channel = self.channel,
                %error,
                "the receiver of notifications is away: one attempt at a time"
            );
        }
        Ok(true)
    }

    /// Gives up what has waited behind the closed gate for as long as anything may, with the
    /// `error` of the last probe.
    pub(crate) async fn give_up(&self, error: &str) -> Result<(), DbErr> {
        let Some(closed) = self.closed_since else {
            return Ok(());
        };
        if self.store.now().since(closed) < self.config.give_up_after {
            return Ok(());
        }
        let Some(end) = self.end().await?.filter(|&end| closed <= end) else {
            return Ok(());
        };
        let mut count = 0;
        while !self.stop.is_cancelled() {
            let tx = self.store.begin("notification.give_up").await?;
            let given_up = waiting::give_up(&tx, end, error, CHUNK).await?;
            if given_up > 0 {
                tx.commit().await?;
            }
            count += given_up;
            if given_up < CHUNK {
                break;
            }
        }
        if count > 0 {
            tracing::error!(
                count,
                error,
                "notifications given up, since the receiver is away for too long; \
                 `couponmesh notifications resend --failed` sends them again"
            );
        }
        Ok(())
    }
}

async fn note_sent(tx: &Transaction, outcomes: &[Outcome]) -> Result<(), DbErr> {
    let sent: HashMap<NotificationId, &Model> = outcomes
        .iter()
        .filter(|(_, sent)| sent.is_ok())
        .map(|(notification, _)| (notification.notification_id, notification))
        .collect();
    for id in notifications::sent(tx, sent.keys().copied().collect()).await? {
        let Some(notification) = sent.get(&id) else {
            continue;
        };
        let event = NotificationSent {
            notification_id: id.to_string(),
            member_id: notification.member_id.to_string(),
            send_time: Some(tx.now().into()),
        };
        tx.append(&context(notification), notification.member_id, &event);
    }
    Ok(())
}

/// What caused a notification.
pub(crate) fn context(notification: &Model) -> Context {
    Context::stored(
        &notification.correlation_id,
        notification.notification_id.0,
        notification.causation_id,
        notification.traceparent.clone(),
    )
}
