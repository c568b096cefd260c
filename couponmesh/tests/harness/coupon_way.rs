//! The way from member to coupon: a proxy that lets calls pass, or shows every way in which they can fail.
//!
//! Its port stays the same and its own while coupon comes and goes.

use std::{
    collections::HashSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use couponmesh_proto::coupon::v1::{
    CancelCouponRequest, CancelCouponResponse, GetCouponRequest, GetCouponResponse,
    ListCouponsRequest, ListCouponsResponse,
    coupon_service_client::CouponServiceClient,
    coupon_service_server::{CouponService, CouponServiceServer},
};
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataMap,
    transport::{Channel, Server},
};

const BUFFER: usize = 64 * 1024;

/// What happens to calls on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// They reach coupon, and the answers come back.
    Pass,
    /// Connections break at once, as if nobody were there.
    Refuse,
    /// They are taken and wait, without any answer, until the way changes.
    Hang,
    /// They reach coupon, then the connection breaks: the answer is lost.
    LoseAnswers,
    /// They are answered with this code and do not reach coupon.
    Answer(Code),
}

/// One CancelCoupon call that came by.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Whose coupon.
    pub(crate) member_id: String,
    /// On behalf of which withdrawal.
    pub(crate) withdrawal_id: String,
    /// What came with it.
    pub(crate) metadata: MetadataMap,
}

/// The way, seen from a test. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CouponWay {
    address: SocketAddr,
    way: Arc<watch::Sender<Way>>,
    /// Counts the times that all connections were broken.
    broken: Arc<watch::Sender<u64>>,
    coupon: Arc<watch::Sender<Option<Channel>>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    calls: Vec<Call>,
    in_flight: HashSet<String>,
    overlaps: usize,
}

impl CouponWay {
    pub(super) async fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let way = Self {
            address: listener.local_addr().unwrap(),
            way: Arc::new(watch::Sender::new(Way::Pass)),
            broken: Arc::default(),
            coupon: Arc::default(),
            seen: Arc::default(),
        };
        let (connections, incoming) = mpsc::channel::<io::Result<DuplexStream>>(16);
        tokio::spawn(way.clone().accept(listener, connections));
        let server = Server::builder().add_service(CouponServiceServer::new(way.clone()));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
        way
    }

    /// What member has to be told as `coupon_address`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what happens from now on, also to calls that hang.
    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
        if way == Way::Refuse {
            self.break_connections();
        }
    }

    pub(super) fn leads_to(&self, coupon: Channel) {
        self.coupon.send_replace(Some(coupon));
    }

    pub(super) fn leads_nowhere(&self) {
        self.coupon.send_replace(None);
        self.break_connections();
    }

    /// Every CancelCoupon call so far, whatever became of it.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.seen.lock().unwrap().calls.clone()
    }

    /// How many of them were on behalf of `withdrawal_id`.
    pub(crate) fn calls_of(&self, withdrawal_id: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        let calls = seen.calls.iter();
        calls
            .filter(|call| call.withdrawal_id == withdrawal_id)
            .count()
    }

    /// How often a call came while another on behalf of the same withdrawal was under way.
    pub(crate) fn overlaps(&self) -> usize {
        self.seen.lock().unwrap().overlaps
    }

    fn break_connections(&self) {
        self.broken.send_modify(|times| *times += 1);
    }

    fn is_open(&self) -> bool {
        *self.way.borrow() != Way::Refuse && self.coupon.borrow().is_some()
    }

    async fn accept(
        self,
        listener: TcpListener,
        connections: mpsc::Sender<io::Result<DuplexStream>>,
    ) {
        while let Ok((stream, _)) = listener.accept().await {
            // Subscribed before the look, so that no break is missed in between.
            let broken = self.broken.subscribe();
            if self.is_open() {
                let (ours, servers) = duplex(BUFFER);
                if connections.send(Ok(servers)).await.is_err() {
                    return;
                }
                tokio::spawn(carry(stream, ours, broken));
            }
        }
    }

    async fn cancel(
        &self,
        request: Request<CancelCouponRequest>,
    ) -> Result<Response<CancelCouponResponse>, Status> {
        let _under_way = self.note(&request);
        let mut ways = self.way.subscribe();
        let way = *ways
            .wait_for(|way| *way != Way::Hang)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        match way {
            Way::Answer(code) => return Err(Status::new(code, "so the test wants it")),
            Way::Refuse => self.vanish().await,
            Way::Pass | Way::LoseAnswers | Way::Hang => {}
        }
        let coupon = self.coupon.borrow().clone();
        let Some(coupon) = coupon else {
            self.vanish().await
        };
        let answer = CouponServiceClient::new(coupon)
            .cancel_coupon(request)
            .await;
        if way == Way::LoseAnswers {
            self.vanish().await;
        }
        answer
    }

    /// Breaks the connection under the call at hand.
    async fn vanish(&self) -> ! {
        self.break_connections();
        std::future::pending().await
    }

    fn note(&self, request: &Request<CancelCouponRequest>) -> UnderWay {
        let call = Call {
            member_id: request.get_ref().member_id.clone(),
            withdrawal_id: request.get_ref().withdrawal_id.clone(),
            metadata: request.metadata().clone(),
        };
        let withdrawal_id = call.withdrawal_id.clone();
        let mut seen = self.seen.lock().unwrap();
        let is_first = seen.in_flight.insert(withdrawal_id.clone());
        seen.overlaps += usize::from(!is_first);
        seen.calls.push(call);
        UnderWay {
            seen: self.seen.clone(),
            withdrawal_id,
        }
    }
}

/// A call until it is answered or given up.
struct UnderWay {
    seen: Arc<Mutex<Seen>>,
    withdrawal_id: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut seen = self.seen.lock().unwrap();
        seen.in_flight.remove(&self.withdrawal_id);
    }
}

/// Carries bytes until either side ends or the connection is broken.
async fn carry(mut stream: TcpStream, mut ours: DuplexStream, mut broken: watch::Receiver<u64>) {
    tokio::select! {
        _ = copy_bidirectional(&mut stream, &mut ours) => {}
        _ = broken.changed() => {}
    }
}

#[tonic::async_trait]
impl CouponService for CouponWay {
    async fn cancel_coupon(
        &self,
        request: Request<CancelCouponRequest>,
    ) -> Result<Response<CancelCouponResponse>, Status> {
        self.cancel(request).await
    }

    async fn get_coupon(
        &self,
        _: Request<GetCouponRequest>,
    ) -> Result<Response<GetCouponResponse>, Status> {
        Err(Status::unimplemented("member never asks"))
    }

    async fn list_coupons(
        &self,
        _: Request<ListCouponsRequest>,
    ) -> Result<Response<ListCouponsResponse>, Status> {
        Err(Status::unimplemented("member never asks"))
    }
}
