//! One request for deliveries, read to its end.
//!
//! async-nats renews its requests for as long as its stream lives. What the server sends to one that is given up
//! is lost until its wait for the acknowledgement is over, half a minute later. A request that ends can be waited for.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{
    StatusCode, Subscriber,
    connection::State,
    jetstream::{
        Context, Message,
        consumer::{PullConsumer, pull::BatchConfig},
    },
};
use futures::StreamExt as _;
use tokio::time::Instant;

use crate::bus::BusError;

/// How long the server keeps a request while there is nothing to deliver. A stop waits for its end, and deliveries
/// that come to it meanwhile wait, too.
const EXPIRES: Duration = Duration::from_secs(1);
/// How much later than that the server may say so before the request counts as lost, when the connection is another.
const LATE: Duration = Duration::from_secs(2);
/// The same when the connection is still the one that it was asked on: what comes after a network that hangs is not
/// thrown away.
const VERY_LATE: Duration = Duration::from_secs(10);

/// A request for so many deliveries. It ends when all of them came, or its time is over.
pub(super) struct Pull {
    /// An inbox of its own, so that nothing of an earlier request is counted.
    inbox: Subscriber,
    context: Context,
    /// How many may still come.
    open: usize,
    asked: Instant,
    /// How often there had been a connection by then.
    connection: u64,
}

impl Pull {
    /// Asks for `max` deliveries. Nothing is lost when it is given up.
    ///
    /// # Errors
    /// When there is no connection. Requests would pile up in the client, and be answered to nobody later.
    pub(super) async fn ask(
        context: &Context,
        consumer: &PullConsumer,
        max: usize,
    ) -> Result<Self, BusError> {
        let client = context.client();
        if client.connection_state() != State::Connected {
            return Err(BusError("not connected to NATS".into()));
        }
        let connection = connection(context);
        let address = client.new_inbox();
        let inbox = client.subscribe(address.clone()).await?;
        let request = BatchConfig {
            batch: max,
            expires: Some(EXPIRES),
            ..BatchConfig::default()
        };
        // The last wait: deliveries can only come to one who has gone past it.
        consumer.request_batch(request, address.into()).await?;
        Ok(Self {
            inbox,
            context: context.clone(),
            open: max,
            asked: Instant::now(),
            connection,
        })
    }

    /// Whether all that it asked for came.
    pub(super) fn is_used_up(&self) -> bool {
        self.open == 0
    }

    /// The next delivery; none when the request has ended. Nothing is lost when it is given up.
    pub(super) async fn next(&mut self) -> Option<Result<Message, BusError>> {
        if self.open == 0 {
            return None;
        }
        let message = tokio::select! {
            // What came is taken however late: the one who asked may have been busy.
            biased;
            message = self.inbox.next() => message,
            () = lost(&self.context, self.asked, self.connection) => None,
        };
        let Some(message) = message else {
            self.open = 0;
            return None;
        };
        match message.status {
            None | Some(StatusCode::OK) => {
                self.open -= 1;
                let context = self.context.clone();
                Some(Ok(Message { message, context }))
            }
            Some(StatusCode::TIMEOUT) => {
                self.open = 0;
                None
            }
            Some(status) => {
                self.open = 0;
                let description = message.description.unwrap_or_default();
                Some(Err(BusError(format!("{status}: {description}").into())))
            }
        }
    }
}

/// Which of the client's connections this is.
fn connection(context: &Context) -> u64 {
    context
        .client()
        .statistics()
        .connects
        .load(Ordering::Relaxed)
}

/// Until a request of then, on that connection, counts as lost.
async fn lost(context: &Context, asked: Instant, on: u64) {
    tokio::time::sleep_until(asked + EXPIRES + LATE).await;
    if connection(context) == on {
        tokio::time::sleep_until(asked + EXPIRES + VERY_LATE).await;
    }
}
