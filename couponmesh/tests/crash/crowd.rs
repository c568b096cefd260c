//! More connections than the process may have files.

use std::time::Duration;

use couponmesh_proto::member::v1::{
    WithdrawMemberRequest, WithdrawalState, member_service_client::MemberServiceClient,
};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::binary::{
    caller::registration,
    process::{Call, channel},
};

/// Low limits of which the soft one would not last for the files alone.
const LIMITS: &str = "ulimit -S -n 64 && ulimit -H -n 400 && exec \"$@\"";
/// Far more than the hard limit.
const CROWD: usize = 900;

#[tokio::test]
async fn a_crowd_of_idle_connections_keeps_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let call = Call::run(dir.path()).under(&["sh", "-c", LIMITS, "sh"]);
    let (process, address) = call.start().await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let stream = TcpStream::connect(address).await.unwrap();
        crowd.push(stream);
    }
    let mut members = MemberServiceClient::new(channel(address));
    let registered = members.register_member(registration("", "ann@example.com"));
    let member = registered.await.unwrap().into_inner().member.unwrap();
    // The coupon is cancelled by a call to the same process, which the crowd does not keep out, either.
    let request = WithdrawMemberRequest {
        member_id: member.member_id,
        request_id: String::new(),
    };
    let withdrawn = members.withdraw_member(request).await.unwrap();
    let withdrawal = withdrawn.into_inner().withdrawal.unwrap();
    assert_eq!(withdrawal.state(), WithdrawalState::Completed);
    let (status, _) = process.terminate().await;
    assert_eq!(status.code(), Some(0));
    drop(crowd);
}

#[tokio::test]
async fn health_is_asked_for_where_nobody_else_is() {
    let dir = tempfile::tempdir().unwrap();
    // Free a moment ago, which is as good as it gets.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let health = free.local_addr().unwrap();
    drop(free);
    let call = Call::run(dir.path()).set("GRPC__HEALTH_LISTEN", &health.to_string());
    let (process, _) = call.start().await;
    let endpoint = Endpoint::from_shared(format!("http://{health}")).unwrap();
    let mut client = HealthClient::new(endpoint.timeout(Duration::from_secs(5)).connect_lazy());
    for service in ["", "liveness", "couponmesh.coupon.v1.CouponService"] {
        let service = service.to_owned();
        let answer = client.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status, 1);
    }
    process.terminate().await;
    // None of this machine's addresses.
    let second = Call::run(dir.path()).set("GRPC__HEALTH_LISTEN", "192.0.2.1:1");
    let refused = second.finish().await;
    refused.assert_refused(&["192.0.2.1:1", "grpc.health_listen"]);
}
