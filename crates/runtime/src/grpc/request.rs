//! The body of a request for a stream, which has to arrive in time.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// A request body that fails with DEADLINE_EXCEEDED when it has not arrived within its time. A
/// stream has no other bound before its message is there, and its caller may never send one.
pub(super) struct Prompt {
    body: Incoming,
    time: Pin<Box<Sleep>>,
}

impl Prompt {
    pub(super) fn new(body: Incoming, time: Duration) -> Self {
        Self {
            body,
            time: Box::pin(sleep(time)),
        }
    }
}

impl HttpBody for Prompt {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(
                frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))),
            ),
            Poll::Pending => self.time.as_mut().poll(cx).map(|()| {
                let late = "the request message did not arrive in time";
                Some(Err(Status::deadline_exceeded(late)))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
