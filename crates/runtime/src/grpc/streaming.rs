//! A response stream under the same rules as a unary call, for as long as it lives.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tokio::{sync::OwnedSemaphorePermit, time::Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, body::Body};
use tracing::Span;

use super::{correlation, deadline, layer};

/// A response body that counts as a call in flight, ends at its deadline, and turns a panic into
/// INTERNAL.
pub(super) struct Streaming {
    /// None once the stream has ended.
    pub(super) body: Option<Body>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    /// Ends the stream when the server drains: for streams that nobody else would end.
    pub(super) draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    pub(super) span: Span,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl Streaming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if is_over(&mut self.deadline, cx) {
            return self.end_with(&deadline::exceeded());
        }
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx)));
        match polled {
            Err(_) => self.end_with(&layer::panicked()),
            Ok(Poll::Pending) if is_over(&mut self.draining, cx) => {
                self.end_with(&Status::unavailable("server is shutting down"))
            }
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Some(Ok(frame)))) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    correlation::report(&status);
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Ok(ended) => {
                self.end();
                ended
            }
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

    /// Frees what the stream holds at once; the connection may keep the body a while longer.
    fn end(&mut self) {
        self.body = None;
        self.permit = None;
    }
}

/// Whether the thing that is waited for has happened; once is enough, since the stream then ends.
fn is_over<F: Future<Output = ()>>(future: &mut Option<Pin<Box<F>>>, cx: &mut Context<'_>) -> bool {
    let future = future.as_mut().map(|f| f.as_mut().poll(cx));
    future.is_some_and(|poll| poll.is_ready())
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        let span = this.span.clone();
        let _entered = span.enter();
        this.poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}
