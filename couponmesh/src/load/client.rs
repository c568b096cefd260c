//! The connections to couponmesh.

use std::{error::Error as _, sync::Arc, time::Duration};

use couponmesh_proto::{
    coupon::v1::coupon_service_client::CouponServiceClient,
    member::v1::member_service_client::MemberServiceClient,
    mypage::v1::my_page_service_client::MyPageServiceClient,
};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call may take before it counts as unanswered.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections for the load, and one more for everything that only looks on, so that watching never
/// queues behind registering. Each reconnects by itself.
#[derive(Clone, Debug)]
pub(super) struct Client {
    load: Arc<[Channel]>,
    side: Channel,
}

impl Client {
    /// Opens every connection.
    ///
    /// # Errors
    /// One line that names the address and what is wrong with it.
    pub(super) async fn connect(address: &str, connections: usize) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .ok()
            .filter(|endpoint| {
                endpoint.uri().scheme_str() == Some("http") && endpoint.uri().host().is_some()
            })
            .ok_or_else(|| {
                format!("--address {address}: must be like http://127.0.0.1:50051 (no TLS)")
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        let connect = || async {
            endpoint
                .connect()
                .await
                .map_err(|error| format!("cannot reach {address}: {}", root_cause(&error)))
        };
        let side = connect().await?;
        let mut load = Vec::with_capacity(connections);
        for _ in 0..connections {
            load.push(connect().await?);
        }
        Ok(Self {
            load: load.into(),
            side,
        })
    }

    /// The member service, on the connection that call `index` shares with a few others.
    pub(super) fn members(&self, index: usize) -> MemberServiceClient<Channel> {
        MemberServiceClient::new(self.load[index % self.load.len()].clone())
    }

    /// The member service, for polling.
    pub(super) fn withdrawals(&self) -> MemberServiceClient<Channel> {
        MemberServiceClient::new(self.side.clone())
    }

    /// The coupon service.
    pub(super) fn coupons(&self) -> CouponServiceClient<Channel> {
        CouponServiceClient::new(self.side.clone())
    }

    /// My Page.
    pub(super) fn pages(&self) -> MyPageServiceClient<Channel> {
        MyPageServiceClient::new(self.side.clone())
    }
}

/// A unary request with a deadline. Streams have none: a proxy would cut them off at it.
pub(super) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// tonic says "transport error" and keeps what the operator needs at the end of the chain.
fn root_cause(error: &tonic::transport::Error) -> String {
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(|error| error.source()) {
        cause = Some(deeper);
    }
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_no_http_url_is_refused_in_one_line() {
        for address in ["localhost:50051", "https://example.com", "not a url", ""] {
            let error = Client::connect(address, 1).await.unwrap_err();
            assert!(error.contains("must be like http://"), "{address}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[tokio::test]
    async fn an_address_where_nothing_listens_says_why() {
        // Bound and dropped: free, and nobody else's.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let error = Client::connect(&format!("http://127.0.0.1:{port}"), 1)
            .await
            .unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }
}
