//! Door 1: gRPC, queries only.

use couponmesh_messaging::Store;
use couponmesh_proto::notification::v1::{
    self as proto, notification_service_server::NotificationService,
};
use couponmesh_runtime::{
    field::{self, Violation},
    id::{MemberId, NotificationId},
    page::Paging,
};
use tonic::{Request, Response, Status};

use crate::{
    error::Error,
    notifications::{self, State},
};

/// The notification service's gRPC door.
#[derive(Clone, Debug)]
pub struct Door {
    store: Store,
}

impl Door {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }
}

/// The state that a list is filtered by, if any.
fn state_filter(number: i32) -> Result<Option<State>, Violation> {
    let state = State::from_request(number);
    if number != 0 && state.is_none() {
        return Err(Violation::new("state", "is not a state of notifications"));
    }
    Ok(state)
}

#[tonic::async_trait]
impl NotificationService for Door {
    async fn get_notification(
        &self,
        request: Request<proto::GetNotificationRequest>,
    ) -> Result<Response<proto::GetNotificationResponse>, Status> {
        let id = NotificationId::from_field("notification_id", &request.get_ref().notification_id)?;
        let notification = notifications::find(self.store.read(), id)
            .await
            .map_err(Error::from)?
            .ok_or(Error::NotificationNotFound)?;
        Ok(Response::new(proto::GetNotificationResponse {
            notification: Some(notification.into()),
        }))
    }

    async fn list_notifications(
        &self,
        request: Request<proto::ListNotificationsRequest>,
    ) -> Result<Response<proto::ListNotificationsResponse>, Status> {
        let request = request.into_inner();
        let (paging, member_id, state) = field::all((
            Paging::parse(request.page_size, &request.page_token),
            MemberId::from_optional_field("member_id", &request.member_id),
            state_filter(request.state),
        ))?;
        let member = member_id.map(|id| id.to_string()).unwrap_or_default();
        let filter = format!("notifications|{member}|{}", request.state);
        let page = paging.of(&filter)?;
        let mut rows = notifications::list(self.store.read(), &page, member_id, state)
            .await
            .map_err(Error::from)?;
        let next_page_token = page.finish(&mut rows, |row| row.notification_id.0);
        let notifications = rows.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ListNotificationsResponse {
            notifications,
            next_page_token,
        }))
    }
}
