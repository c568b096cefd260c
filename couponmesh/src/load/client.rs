//! The connections to couponmesh.

use std::{error::Error as _, sync::Arc, time::Duration};

use couponmesh_proto::{
    coupon::v1::coupon_service_client::CouponServiceClient,
    member::v1::member_service_client::MemberServiceClient,
    mypage::v1::my_page_service_client::MyPageServiceClient,
};
use tonic::{
    Request,
    transport::{Channel, ClientTlsConfig, Endpoint, Uri},
};

use super::{LoadArgs, tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call may take before it counts as unanswered.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections for the load, and one more for everything that only looks on, so that watching never
/// queues behind registering. Each reconnects by itself.
#[derive(Clone, Debug)]
pub(super) struct Client {
    load: Arc<[Channel]>,
    side: Channel,
    coupons: Channel,
    pages: Channel,
}

impl Client {
    /// Opens every connection.
    ///
    /// # Errors
    /// One line that names the address and what is wrong with it.
    pub(super) async fn connect(args: &LoadArgs) -> Result<Self, String> {
        let tls = tls(args)?;
        let members = endpoint("--address", &args.address, tls.as_ref())?;
        let side = connect(&members).await?;
        let elsewhere = async |option: &str, address: &Option<String>| match address {
            Some(address) => connect(&endpoint(option, address, tls.as_ref())?).await,
            None => Ok(side.clone()),
        };
        let coupons = elsewhere("--coupon-address", &args.coupon_address).await?;
        let pages = elsewhere("--mypage-address", &args.mypage_address).await?;
        let connections = args.pace().connections();
        let mut load = Vec::with_capacity(connections);
        for _ in 0..connections {
            load.push(connect(&members).await?);
        }
        Ok(Self {
            load: load.into(),
            side,
            coupons,
            pages,
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
        CouponServiceClient::new(self.coupons.clone())
    }

    /// My Page.
    pub(super) fn pages(&self) -> MyPageServiceClient<Channel> {
        MyPageServiceClient::new(self.pages.clone())
    }
}

/// TLS, when any of the addresses wants it.
fn tls(args: &LoadArgs) -> Result<Option<ClientTlsConfig>, String> {
    let others = [&args.coupon_address, &args.mypage_address];
    let mut addresses = others.into_iter().flatten().chain([&args.address]);
    let ca_file = args.ca_file.as_deref();
    if addresses.any(|address| is_https(address)) {
        return tls::config(ca_file).map(Some);
    }
    match ca_file {
        Some(_) => Err("--ca-file: no address begins with https://".to_owned()),
        None => Ok(None),
    }
}

/// Whether the address wants TLS.
fn is_https(address: &str) -> bool {
    let uri = address.parse::<Uri>();
    uri.is_ok_and(|uri| uri.scheme_str() == Some("https"))
}

fn endpoint(
    option: &str,
    address: &str,
    tls: Option<&ClientTlsConfig>,
) -> Result<Endpoint, String> {
    let is_http = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    let endpoint = Endpoint::from_shared(address.to_owned())
        .ok()
        .filter(|endpoint| is_http(endpoint.uri()) && endpoint.uri().host().is_some())
        .ok_or_else(|| {
            format!(
                "{option} {address}: must be like http://127.0.0.1:50051 or https://example.com"
            )
        })?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    match tls {
        Some(tls) if is_https(address) => endpoint
            .tls_config(tls.clone())
            .map_err(|error| format!("{option} {address}: {}", root_cause(&error))),
        _ => Ok(endpoint),
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Channel, String> {
    let connected = endpoint.connect().await;
    connected.map_err(|error| {
        let address = endpoint.uri().to_string();
        let address = address.trim_end_matches('/');
        format!("cannot reach {address}: {}", root_cause(&error))
    })
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
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        load: LoadArgs,
    }

    async fn refusal(address: &str) -> String {
        let command = Command::try_parse_from(["load", "--address", address]).unwrap();
        Client::connect(&command.load).await.unwrap_err()
    }

    #[tokio::test]
    async fn an_address_that_is_no_http_url_is_refused_in_one_line() {
        for address in ["localhost:50051", "ftp://example.com", "not a url", ""] {
            let error = refusal(address).await;
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
        let error = refusal(&format!("http://127.0.0.1:{port}")).await;
        assert!(error.contains("refused"), "{error}");
    }
}
