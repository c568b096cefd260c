//! A server around a page service that does what the member id says.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use couponmesh_proto::{
    DESCRIPTORS,
    mypage::v1::{
        GetMyPageRequest, GetMyPageResponse, MyPage, WatchMyPageRequest, WatchMyPageResponse,
        my_page_service_client::MyPageServiceClient,
        my_page_service_server::{MyPageService, MyPageServiceServer},
    },
};
use couponmesh_runtime::{
    Clock, Random,
    grpc::{self, GrpcConfig, GrpcServer, InProcess},
};
use futures::{Stream, StreamExt as _, stream};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codec::CompressionEncoding, transport::Channel};

/// Longer than anything here takes, shorter than anybody waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes in the large answer.
pub(crate) const LARGE: usize = 100_000;

/// What the handlers and the tests tell each other.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Calls that hang, now or ever.
    pub(crate) begun: Arc<watch::Sender<usize>>,
    /// Calls that hang no more, for whatever reason.
    pub(crate) ended: Arc<watch::Sender<usize>>,
    /// Lets hanging calls go on.
    pub(crate) release: Arc<watch::Sender<bool>>,
}

impl Script {
    fn new() -> Self {
        Self {
            begun: Arc::new(watch::Sender::new(0)),
            ended: Arc::new(watch::Sender::new(0)),
            release: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Hangs until released; `ended` counts even when the call is dropped.
    async fn hang(&self) {
        struct Ends<'a>(&'a Script);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.ended.send_modify(|n| *n += 1);
            }
        }
        let _ends = Ends(self);
        self.begun.send_modify(|n| *n += 1);
        self.release.subscribe().wait_for(|go| *go).await.unwrap();
    }
}

/// What comes of `future`, which must not hang.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap()
}

/// Waits until `counter` is at least `n`.
pub(crate) async fn at_least(counter: &watch::Sender<usize>, n: usize) {
    let mut counter = counter.subscribe();
    soon(counter.wait_for(|c| *c >= n)).await.unwrap();
}

#[tonic::async_trait]
impl MyPageService for Script {
    async fn get_my_page(
        &self,
        request: Request<GetMyPageRequest>,
    ) -> Result<Response<GetMyPageResponse>, Status> {
        let cx = grpc::context_of(&request)?;
        let deadline = grpc::deadline_of(&request).unwrap();
        match request.get_ref().member_id.as_str() {
            "hang" => self.hang().await,
            "panic" => panic!("on request"),
            // More than a frame may hold.
            "large" => {
                let page = MyPage {
                    display_name: "x".repeat(LARGE),
                    ..MyPage::default()
                };
                return Ok(Response::new(GetMyPageResponse { page: Some(page) }));
            }
            "refuse" => return Err(Status::not_found("page: no such page")),
            _ => {}
        }
        let page = MyPage {
            display_name: cx.correlation_id.as_str().to_owned(),
            coupon_code: cx.traceparent.unwrap_or_default(),
            // Milliseconds that are left.
            member_version: i64::try_from((deadline - Instant::now()).as_millis()).unwrap(),
            ..MyPage::default()
        };
        Ok(Response::new(GetMyPageResponse { page: Some(page) }))
    }

    type WatchMyPageStream =
        Pin<Box<dyn Stream<Item = Result<WatchMyPageResponse, Status>> + Send>>;

    async fn watch_my_page(
        &self,
        request: Request<WatchMyPageRequest>,
    ) -> Result<Response<Self::WatchMyPageStream>, Status> {
        let page = WatchMyPageResponse {
            page: Some(MyPage::default()),
        };
        let script = self.clone();
        let panics = request.get_ref().member_id == "panic";
        let rest = stream::once(async move {
            // The first page leaves only when the second is not there at once.
            tokio::task::yield_now().await;
            assert!(!panics, "on request");
            script.hang().await;
            Err(Status::unavailable("released"))
        });
        let first = stream::iter([Ok(page)]);
        Ok(Response::new(first.chain(rest).boxed()))
    }
}

/// A server that runs.
pub(crate) struct Harness {
    pub(crate) addr: SocketAddr,
    /// Where health checks alone are answered.
    pub(crate) health_addr: SocketAddr,
    /// Calls from within the process.
    pub(crate) calls: InProcess,
    pub(crate) script: Script,
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<()>,
}

/// Starts a server with these bounds, with mypage present and coupon absent.
pub(crate) async fn start(config: GrpcConfig) -> Harness {
    let script = Script::new();
    let service = MyPageServiceServer::new(script.clone())
        .max_decoding_message_size(config.max_message_bytes)
        .accept_compressed(CompressionEncoding::Gzip);
    let (calls, in_process) = grpc::in_process();
    let health = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let health_addr = health.local_addr().unwrap();
    let bound = GrpcServer::new(&config, DESCRIPTORS, Clock::system(), Random::from_os())
        .add(service, watch::channel(true).1)
        .absent("couponmesh.coupon.v1.CouponService")
        .in_process(in_process)
        .health_on(health)
        .bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let (addr, stop) = (bound.local_addr(), CancellationToken::new());
    let served = tokio::spawn(bound.serve(stop.clone()));
    Harness {
        addr,
        health_addr,
        calls,
        script,
        stop,
        served,
    }
}

impl Harness {
    /// A new connection, made now.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.addr)).unwrap();
        soon(endpoint.connect()).await.unwrap()
    }

    /// A client on a new connection.
    pub(crate) async fn client(&self) -> MyPageServiceClient<Channel> {
        MyPageServiceClient::new(self.channel().await)
    }

    /// A hanging call on a connection of its own, once it hangs.
    pub(crate) async fn hanging(&self) -> JoinHandle<Result<MyPage, Status>> {
        let begun = *self.script.begun.borrow();
        let mut client = self.client().await;
        let call = tokio::spawn(async move { get(&mut client, "hang").await });
        at_least(&self.script.begun, begun + 1).await;
        call
    }

    /// Lets everything that hangs go on.
    pub(crate) fn release(&self) {
        self.script.release.send_replace(true);
    }

    /// Waits for the server to have ended.
    pub(crate) async fn ended(self) {
        soon(self.served).await.unwrap();
    }
}

/// Calls GetMyPage, where the member id says what to do.
pub(crate) async fn get(
    client: &mut MyPageServiceClient<Channel>,
    what: &str,
) -> Result<MyPage, Status> {
    let response = soon(client.get_my_page(ask(what))).await?;
    Ok(response.into_inner().page.unwrap())
}

/// A request that says what to do.
pub(crate) fn ask(what: &str) -> GetMyPageRequest {
    GetMyPageRequest {
        member_id: what.to_owned(),
        min_version: 0,
    }
}

/// A request for a stream that says what to do.
pub(crate) fn ask_stream(what: &str) -> WatchMyPageRequest {
    WatchMyPageRequest {
        member_id: what.to_owned(),
    }
}
