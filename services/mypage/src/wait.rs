//! Waiting for a page, or for a version of it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use couponmesh_runtime::id::MemberId;

use crate::{
    MyPageConfig,
    error::Error,
    pages::Model,
    places::{Place, Places},
    watchers::Watch,
};

/// Where calls wait, apart from those that are answered at once. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct WaitingRoom {
    all: Arc<Semaphore>,
    places: Places,
    longest: Duration,
}

impl WaitingRoom {
    pub(crate) fn new(config: &MyPageConfig) -> Self {
        Self {
            all: Arc::new(Semaphore::new(config.max_waiting)),
            places: Places::new(config.max_waiting_per_member),
            longest: config.wait,
        }
    }

    /// Lets in one call more that waits for a member's page.
    ///
    /// # Errors
    /// OVERLOADED when the room is full, or this member's part of it.
    pub(crate) fn enter(
        &self,
        member_id: MemberId,
    ) -> Result<(OwnedSemaphorePermit, Place), Error> {
        let full = || Error::Overloaded("too many calls wait for pages");
        let permit = self.all.clone().try_acquire_owned().map_err(|_| full())?;
        let full = || Error::Overloaded("member_id: too many calls wait for this member's page");
        let place = self.places.take(member_id).ok_or_else(full)?;
        Ok((permit, place))
    }

    /// Until when a call that begins to wait now may wait, if it is to be answered by `answer_by`.
    pub(crate) fn until(&self, answer_by: Option<Instant>) -> Instant {
        let longest = Instant::now() + self.longest;
        answer_by.map_or(longest, |answer_by| answer_by.min(longest))
    }
}

/// The page, once it shows `version` of the member; at `end`, as it then is. `page` is what is
/// known of it.
///
/// # Errors
/// The database's; that there is no page; that the server drains and there is none yet.
pub(crate) async fn page_at(
    watch: &mut Watch,
    mut page: Option<Arc<Model>>,
    version: i64,
    end: Instant,
) -> Result<Arc<Model>, Error> {
    let mut news = watch.read().await;
    loop {
        match news {
            Ok(newest) => page = newest,
            Err(Error::Draining) => return page.ok_or(Error::Draining),
            Err(error) => return Err(error),
        }
        let is_there = page.as_ref().is_some_and(|page| shows(page, version));
        if is_there || Instant::now() >= end {
            return page.ok_or(Error::PageNotFound);
        }
        news = tokio::select! {
            news = watch.changed() => news,
            // Its signal may be lost.
            () = sleep_until(end) => watch.read().await,
        };
    }
}

/// Whether a page shows `version` of its member.
pub(crate) fn shows(page: &Model, version: i64) -> bool {
    page.member_version >= version
}
