//! CancelCoupon, called synchronously: the one call of the mesh that the circuit breaker guards.

use std::time::Duration;

use couponmesh_proto::coupon::v1::{
    CancelCouponRequest, Coupon, coupon_service_client::CouponServiceClient,
};
use couponmesh_runtime::{
    Timestamp,
    context::CORRELATION_HEADER,
    id::CouponId,
    status,
    telemetry::{self, TRACEPARENT_HEADER},
};
use tonic::{
    Code, Request, Status, TimeoutExpired,
    metadata::MetadataMap,
    transport::{Channel, Endpoint, Error},
};

use crate::withdrawals::{Model, Reason};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a busy connection is asked whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The cancelled coupon, as far as members are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Cancelled {
    /// The coupon.
    pub coupon_id: CouponId,
    /// When it was issued; none when it never was.
    pub issue_time: Option<Timestamp>,
    /// When it was cancelled.
    pub cancel_time: Timestamp,
}

/// Why a coupon is not known to be cancelled.
#[derive(Debug)]
pub struct Refusal {
    /// For the caller's information, and for the worker's pace.
    pub reason: Reason,
    /// How long the other side asked to be left alone.
    pub retry_after: Option<Duration>,
    /// For the log.
    pub code: Code,
    /// For the log.
    pub message: String,
}

/// Calls the coupon service over one lasting connection, made when it is first needed.
#[derive(Clone, Debug)]
pub struct CouponClient {
    client: CouponServiceClient<Channel>,
    deadline: Duration,
}

impl CouponClient {
    /// A client of the coupon service at `address`, e.g. `http://coupon:50051`.
    ///
    /// # Errors
    /// When `address` is no URL.
    pub fn new(address: &str, deadline: Duration) -> Result<Self, Error> {
        let channel = Endpoint::from_shared(address.to_owned())?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Self::over(channel, deadline))
    }

    /// A client of the coupon service at the other end of `channel`.
    #[must_use]
    pub fn over(channel: Channel, deadline: Duration) -> Self {
        Self {
            client: CouponServiceClient::new(channel),
            deadline,
        }
    }

    /// Cancels the coupon of the withdrawal's member. Idempotent.
    ///
    /// # Errors
    /// [`Refusal`] when the coupon is not known to be cancelled.
    pub async fn cancel(&self, withdrawal: &Model) -> Result<Cancelled, Refusal> {
        let mut request = Request::new(CancelCouponRequest {
            member_id: withdrawal.member_id.to_string(),
            withdrawal_id: withdrawal.withdrawal_id.to_string(),
            reason: "the member withdraws".to_owned(),
        });
        request.set_timeout(self.deadline);
        add_context(request.metadata_mut(), withdrawal);
        let mut client = self.client.clone();
        // The header tells the other side; this bounds the wait for a side that tells nothing.
        let answer = tokio::time::timeout(self.deadline, client.cancel_coupon(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let coupon = answer
            .map_err(|status| refusal(&status))?
            .into_inner()
            .coupon;
        coupon.as_ref().and_then(cancelled).ok_or_else(|| Refusal {
            reason: Reason::Rejected,
            retry_after: None,
            code: Code::Internal,
            message: "the answer holds no cancelled coupon".to_owned(),
        })
    }
}

fn add_context(metadata: &mut MetadataMap, withdrawal: &Model) {
    let context = withdrawal.context();
    let traceparent = telemetry::child_of(&context, "CancelCoupon");
    let request_id = traceparent
        .as_deref()
        .and_then(|trace| telemetry::request_id_of(trace, withdrawal.withdrawal_id.0));
    let correlation_id = Some(context.correlation_id.as_str().to_owned());
    for (key, value) in [
        (CORRELATION_HEADER, correlation_id),
        (TRACEPARENT_HEADER, traceparent),
        ("x-request-id", request_id),
    ] {
        // All are visible ASCII by construction.
        if let Some(Ok(value)) = value.map(|text| text.parse()) {
            metadata.insert(key, value);
        }
    }
}

fn cancelled(coupon: &Coupon) -> Option<Cancelled> {
    Some(Cancelled {
        coupon_id: CouponId::parse(&coupon.coupon_id)?,
        issue_time: coupon.issue_time.map(Timestamp::from),
        cancel_time: coupon.cancel_time?.into(),
    })
}

fn refusal(status: &Status) -> Refusal {
    Refusal {
        reason: reason(status),
        retry_after: status::retry_delay_of(status),
        code: status.code(),
        message: status.message().to_owned(),
    }
}

/// The texts and the header are Envoy's.
fn reason(status: &Status) -> Reason {
    // Made on this side, without an answer: by the timer, or by a connection that failed or broke.
    if let Some(source) = std::error::Error::source(status) {
        let mut causes = std::iter::successors(Some(source), |cause| cause.source());
        return if causes.any(|cause| cause.is::<TimeoutExpired>()) {
            Reason::Timeout
        } else {
            Reason::Unreachable
        };
    }
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => Reason::Timeout,
        Code::ResourceExhausted => Reason::Overloaded,
        Code::Unavailable => unavailable(status),
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Reason::Rejected,
    }
}

