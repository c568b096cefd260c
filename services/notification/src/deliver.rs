//! Delivering notifications: at least once, outside any transaction.
//!
//! Claim (counting the attempt), send, note the outcome. When the process dies in between, the
//! claim ends by itself and the notification is sent again, under the same identity. While the
//! receiver is away, the [gate] lets one through at a time.

use std::{pin::pin, sync::Arc, time::Duration};

use couponmesh_messaging::{Store, frontier::Frontier, pace::Pace};
use couponmesh_runtime::{Timestamp, backoff::Backoff, running::Running, telemetry, wake::Wake};
use futures::{StreamExt as _, stream};
use sea_orm::DbErr;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    channel::{Channel, Message},
    config::{ATTEMPTS_PER_CLAIM, NotificationConfig},
    gate,
    notifications::{self, Model},
    outcome::{Noting, Outcome, context},
};

/// How often the table is looked at without a wake-up: for pauses that end and claims of the dead.
const POLL: Duration = Duration::from_millis(500);
/// How long before the last one that was found the table is looked at, in microseconds: replicas' clocks differ, and
/// the first to store need not be the first to commit.
const MARGIN: i64 = 2_000_000;
/// How long a delivery that was begun may go on after the service was told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

struct Worker {
    store: Store,
    channel: Arc<Channel>,
    config: NotificationConfig,
    /// The name of the gate before the receiver.
    gate: String,
    pending: Wake,
    stop: CancellationToken,
}

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
        gate: format!("{} {}", channel.name(), channel.recipient()),
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
            let pause = match self.round(&mut frontier).await {
                Ok(pause) => pause,
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
            let Some(pause) = pause else { continue };
            pace.rest(begun);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.pending.wait(pause) => {}
            }
        }
    }

    /// Claims and delivers what is due; returns how long to rest before the next round, none when
    /// more may be due.
    async fn round(&self, frontier: &mut Frontier) -> Result<Option<Duration>, DbErr> {
        let Some(gate) = gate::closed(self.store.read(), &self.gate).await? else {
            let limit = self.config.concurrency * ATTEMPTS_PER_CLAIM as usize;
            let claimed = self.claim(frontier, limit, None).await?;
            let full = claimed.len() == limit;
            self.deliver(claimed, &self.noting(None)).await;
            return Ok((!full).then(|| frontier.pause()));
        };
        let wait = gate.wait(self.store.now(), &self.config);
        if !wait.is_zero() {
            return Ok(Some(wait.min(POLL)));
        }
        // A frontier of its own: the probe is the oldest of all.
        let mut frontier = Frontier::new(MARGIN, POLL);
        let probe = self.claim(&mut frontier, 1, Some(&gate)).await?;
        if probe.is_empty() {
            return Ok(Some(POLL));
        }
        let noting = self.noting(Some(gate.close_time));
        if let Some(error) = self.deliver(probe, &noting).await {
            noting.give_up(&error).await?;
        }
        Ok(None)
    }

    /// Delivers and notes what came of it. Returns what the last failure said when the gate is
    /// closed afterwards.
    async fn deliver(&self, claimed: Vec<Model>, noting: &Noting<'_>) -> Option<String> {
        let mut closed = noting.closed_since.is_some();
        let limit = claimed.len().max(1);
        let deliveries = stream::iter(claimed)
            // What is not begun when the service stops is delivered by whoever claims it next.
            .take_until(self.stop.cancelled())
            .map(|notification| async {
                let traceparent =
                    telemetry::child_of(&context(&notification), "notification.deliver");
                let message = message(&notification, traceparent.as_deref());
                let sent = self.channel.send(&message).await;
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
        let mut error = None;
        loop {
            tokio::select! {
                outcomes = deliveries.next() => match outcomes {
                    Some(outcomes) => {
                        let mut failures = outcomes.iter().filter_map(|(_, sent)| sent.as_ref().err());
                        let failed = failures.next_back().map(ToString::to_string);
                        error = failed.or(error);
                        self.note_all(noting, outcomes, &mut closed).await;
                    }
                    None => break,
                },
                () = &mut out_of_patience => break,
            }
        }
        error.filter(|_| closed)
    }

    /// Claims what is due; with a closed gate, the next probe.
    async fn claim(
        &self,
        frontier: &mut Frontier,
        limit: usize,
        gate: Option<&gate::Model>,
    ) -> Result<Vec<Model>, DbErr> {
        let tx = self.store.begin("notification.claim").await?;
        if let Some(gate) = gate {
            let end = tx.now().plus(self.config.claim_time());
            if !gate::take_probe(&tx, gate, end).await? {
                return Ok(Vec::new());
            }
        }
        let claimed = notifications::claim(&tx, frontier, limit, &self.config).await?;
        if !claimed.is_empty() {
            tx.commit().await?;
        }
        Ok(claimed)
    }

    /// Notes the outcomes. They are known here only, so an outage is waited out: forgetting one would
    /// send it twice.
    async fn note_all(&self, noting: &Noting<'_>, outcomes: Vec<Outcome>, closed: &mut bool) {
        let mut backoff = Backoff::new(self.store.random());
        while let Err(error) = noting.note(&outcomes, closed).await {
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

    fn noting(&self, closed_since: Option<Timestamp>) -> Noting<'_> {
        Noting {
            store: &self.store,
            config: &self.config,
            channel: self.channel.name(),
            gate: &self.gate,
            closed_since,
            stop: &self.stop,
        }
    }
}

fn message<'a>(notification: &'a Model, traceparent: Option<&'a str>) -> Message<'a> {
    Message {
        notification_id: notification.notification_id.0,
        member_id: notification.member_id.0,
        correlation_id: &notification.correlation_id,
        traceparent,
        subject: &notification.subject,
        body: &notification.body,
        create_time: notification.create_time,
    }
}
