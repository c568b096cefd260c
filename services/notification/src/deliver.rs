//! Delivering notifications: at least once, outside any transaction.
//!
//! Claim (counting the attempt), send, note the outcome. When the process dies in between, the claim
//! ends by itself and the notification is sent again, under the same identity.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use couponmesh_messaging::{Store, frontier::Frontier, pace::Pace};
use couponmesh_proto::notification::v1::NotificationSent;
use couponmesh_runtime::{
    Context, backoff::Backoff, id::NotificationId, running::Running, wake::Wake,
};
use futures::{StreamExt as _, stream};
use sea_orm::DbErr;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    channel::{Channel, DeliveryError, Message},
    config::NotificationConfig,
    notifications::{self, Model},
};

/// How often the table is looked at without a wake-up: for pauses that end and claims of the dead.
const POLL: Duration = Duration::from_millis(500);
/// How long before the last one that was found the table is looked at, in microseconds: replicas' clocks differ, and
/// the first to store need not be the first to commit.
const MARGIN: i64 = 2_000_000;
/// How much longer than an attempt a claim lasts: for noting the outcome.
const CLAIM_MARGIN: Duration = Duration::from_secs(10);
/// How long a delivery that was begun may go on after the service was told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Notifications in one round at the most, in multiples of what is under way at once.
const ROUNDS_PER_CLAIM: usize = 4;

struct Worker {
    store: Store,
    channel: Arc<Channel>,
    config: NotificationConfig,
    pending: Wake,
    stop: CancellationToken,
}

type Outcome = (Model, Result<(), DeliveryError>);

pub(crate) fn start(
    store: &Store,
    channel: &Arc<Channel>,
    config: &NotificationConfig,
    pending: &Wake,
    running: &Running,
) {
    let worker = Arc::new(Worker {
        store: store.clone(),
        channel: channel.clone(),
        config: config.clone(),
        pending: pending.clone(),
        stop: running.stopping(),
    });
    running.keep("deliveries", move || {
        let worker = worker.clone();
        async move { worker.run().await }
    });
}

impl Worker {
    async fn run(&self) {
        let mut backoff = Backoff::new(self.store.random());
        let mut pace = Pace::of(&self.store);
        let mut frontier = Frontier::new(MARGIN, POLL);
        while !self.stop.is_cancelled() {
            pace.keep().await;
            let begun = Instant::now();
            let full = match self.round(&mut frontier).await {
                Ok(full) => full,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "deliveries wait for the database"
                    );
                    // Wake-ups would turn the pause into a busy loop while the database is away.
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(backoff.next_pause()) => continue,
                    }
                }
            };
            backoff.reset();
            if full {
                continue;
            }
            pace.rest(begun);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.pending.wait(frontier.pause()) => {}
            }
        }
    }

    /// Claims and delivers what is due; true when more may be.
    async fn round(&self, frontier: &mut Frontier) -> Result<bool, DbErr> {
        let limit = self.config.concurrency * ROUNDS_PER_CLAIM;
        let claimed = self.claim(frontier, limit).await?;
        if claimed.is_empty() {
            return Ok(false);
        }
        let full = claimed.len() == limit;
        let deliveries = stream::iter(claimed)
            // What is not begun when the service stops is delivered by whoever claims it next.
            .take_until(self.stop.cancelled())
            .map(|notification| async {
                let sent = self.channel.send(&message(&notification)).await;
                (notification, sent)
            })
            .buffer_unordered(self.config.concurrency)
            // Noted as they end, together when several do: one receiver that hangs holds up nobody's news.
            .ready_chunks(limit);
        let out_of_patience = async {
            self.stop.cancelled().await;
            tokio::time::sleep(STOP_PATIENCE).await;
        };
        let (mut deliveries, mut out_of_patience) = (pin!(deliveries), pin!(out_of_patience));
        loop {
            tokio::select! {
                outcomes = deliveries.next() => match outcomes {
                    Some(outcomes) => self.note_all(outcomes).await,
                    None => break,
                },
                () = &mut out_of_patience => break,
            }
        }
        Ok(full)
    }

    async fn claim(&self, frontier: &mut Frontier, limit: usize) -> Result<Vec<Model>, DbErr> {
        let tx = self.store.begin("notification.claim").await?;
        // The last of a round begins when all before it have taken their time.
        let longest = self.config.attempt_timeout() * u32::try_from(ROUNDS_PER_CLAIM).unwrap_or(1);
        let claimed =
            notifications::claim(&tx, frontier, limit, tx.now().plus(longest + CLAIM_MARGIN))
                .await?;
        if !claimed.is_empty() {
            tx.commit().await?;
        }
        Ok(claimed)
    }

    /// Notes the outcomes. They are known here only, so an outage is waited out: forgetting one would
    /// send it twice.
    async fn note_all(&self, outcomes: Vec<Outcome>) {
        let mut backoff = Backoff::new(self.store.random());
        while let Err(error) = self.note(&outcomes).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "outcomes of deliveries wait for the database"
            );
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_pause()) => {}
            }
        }
    }

    async fn note(&self, outcomes: &[Outcome]) -> Result<(), DbErr> {
        let tx = self.store.begin("notification.note").await?;
        let sent: HashMap<NotificationId, &Model> = outcomes
            .iter()
            .filter(|(_, sent)| sent.is_ok())
            .map(|(notification, _)| (notification.notification_id, notification))
            .collect();
        for id in notifications::sent(&tx, sent.keys().copied().collect()).await? {
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
        for (notification, sent) in outcomes {
            let Err(error) = sent else { continue };
            let attempt = notification.attempt_count;
            let last = attempt >= self.config.max_attempts;
            let pause = tx.random().jitter(self.config.pause_after(attempt));
            let next = (!last).then(|| tx.now().plus(pause));
            log(notification, error, last);
            notifications::failed(&tx, notification.notification_id, error.to_string(), next)
                .await?;
        }
        tx.commit().await
    }
}

fn message(notification: &Model) -> Message<'_> {
    Message {
        notification_id: notification.notification_id.0,
        member_id: notification.member_id.0,
        correlation_id: &notification.correlation_id,
        subject: &notification.subject,
        body: &notification.body,
        create_time: notification.create_time,
    }
}

fn context(notification: &Model) -> Context {
    Context::stored(
        &notification.correlation_id,
        notification.notification_id.0,
        notification.causation_id,
        notification.traceparent.clone(),
    )
}

fn log(notification: &Model, error: &DeliveryError, last: bool) {
    let (id, attempt) = (notification.notification_id, notification.attempt_count);
    if last {
        tracing::error!(notification.id = %id, attempt, %error, "notification given up");
    } else {
        tracing::warn!(notification.id = %id, attempt, %error, "notification not delivered; tried again later");
    }
}
