//! Questions to JetStream, and what becomes of a server that leaves them unanswered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    RequestError, RequestErrorKind,
    connection::State,
    jetstream::{self, Context, ErrorCode},
};
use tokio::time::{Instant, timeout};

use super::NatsBus;
use crate::bus::BusError;

/// Questions in a row that JetStream may leave unanswered on a connection that lives. After that another server is tried:
/// this one may be cut off from the others.
const SILENCES: u32 = 3;
/// A question that was given up sooner was not left unanswered.
const SILENCE: Duration = Duration::from_secs(2);

/// What is counted of them.
#[derive(Default)]
pub(super) struct Silences {
    /// How many JetStream left unanswered, one after the other.
    in_a_row: AtomicU32,
    /// How often the server refused something to this login.
    refusals: Arc<AtomicU64>,
}

impl Silences {
    /// Counts what the server refuses.
    pub(super) fn refusals_counter(&self) -> Arc<AtomicU64> {
        self.refusals.clone()
    }

    fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

/// A question to JetStream, until it is answered or given up.
struct Question<'a> {
    bus: &'a NatsBus,
    asked: Instant,
    answered: bool,
    /// The server said that it cannot answer.
    cut_off: bool,
    /// How often it had refused something before.
    refusals: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let silences = &self.bus.0.silences.in_a_row;
        // What is not allowed is not answered by any server.
        let is_refused = self.bus.0.silences.refusals() != self.refusals;
        if self.answered {
            silences.store(0, Ordering::Relaxed);
        } else if !is_refused
            && self.bus.is_connected()
            && (self.cut_off || self.asked.elapsed() >= SILENCE)
            && silences.fetch_add(1, Ordering::Relaxed) + 1 >= SILENCES
        {
            silences.store(0, Ordering::Relaxed);
            self.bus.try_another_server();
        }
    }
}

impl NatsBus {
    /// Asks JetStream something, for `longest` and no longer.
    pub(super) async fn ask<T>(
        &self,
        longest: Duration,
        question: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        let mut asked = Question {
            bus: self,
            asked: Instant::now(),
            answered: false,
            cut_off: false,
            refusals: self.0.silences.refusals(),
        };
        let answer = timeout(longest, question)
            .await
            .unwrap_or_else(|elapsed| Err(BusError(Box::new(elapsed))));
        match &answer {
            Ok(_) => asked.answered = true,
            Err(error) => {
                asked.cut_off = is_cut_off(error);
                self.look_again();
            }
        }
        answer
    }

    /// Leaves the server that does not answer.
    fn try_another_server(&self) {
        let (Ok(context), Ok(_)) = (self.context(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let client = context.client();
        tracing::warn!(
            "JetStream does not answer; connecting anew, to another server if there is one"
        );
        drop(self.0.running.spawn(async move {
            // An error says that the connection is being made anew already.
            let _ = client.force_reconnect().await;
        }));
    }

    fn is_connected(&self) -> bool {
        let state = |context: &Context| context.client().connection_state();
        self.context()
            .is_ok_and(|context| state(context) == State::Connected)
    }
}

/// Whether the server says that it has no JetStream at hand, as one that is cut off from its cluster does.
fn is_cut_off(error: &BusError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let refused = error.downcast_ref::<jetstream::Error>();
        if refused.is_some_and(|error| error.error_code() == ErrorCode::CLUSTER_NOT_AVAILABLE) {
            return true;
        }
        let asked = error.downcast_ref::<RequestError>();
        if asked.is_some_and(|error| error.kind() == RequestErrorKind::NoResponders) {
            return true;
        }
        next = error.source();
    }
    false
}
