//! The body of an answer. The call is in flight until it is sent.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, body::Body};
use tracing::Span;

use super::{admission::Admission, correlation, deadline, door, peers::Busy, streams};
use crate::status::{self, Reason};

/// Bytes in one frame. HTTP/2 takes a whole frame as soon as the peer's window is open at all, and
/// keeps it for as long as the peer likes: that much is held of an answer beyond its call's end.
const LARGEST_FRAME: usize = 16 * 1024;

/// A response body that counts as a call in flight until its end is handed over.
pub(super) struct Answer {
    /// None once it has ended.
    body: Option<Body>,
    /// What is left of a frame.
    rest: Bytes,
    held: Option<Held>,
    /// None for the answer of a unary call.
    streamed: Option<Streamed>,
}

/// What a call holds.
pub(super) struct Held {
    pub(super) admission: Option<Admission>,
    pub(super) _busy: Option<Busy>,
}

/// A response stream is under the same rules as a unary call, for as long as it lives.
pub(super) struct Streamed {
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    /// How long its peer may leave a message unread. Hyper asks for no other meanwhile, so that
    /// nothing else here would end the stream.
    pub(super) unread: Duration,
    /// Ends the stream when the server drains: for streams that nobody else would end.
    pub(super) draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    pub(super) span: Span,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl Answer {
    pub(super) fn new(body: Body, held: Held, streamed: Option<Streamed>) -> Self {
        Self {
            body: Some(body),
            rest: Bytes::new(),
            held: Some(held),
            streamed,
        }
    }

    /// What is left of a frame, or the next one.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Polled {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(Some(Ok(self.split(rest))));
        }
        let polled = match &self.streamed {
            Some(streamed) => {
                let span = streamed.span.clone();
                let _entered = span.enter();
                self.poll_streamed(cx)
            }
            None => match &mut self.body {
                Some(body) => Pin::new(body).poll_frame(cx),
                None => Poll::Ready(None),
            },
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(Ok(self.split(data)))),
                Err(trailers) => {
                    self.end();
                    Poll::Ready(Some(Ok(trailers)))
                }
            },
            Poll::Ready(ended) => {
                self.end();
                Poll::Ready(ended)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The next frame of a response stream, or its end by one of the rules.
    fn poll_streamed(&mut self, cx: &mut Context<'_>) -> Polled {
        let (Some(body), Some(streamed)) = (&mut self.body, &mut self.streamed) else {
            return Poll::Ready(None);
        };
        if is_over(&mut streamed.deadline, cx) {
            return self.end_with(&deadline::exceeded());
        }
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx)));
        match polled {
            Err(_) => self.end_with(&door::panicked()),
            Ok(Poll::Pending) if is_over(&mut streamed.draining, cx) => self.end_with(&draining()),
            Ok(polled) => {
                if let Poll::Ready(Some(Ok(frame))) = &polled
                    && let Some(status) = frame.trailers_ref().and_then(Status::from_header_map)
                {
                    correlation::report(&status);
                }
                polled
            }
        }
    }

    /// Bounds the time until the next poll, which comes when the peer has taken what this one
    /// returned.
    fn bound_reading(&self, polled: &Polled) {
        let Some(streamed) = &self.streamed else {
            return;
        };
        let deadline = streamed.deadline.as_ref();
        let deadline = deadline.map(|sleep| sleep.deadline() + deadline::RESET_AFTER);
        let unread = match polled {
            Poll::Ready(Some(_)) => Some(Instant::now() + streamed.unread),
            Poll::Ready(None) | Poll::Pending => None,
        };
        match deadline.into_iter().chain(unread).min() {
            Some(end) => streams::reset_at(end),
            None => streams::reset_never(),
        }
    }

    fn end_with(&mut self, status: &Status) -> Polled {
        correlation::report(status);
        self.end();
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status.add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(status),
        }))
    }

    /// Frees what the call holds at once; the connection may keep the body a while longer.
    fn end(&mut self) {
        self.body = None;
        self.held = None;
    }

    /// The next part of a frame.
    fn split(&mut self, mut data: Bytes) -> Frame<Bytes> {
        self.rest = data.split_off(data.len().min(LARGEST_FRAME));
        Frame::data(data)
    }
}

/// What a stream is ended with that nobody else would end.
fn draining() -> Status {
    status::status(Reason::Draining, "the server is draining; call again")
}

/// Whether the thing that is waited for has happened; once is enough, since the stream then ends.
fn is_over<F: Future<Output = ()>>(future: &mut Option<Pin<Box<F>>>, cx: &mut Context<'_>) -> bool {
    let future = future.as_mut().map(|f| f.as_mut().poll(cx));
    future.is_some_and(|poll| poll.is_ready())
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        let polled = this.poll_part(cx);
        this.bound_reading(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A handler that still runs may have a clone.
        if let Some(admission) = &self.admission {
            admission.end();
        }
    }
}
