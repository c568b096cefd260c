//! Door 1: gRPC.

use std::{pin::Pin, time::Duration};

use couponmesh_messaging::Store;
use couponmesh_proto::mypage::v1::{self as proto, my_page_service_server::MyPageService};
use couponmesh_runtime::{
    field::{self, Violation},
    grpc::answer_by,
    id::MemberId,
};
use futures::{Stream, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    MyPageConfig,
    error::Error,
    pages::{self, Model},
    watchers::{Watch, Watchers},
};

/// My Page's gRPC door.
#[derive(Clone, Debug)]
pub struct Door {
    store: Store,
    watchers: Watchers,
    wait: Duration,
    draining: CancellationToken,
}

impl Door {
    pub(crate) fn new(
        store: Store,
        watchers: Watchers,
        config: &MyPageConfig,
        draining: CancellationToken,
    ) -> Self {
        Self {
            store,
            watchers,
            wait: config.wait,
            draining,
        }
    }

    /// The page, once it shows `version` of the member; after the longest wait, as it then is.
    async fn page_at(
        &self,
        watch: &mut Watch,
        member_id: MemberId,
        version: i64,
        answer_by: Option<Instant>,
    ) -> Result<Model, Error> {
        let longest = Instant::now() + self.wait;
        let end = answer_by.map_or(longest, |answer_by| answer_by.min(longest));
        loop {
            let page = pages::find(self.store.read(), member_id).await?;
            if page
                .as_ref()
                .is_some_and(|page| page.member_version >= version)
                || Instant::now() >= end
            {
                return page.ok_or(Error::PageNotFound);
            }
            tokio::select! {
                () = watch.changed() => {}
                () = tokio::time::sleep_until(end) => {}
                () = self.draining.cancelled() => return page.ok_or(Error::Draining),
            }
        }
    }

    /// The page, once it shows something else than `shown`.
    async fn next_page(
        &self,
        watch: &mut Watch,
        member_id: MemberId,
        shown: Versions,
    ) -> Result<Model, Error> {
        loop {
            tokio::select! {
                () = self.draining.cancelled() => return Err(Error::Draining),
                () = watch.changed() => {}
            }
            if let Some(page) = pages::find(self.store.read(), member_id).await?
                && versions(&page) != shown
            {
                return Ok(page);
            }
        }
    }
}

/// Of the member and of the coupon that a page shows.
type Versions = (i64, i64);

fn versions(page: &Model) -> Versions {
    (page.member_version, page.coupon_version)
}

/// A watcher between two pages.
struct Watching {
    door: Door,
    watch: Watch,
    member_id: MemberId,
    /// The page that was there when the watch began, until it is sent.
    first: Option<Model>,
    shown: Versions,
}

impl Watching {
    /// Reads a page only when the one before is sent: a slow watcher gets the newest and nothing piles up.
    async fn next(mut self) -> (Result<proto::WatchMyPageResponse, Status>, Option<Self>) {
        let page = match self.first.take() {
            Some(first) => Ok(first),
            None => {
                self.door
                    .next_page(&mut self.watch, self.member_id, self.shown)
                    .await
            }
        };
        match page {
            Ok(page) => {
                self.shown = versions(&page);
                let page = Some(page.into());
                (Ok(proto::WatchMyPageResponse { page }), Some(self))
            }
            Err(error) => (Err(error.into()), None),
        }
    }
}

#[tonic::async_trait]
impl MyPageService for Door {
    async fn get_my_page(
        &self,
        request: Request<proto::GetMyPageRequest>,
    ) -> Result<Response<proto::GetMyPageResponse>, Status> {
        let answer_by = answer_by(&request);
        let request = request.into_inner();
        let min_version = match request.min_version {
            ..0 => Err(Violation::new("min_version", "must not be negative")),
            version => Ok(version),
        };
        let (member_id, min_version) = field::all((
            MemberId::from_field("member_id", &request.member_id),
            min_version,
        ))?;
        let page = match min_version {
            0 => pages::find(self.store.read(), member_id)
                .await
                .map_err(Error::from)?
                .ok_or(Error::PageNotFound)?,
            version => {
                let mut watch = self.watchers.watch(member_id);
                self.page_at(&mut watch, member_id, version, answer_by)
                    .await?
            }
        };
        Ok(Response::new(proto::GetMyPageResponse {
            page: Some(page.into()),
        }))
    }

    type WatchMyPageStream =
        Pin<Box<dyn Stream<Item = Result<proto::WatchMyPageResponse, Status>> + Send>>;

    async fn watch_my_page(
        &self,
        request: Request<proto::WatchMyPageRequest>,
    ) -> Result<Response<Self::WatchMyPageStream>, Status> {
        let member_id = MemberId::from_field("member_id", &request.get_ref().member_id)?;
        let mut watch = self.watchers.watch(member_id);
        let first = self
            .page_at(&mut watch, member_id, 1, answer_by(&request))
            .await?;
        let watching = Watching {
            door: self.clone(),
            watch,
            member_id,
            shown: versions(&first),
            first: Some(first),
        };
        let pages = stream::unfold(Some(watching), |watching| async move {
            Some(watching?.next().await)
        });
        Ok(Response::new(Box::pin(pages)))
    }
}
