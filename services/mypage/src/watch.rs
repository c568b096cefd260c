//! Watching a page: it is sent at once, and again at every change.

use std::{sync::Arc, time::Duration};

use couponmesh_proto::mypage::v1 as proto;
use futures::{Stream, stream};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::{
    error::Error,
    pages::{Model, Versions},
    places::Place,
    watchers::Watch,
};

/// A watcher between two pages. Ten thousand of them wait at once, so it is small.
pub(crate) struct Watching {
    watch: Watch,
    _place: Place,
    /// The page that was there when the watch began, until it is sent.
    first: Option<Arc<Model>>,
    shown: Versions,
    /// When the caller is asked to watch anew, maybe another replica.
    end: Instant,
}

impl Watching {
    pub(crate) fn new(watch: Watch, place: Place, first: Arc<Model>, age: Duration) -> Self {
        Self {
            watch,
            _place: place,
            shown: first.versions(),
            first: Some(first),
            end: Instant::now() + age,
        }
    }

    /// The pages, until the watch ends with an error.
    pub(crate) fn pages(
        self,
    ) -> impl Stream<Item = Result<proto::WatchMyPageResponse, Status>> + Send {
        // Boxed: the future that waits holds it more than once.
        stream::unfold(Some(Box::new(self)), |watching| async move {
            let mut watching = watching?;
            Some(match watching.next().await {
                Ok(page) => {
                    watching.shown = page.versions();
                    let page = Some(page.as_ref().into());
                    (Ok(proto::WatchMyPageResponse { page }), Some(watching))
                }
                Err(error) => (Err(error.into()), None),
            })
        })
    }

    /// Looks for a page only when the one before is sent: a slow watcher gets the newest and
    /// nothing piles up.
    async fn next(&mut self) -> Result<Arc<Model>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            let changed = timeout_at(self.end, self.watch.changed()).await;
            if let Some(page) = changed.map_err(|_| Error::Aged)??
                && page.versions() != self.shown
            {
                return Ok(page);
            }
        }
    }
}
