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

/// When the stream that is polled shall be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    At(Instant),
    Never,
}

thread_local! {
    /// What the stream that is polled on this thread decides, from the poll that decides it until
    /// its task takes it.
    static RESET: Cell<Option<Reset>> = const { Cell::new(None) };
}

/// Has the stream that is being polled reset at `deadline`, unless its answer is sent by then. Not
/// for HTTP/1, whose answers have no task of their own.
pub(super) fn reset_at(deadline: Instant) {
    RESET.set(Some(Reset::At(deadline)));
}

/// Lets the stream that is being polled last.
pub(super) fn reset_never() {
    RESET.set(Some(Reset::Never));
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
        let decided = RESET.take();
        if polled.is_ready() {
            return polled;
        }
        match decided {
            None => {}
            Some(Reset::Never) => this.reset = None,
            Some(Reset::At(deadline)) => match &mut this.reset {
                Some(reset) if reset.deadline() == deadline => {}
                Some(reset) => reset.as_mut().reset(deadline),
                None => this.reset = Some(Box::pin(sleep_until(deadline))),
            },
        }
        match &mut this.reset {
            Some(reset) => reset.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
