//! Door 1: gRPC.

use std::{pin::Pin, sync::Arc, time::Duration};

use couponmesh_messaging::Store;
use couponmesh_proto::mypage::v1::{self as proto, my_page_service_server::MyPageService};
use couponmesh_runtime::{
    field::{self, Violation},
    grpc::{Admission, admission_of, answer_by},
    id::MemberId,
};
use futures::Stream;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::{
    MyPageConfig,
    error::Error,
    pages::{self, Model},
    places::Places,
    wait::{self, WaitingRoom},
    watch::Watching,
    watchers::Watchers,
};

/// My Page's gRPC door.
#[derive(Clone, Debug)]
pub struct Door {
    store: Store,
    watchers: Watchers,
    waiting: WaitingRoom,
    watches: Places,
    watch_max_age: Duration,
}

impl Door {
    pub(crate) fn new(store: Store, watchers: Watchers, config: &MyPageConfig) -> Self {
        Self {
            store,
            watchers,
            waiting: WaitingRoom::new(config),
            watches: Places::new(config.max_watches_per_member),
            watch_max_age: config.watch_max_age,
        }
    }

    /// The page, once it shows `version` of the member; after the longest wait, as it then is.
    async fn page_at(
        &self,
        member_id: MemberId,
        version: i64,
        answer_by: Option<Instant>,
        admission: Option<Admission>,
    ) -> Result<Arc<Model>, Error> {
        let page = pages::find(self.store.read(), member_id).await?;
        let page = page.map(Arc::new);
        if let Some(page) = page.as_ref().filter(|page| wait::shows(page, version)) {
            return Ok(page.clone());
        }
        let place = self.waiting.enter(member_id)?;
        // Calls that wait do not keep out those that are answered at once.
        let _place = match admission {
            Some(admission) => {
                admission.hold_instead(place);
                None
            }
            None => Some(place),
        };
        let end = self.waiting.until(answer_by);
        let mut watch = self.watchers.watch(member_id);
        wait::page_at(&mut watch, page, version, end).await
    }
}

#[tonic::async_trait]
impl MyPageService for Door {
    async fn get_my_page(
        &self,
        request: Request<proto::GetMyPageRequest>,
    ) -> Result<Response<proto::GetMyPageResponse>, Status> {
        let (answer_by, admission) = (answer_by(&request), admission_of(&request));
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
            0 => {
                let page = pages::find(self.store.read(), member_id).await;
                let page = page.map_err(Error::from)?.ok_or(Error::PageNotFound)?;
                Arc::new(page)
            }
            version => {
                self.page_at(member_id, version, answer_by, admission)
                    .await?
            }
        };
        Ok(Response::new(proto::GetMyPageResponse {
            page: Some(page.as_ref().into()),
        }))
    }

    type WatchMyPageStream =
        Pin<Box<dyn Stream<Item = Result<proto::WatchMyPageResponse, Status>> + Send>>;

    async fn watch_my_page(
        &self,
        request: Request<proto::WatchMyPageRequest>,
    ) -> Result<Response<Self::WatchMyPageStream>, Status> {
        let member_id = MemberId::from_field("member_id", &request.get_ref().member_id)?;
        let full = || Error::Overloaded("member_id: too many watches of this member's page");
        let place = self.watches.take(member_id).ok_or_else(full)?;
        let mut watch = self.watchers.watch(member_id);
        let first = if let Some(page) = watch.read().await? {
            page
        } else {
            let _waiting = self.waiting.enter(member_id)?;
            let end = self.waiting.until(answer_by(&request));
            wait::page_at(&mut watch, None, 1, end).await?
        };
        let age = self.store.random().around(self.watch_max_age);
        let watching = Watching::new(watch, place, first, age);
        Ok(Response::new(Box::pin(watching.pages())))
    }
}