fn unavailable(status: &Status) -> Reason {
    let overloaded = status.metadata().contains_key("x-envoy-overloaded")
        || status::reason_of(status).as_deref() == Some(status::Reason::Overloaded.as_str());
    if overloaded {
        Reason::Overloaded
    } else if status.message().contains("no healthy upstream") {
        Reason::NoHealthyUpstream
    } else if status.message().contains("upstream request timeout") {
        Reason::Timeout
    } else {
        Reason::Unreachable
    }
}

#[cfg(test)]
mod tests {
    use couponmesh_runtime::id::{MemberId, WithdrawalId};
    use sea_orm::prelude::Uuid;

    use super::*;
    use crate::withdrawals::State;

    #[test]
    fn a_recorded_trace_goes_along_with_envoys_mark_of_it() {
        let id = Uuid::parse_str("01a20843-c32b-7dd6-aefb-17a3e6e22d00").unwrap();
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let now = couponmesh_runtime::Clock::system().now();
        let withdrawal = Model {
            withdrawal_id: WithdrawalId(id),
            member_id: MemberId(id),
            state: State::Pending,
            attempt_count: 1,
            next_attempt_time: None,
            claim_end_time: None,
            pending_reason: None,
            request_time: now,
            complete_time: None,
            correlation_id: "mine".to_owned(),
            traceparent: Some(traceparent.to_owned()),
        };
        let mut sent = MetadataMap::new();
        add_context(&mut sent, &withdrawal);
        assert_eq!(sent.get(CORRELATION_HEADER).unwrap(), "mine");
        assert_eq!(sent.get(TRACEPARENT_HEADER).unwrap(), traceparent);
        let marked = "01a20843-c32b-9dd6-aefb-17a3e6e22d00";
        assert_eq!(sent.get("x-request-id").unwrap(), marked);
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let mut by_envoy = Status::unavailable("upstream connect error");
        by_envoy
            .metadata_mut()
            .insert("x-envoy-overloaded", "true".parse().unwrap());
        for (status, expected) in [
            (by_envoy, Reason::Overloaded),
            (
                status::overloaded("busy", Duration::from_secs(2)),
                Reason::Overloaded,
            ),
            (
                Status::unavailable("no healthy upstream"),
                Reason::NoHealthyUpstream,
            ),
            (
                Status::unavailable("upstream request timeout"),
                Reason::Timeout,
            ),
            (Status::deadline_exceeded(""), Reason::Timeout),
            (
                Status::from_error(Box::new(TimeoutExpired(()))),
                Reason::Timeout,
            ),
            (
                Status::from_error(Box::new(std::io::Error::other("broken pipe"))),
                Reason::Unreachable,
            ),
            (
                Status::unavailable("connection refused"),
                Reason::Unreachable,
            ),
            (
                Status::permission_denied("RBAC: access denied"),
                Reason::Rejected,
            ),
            (Status::unimplemented(""), Reason::Rejected),
            (Status::internal(""), Reason::Rejected),
        ] {
            assert_eq!(reason(&status), expected, "{status:?}");
        }
        let refusal = refusal(&status::overloaded("busy", Duration::from_secs(2)));
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(2)));
    }
}
