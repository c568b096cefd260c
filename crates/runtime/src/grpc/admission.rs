//! A call's place among the calls in flight of its RPC.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedSemaphorePermit;
use tonic::Request;

/// The place that a call takes among those in flight of its RPC, until its answer is sent or the
/// call is dropped. Cheap to clone; clones are the same place.
#[derive(Clone)]
pub struct Admission(Arc<Mutex<Place>>);

/// The RPC's permit or what a handler put in its place; none once the call is over.
type Place = Option<Box<dyn Any + Send>>;

impl Admission {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(permit)))))
    }

    /// Gives the RPC's permit back and holds `other` instead, for as long as the call lives. For
    /// calls that wait: they take a place of another pool and leave the RPC to calls that work.
    /// When the call is over already, `other` is dropped at once.
    pub fn hold_instead(&self, other: impl Any + Send) {
        let mut place = self.lock();
        if place.is_some() {
            *place = Some(Box::new(other));
        }
    }

    /// Frees whatever the call holds.
    pub(super) fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = self.lock().is_none();
        f.debug_struct("Admission").field("ended", &ended).finish()
    }
}

/// The place of `request`'s call; none when it came another way than through a
/// [`GrpcServer`](super::GrpcServer).
#[must_use]
pub fn admission_of<T>(request: &Request<T>) -> Option<Admission> {
    request.extensions().get().cloned()
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn a_call_that_holds_something_else_gives_its_permit_back() {
        let (rpc, waiting) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let permit = |pool: &Arc<Semaphore>| pool.clone().try_acquire_owned().unwrap();
        let admission = Admission::new(permit(&rpc));
        admission.clone().hold_instead(permit(&waiting));
        assert_eq!(
            (rpc.available_permits(), waiting.available_permits()),
            (1, 0)
        );
        admission.end();
        assert_eq!(waiting.available_permits(), 1);
        admission.hold_instead(permit(&waiting));
        assert_eq!(waiting.available_permits(), 1);
    }
}
