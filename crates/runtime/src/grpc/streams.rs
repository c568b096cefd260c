//! The tasks of HTTP/2 streams, each of which ends at its deadline, whatever its peer reads.
//!
//! Hyper waits without end for a peer that opens no window, and does not ask the body for more
//! meanwhile, so a deadline inside the body would go unnoticed. Hyper spawns each stream by this
//! executor, though, and ending the task resets the stream.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep_until};

thread_local! {
    /// The deadline of the stream that is polled on this thread, from the poll that sets it until
    /// its task takes it.
    static RESET_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Has the stream that is being polled reset at `deadline`, unless its answer is sent by then.
pub(super) fn reset_at(deadline: Instant) {
    RESET_AT.set(Some(deadline));
}

/// Spawns streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Bounded {
            stream: Box::pin(stream),
            reset: None,
        });
    }
}

struct Bounded<F> {
    stream: Pin<Box<F>>,
    reset: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Bounded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let polled = this.stream.as_mut().poll(cx);
        let deadline = RESET_AT.take();
        if polled.is_ready() {
            return polled;
        }
        if let Some(deadline) = deadline {
            this.reset = Some(Box::pin(sleep_until(deadline)));
        }
        match &mut this.reset {
            Some(reset) => reset.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
