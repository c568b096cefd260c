//! Door 1: gRPC.

use couponmesh_messaging::Store;
use couponmesh_proto::member::v1::{self as proto, member_service_server::MemberService};
use couponmesh_runtime::{
    database::answered_by,
    field::{self, Violation},
    grpc::{answer_by, context_of},
    id::{MemberId, RequestId, WithdrawalId},
    page::Paging,
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
        let withdrawer = self.withdrawer.clone();
        let attempt = withdrawer.withdraw(leaving, answer_by, stored);
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

/// The state that a list is filtered by, if any.
fn state_filter(number: i32) -> Result<Option<State>, Violation> {
    let state = State::from_request(number);
    if number != 0 && state.is_none() {
        return Err(Violation::new("state", "is not a state of members"));
    }
    Ok(state)
}

#[tonic::async_trait]
impl MemberService for Door {
    async fn register_member(
        &self,
        request: Request<proto::RegisterMemberRequest>,
    ) -> Result<Response<proto::RegisterMemberResponse>, Status> {
        let context = context_of(&request)?;
        let answer_by = answer_by(&request);
        let request = request.into_inner();
        let (request_id, email, display_name) = field::all((
            RequestId::from_optional_field("request_id", &request.request_id),
            Email::parse(&request.email),
            DisplayName::parse(&request.display_name),
        ))?;
        let registration = Registration {
            request_id,
            email,
            display_name,
            context,
        };
        let register = self.registrar.register(registration);
        let member = answered_by(answer_by, register).await?;
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
        let email = match request.email.as_str() {
            "" => Ok(None),
            text => Email::parse(text).map(Some),
        };
        let (paging, state, email) = field::all((
            Paging::parse(request.page_size, &request.page_token),
            state_filter(request.state),
            email,
        ))?;
        let filter = format!(
            "members|{}|{}",
            request.state,
            email.as_ref().map_or("", Email::expose)
        );
        let page = paging.of(&filter)?;
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
        let (request_id, member_id) = field::all((
            RequestId::from_optional_field("request_id", &request.request_id),
            MemberId::from_field("member_id", &request.member_id),
        ))?;
        let leaving = Leaving {
            request_id,
            member_id,
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
