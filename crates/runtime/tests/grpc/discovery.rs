//! What the server says about itself: health, reflection, and services that are elsewhere.

use std::collections::BTreeMap;

use couponmesh_proto::{
    DESCRIPTORS,
    coupon::v1::{GetCouponRequest, coupon_service_client::CouponServiceClient},
};
use couponmesh_runtime::{
    Clock, Random,
    grpc::{GrpcConfig, GrpcServer},
};
use futures::stream;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::start;

const SERVICES: [&str; 4] = [
    "couponmesh.mypage.v1.MyPageService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

#[tokio::test]
async fn health_knows_what_is_here() {
    let server = start(GrpcConfig::default()).await;
    let mut health = HealthClient::new(server.channel().await);
    for (service, expected) in [
        ("", ServingStatus::Serving),
        ("couponmesh.mypage.v1.MyPageService", ServingStatus::Serving),
        (
            "couponmesh.coupon.v1.CouponService",
            ServingStatus::NotServing,
        ),
    ] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status(), expected);
    }
}

#[tokio::test]
async fn a_service_that_is_switched_off_is_unavailable() {
    let server = start(GrpcConfig::default()).await;
    let mut coupon = CouponServiceClient::new(server.channel().await);
    let status = coupon
        .get_coupon(GetCouponRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "coupon is not running here");
    assert!(status.metadata().contains_key("x-correlation-id"));
}

macro_rules! reflection_lists_the_services {
    ($test:ident, $version:ident) => {
        #[tokio::test]
        async fn $test() {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };
            let server = start(GrpcConfig::default()).await;
            let mut reflection = ServerReflectionClient::new(server.channel().await);
            let request = ServerReflectionRequest {
                message_request: Some(MessageRequest::ListServices(String::new())),
                ..ServerReflectionRequest::default()
            };
            let answers = reflection
                .server_reflection_info(stream::iter([request]))
                .await;
            let answer = answers
                .unwrap()
                .into_inner()
                .message()
                .await
                .unwrap()
                .unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("{answer:?}");
            };
            let mut names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
            names.sort();
            assert_eq!(names, SERVICES);
            // Tools describe whatever is listed.
            for name in names {
                let request = ServerReflectionRequest {
                    message_request: Some(MessageRequest::FileContainingSymbol(name.clone())),
                    ..ServerReflectionRequest::default()
                };
                let answers = reflection
                    .server_reflection_info(stream::iter([request]))
                    .await;
                let answer = answers.unwrap().into_inner().message().await.unwrap();
                let described = answer.unwrap().message_response;
                let is_file = matches!(described, Some(MessageResponse::FileDescriptorResponse(_)));
                assert!(is_file, "{name}: {described:?}");
            }
        }
    };
}

reflection_lists_the_services!(reflection_v1_lists_the_services, v1);
reflection_lists_the_services!(reflection_v1alpha_lists_the_services, v1alpha);

#[tokio::test]
async fn names_that_the_contract_does_not_know_do_not_start() {
    let addr = "127.0.0.1:0".parse().unwrap();
    let misspelt = "couponmesh.mypage.v1.MyPageService/GetPage";
    let config = GrpcConfig {
        max_in_flight_of: BTreeMap::from([(misspelt.to_owned(), 1)]),
        ..GrpcConfig::default()
    };
    let server = |config| GrpcServer::new(config, DESCRIPTORS, Clock::system(), Random::from_os());
    let error = server(&config).bind(addr).await.unwrap_err();
    assert!(error.to_string().contains(misspelt), "{error}");
    let absent = server(&GrpcConfig::default()).absent("couponmesh.x.v1.XService");
    let error = absent.bind(addr).await.unwrap_err();
    assert!(
        error.to_string().contains("couponmesh.x.v1.XService"),
        "{error}"
    );
}
