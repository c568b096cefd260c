//! Door 1: gRPC.

use couponmesh_messaging::Store;
use couponmesh_proto::member::v1::{self as proto, member_service_server::MemberService};
use couponmesh_runtime::{
    grpc::{answer_by, context_of},
    id::{MemberId, RequestId, WithdrawalId},
    page::Page,
    running::Running,
};
use tokio::{sync::oneshot, time::Instant};
use tonic::{Request, Response, Status};

use crate::{
    error::Error,
    members::{self, State},
    profile::{DisplayName, Email},
    register::{Registrar, Registration},
    withdraw::{Leaving, Withdrawer},
    withdrawals,
};

/// The member service's gRPC door.
#[derive(Clone, Debug)]
pub struct Door {
    store: Store,
    registrar: Registrar,
    withdrawer: Withdrawer,
    running: Running,
}

impl Door {
    pub(crate) fn new(
        store: Store,
        registrar: Registrar,
        withdrawer: Withdrawer,
        running: Running,
    ) -> Self {
        Self {
            store,
            registrar,
            withdrawer,
            running,
        }
    }

    /// Withdraws in a task of its own, which goes on when the caller hangs up. A caller whose deadline
    /// comes first gets the withdrawal as it was stored, PENDING, shortly before it.
    async fn withdraw(
        &self,
        leaving: Leaving,
        answer_by: Option<Instant>,
    ) -> Result<withdrawals::Model, Error> {
        let (stored, mut stored_first) = oneshot::channel();
        let attempt = self.withdrawer.clone().withdraw(leaving, stored);
        let attempt = self.running.spawn(attempt);
        let mut attempt = std::pin::pin!(attempt);
        if let Some(early) = answer_by {
            if let Ok(ended) = tokio::time::timeout_at(early, &mut attempt).await {
                return ended.unwrap_or(Err(Error::Overloaded));
            }
            if let Ok(pending) = stored_first.try_recv() {
                return Ok(pending);
            }
        }
        // Ends without an answer only when the task panicked.
        attempt.await.unwrap_or(Err(Error::Overloaded))
    }
}

/// The optional request id.
#[allow(clippy::result_large_err)] // tonic's
fn request_id(text: &str) -> Result<Option<RequestId>, Status> {
    if text.is_empty() {
        Ok(None)
    } else {
        RequestId::from_field("request_id", text).map(Some)
    }
}

#[tonic::async_trait]
impl MemberService for Door {
    async fn register_member(
        &self,
        request: Request<proto::RegisterMemberRequest>,
    ) -> Result<Response<proto::RegisterMemberResponse>, Status> {
        let context = context_of(&request)?;
        let request = request.into_inner();
        let registration = Registration {
            request_id: request_id(&request.request_id)?,
            email: Email::parse(&request.email)?,
            display_name: DisplayName::parse(&request.display_name)?,
            context,
        };
        let member = self.registrar.register(registration).await?;
        Ok(Response::new(proto::RegisterMemberResponse {
            member: Some(member.into()),
        }))
    }

    async fn get_member(
        &self,
        request: Request<proto::GetMemberRequest>,
    ) -> Result<Response<proto::GetMemberResponse>, Status> {
        let id = MemberId::from_field("member_id", &request.get_ref().member_id)?;
        let member = members::find(self.store.read(), id)
            .await
            .map_err(Error::from)?
            .ok_or(Error::MemberNotFound)?;
        Ok(Response::new(proto::GetMemberResponse {
            member: Some(member.into()),
        }))
    }

    async fn list_members(
        &self,
        request: Request<proto::ListMembersRequest>,
    ) -> Result<Response<proto::ListMembersResponse>, Status> {
        let request = request.into_inner();
        let state = State::from_request(request.state);
        if request.state != 0 && state.is_none() {
            return Err(Error::Field {
                field: "state",
                why: "is not a state of members",
            }
            .into());
        }
        let email = if request.email.is_empty() {
            None
        } else {
            Some(Email::parse(&request.email)?)
        };
        let filter = format!(
            "members|{}|{}",
            request.state,
            email.as_ref().map_or("", Email::expose)
        );
        let page = Page::parse(request.page_size, &request.page_token, &filter)?;
        let mut rows = members::list(self.store.read(), &page, state, email.as_ref())
            .await
            .map_err(Error::from)?;
        let next_page_token = page.finish(&mut rows, |row| row.member_id.0);
        let members = rows.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ListMembersResponse {
            members,
            next_page_token,
        }))
    }

    async fn withdraw_member(
        &self,
        request: Request<proto::WithdrawMemberRequest>,
    ) -> Result<Response<proto::WithdrawMemberResponse>, Status> {
        let (context, answer_by) = (context_of(&request)?, answer_by(&request));
        let request = request.into_inner();
        let leaving = Leaving {
            request_id: request_id(&request.request_id)?,
            member_id: MemberId::from_field("member_id", &request.member_id)?,
            context,
        };
        let withdrawal = self.withdraw(leaving, answer_by).await?;
        Ok(Response::new(proto::WithdrawMemberResponse {
            withdrawal: Some(withdrawal.into()),
        }))
    }

    async fn get_withdrawal(
        &self,
        request: Request<proto::GetWithdrawalRequest>,
    ) -> Result<Response<proto::GetWithdrawalResponse>, Status> {
        let id = WithdrawalId::from_field("withdrawal_id", &request.get_ref().withdrawal_id)?;
        let withdrawal = withdrawals::find(self.store.read(), id)
            .await
            .map_err(Error::from)?
            .ok_or(Error::WithdrawalNotFound)?;
        Ok(Response::new(proto::GetWithdrawalResponse {
            withdrawal: Some(withdrawal.into()),
        }))
    }
}
