//! A durable pull consumer: one per service, shared by its replicas.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::jetstream::{
    AckKind, Message,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    message::Acker,
    stream::Stream,
};
use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::{
    task::coop::unconstrained,
    time::{Instant, timeout, timeout_at},
};

use super::{NatsBus, envelope, pull::Pull};
use crate::bus::{BusError, Delivery, Subscription};

/// How long a delivery may be dealt with before another replica gets it: that of a replica that died.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Deliveries under way at all replicas together.
const MAX_ACK_PENDING: i64 = 10_000;
/// When a type that this binary does not know is offered to a newer replica again.
const LEAVE_TO_OTHERS: Duration = Duration::from_secs(5);
/// How long telling the server may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a batch is gathered while more may wait at the server. Another replica may have got them.
const GATHER: Duration = Duration::from_millis(10);

/// A replica's share of a consumer's deliveries.
pub(super) struct NatsSubscription {
    bus: NatsBus,
    types: &'static [&'static str],
    durable: PullConsumer,
    /// What the server was asked for; none once all of it came.
    pull: Option<Pull>,
    /// Delivered, and not yet handed to the consumer.
    gathered: Vec<(Delivery, Acker)>,
    /// How many more wait at the server, as it said with the last delivery.
    waiting: u64,
    /// Handed to the consumer, and not acknowledged.
    outstanding: Vec<Acker>,
    /// Found while more was looked for; told at the next call.
    failed: Option<BusError>,
}

impl NatsSubscription {
    pub(super) async fn join(
        bus: &NatsBus,
        stream: &Stream,
        consumer: &'static str,
        types: &'static [&'static str],
    ) -> Result<Self, BusError> {
        Ok(Self {
            bus: bus.clone(),
            types,
            durable: durable(stream, consumer, types).await?,
            pull: None,
            gathered: Vec::new(),
            waiting: 0,
            outstanding: Vec::new(),
            failed: None,
        })
    }

    /// The next message, of this request or the next one. Nothing is lost when it is given up.
    async fn message(&mut self) -> Result<Message, BusError> {
        loop {
            if let Some(pull) = &mut self.pull {
                if let Some(message) = pull.next().await {
                    return message;
                }
                self.pull = None;
            }
            let pull = Pull::ask(self.bus.context()?, &self.durable, self.bus.batch()).await?;
            self.pull = Some(pull);
        }
    }

    /// The next message of a batch that is gathered until then; none when it is complete as it is. Nothing is
    /// lost when it is given up.
    async fn next_of_batch(&mut self, until: Option<Instant>) -> Option<Result<Message, BusError>> {
        match until {
            None => Some(self.message().await),
            Some(until) if self.may_be_more() => timeout_at(until, self.message()).await.ok(),
            // What came is taken, even when the task has used up its turn of the scheduler.
            Some(_) => unconstrained(self.message()).now_or_never(),
        }
    }

    /// Whether more may wait at the server: it said so with the last delivery, or that was the last that it was asked
    /// for, and what came since then had no request to come to.
    fn may_be_more(&self) -> bool {
        self.waiting > 0 || self.pull.as_ref().is_none_or(Pull::is_used_up)
    }

    /// Gathers the event in `message`, unless it is not of our types: during an upgrade a newer replica may have
    /// asked for more types than this one knows.
    async fn take(&mut self, message: Message) -> Result<(), BusError> {
        let info = message
            .info()
            .map_err(|error| BusError(error.to_string().into()))?;
        let (sequence, delivered) = (info.stream_sequence, info.delivered);
        self.waiting = info.pending;
        let (message, acker) = message.split();
        if !self.types.contains(&message.subject.as_str()) {
            // Much longer after a minute: after a rollback there may be nobody who knows it.
            let times = if delivered < 12 { 1 } else { 60 };
            acker
                .ack_with(AckKind::Nak(Some(LEAVE_TO_OTHERS * times)))
                .await
                .map_err(BusError)?;
            return Ok(());
        }
        let delivery = Arc::new(envelope::event(message, sequence));
        self.gathered.push((delivery, acker));
        Ok(())
    }
}

/// The consumer of that name, which gets at least `types`.
async fn durable(
    stream: &Stream,
    name: &'static str,
    types: &[&str],
) -> Result<PullConsumer, BusError> {
    let wanted = pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        // Without end: poison is parked by the consumer itself, an outage is no reason to drop anything.
        max_deliver: -1,
        max_ack_pending: MAX_ACK_PENDING,
        deliver_policy: DeliverPolicy::All,
        filter_subjects: types.iter().map(|&subject| subject.to_owned()).collect(),
        ..pull::Config::default()
    };
    let found: PullConsumer = stream.get_or_create_consumer(name, wanted.clone()).await?;
    let config = &found.cached_info().config;
    let mut subjects: BTreeSet<String> = config.filter_subjects.iter().cloned().collect();
    subjects.extend([config.filter_subject.clone()]);
    subjects.remove("");
    let known = subjects.len();
    subjects.extend(wanted.filter_subjects.iter().cloned());
    if subjects.len() == known {
        return Ok(found);
    }
    // Never fewer: an older replica may run beside this one.
    let more = pull::Config {
        filter_subjects: subjects.into_iter().collect(),
        ..wanted
    };
    Ok(stream.create_consumer(more).await?)
}

#[async_trait]
impl Subscription for NatsSubscription {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, BusError> {
        // Some may be left of a call that was given up.
        let mut until = (!self.gathered.is_empty()).then(|| Instant::now() + GATHER);
        while self.gathered.len() < max && self.failed.is_none() {
            match self.next_of_batch(until).await {
                None => break,
                Some(Ok(message)) => {
                    self.failed = self.take(message).await.err();
                    if !self.gathered.is_empty() {
                        until.get_or_insert_with(|| Instant::now() + GATHER);
                    }
                }
                Some(Err(error)) => {
                    self.bus.look_again();
                    self.failed = Some(error);
                }
            }
        }
        if self.gathered.is_empty()
            && let Some(error) = self.failed.take()
        {
            return Err(error);
        }
        let handed = max.min(self.gathered.len());
        let (deliveries, ackers): (Vec<_>, Vec<_>) = self.gathered.drain(..handed).unzip();
        self.outstanding.extend(ackers);
        Ok(deliveries)
    }

    async fn ack(&mut self) -> Result<(), BusError> {
        let acks = async {
            for acker in self.outstanding.drain(..) {
                acker.ack().await?;
            }
            Ok(())
        };
        let acked = timeout(ACK_TIMEOUT, acks).await;
        acked
            .map_err(|elapsed| BusError(Box::new(elapsed)))?
            .map_err(BusError)
    }
}

impl Drop for NatsSubscription {
    /// Gives back what was not dealt with, so that another replica, or the next life of this one, need not
    /// wait for it.
    fn drop(&mut self) {
        let mut left = std::mem::take(&mut self.outstanding);
        left.extend(self.gathered.drain(..).map(|(_, acker)| acker));
        self.bus.give_back(left, self.pull.take());
    }
}
