//! The delivery channels against real servers.

// clippy.toml allows it in test functions, not in what they call.
#![allow(clippy::unwrap_used)]

mod config;
mod http_server;
mod log;
mod smtp;
mod smtp_server;
mod webhook;

use couponmesh_notification::channel::{Channel, ChannelConfig, Failure, Message};
use couponmesh_runtime::{Clock, Timestamp};
use serde_json::Value;
use uuid::Uuid;

/// 2026-03-01T12:30:45.678901Z
const CREATED: Timestamp = Timestamp(1_772_368_245_678_901);

const NOTIFICATION_ID: Uuid = Uuid::from_u128(0x0192_f3a4_7c5d_7e6f_8a9b_0c1d_2e3f_4a5b);
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const MEMBER_ID: Uuid = Uuid::from_u128(0x0192_f3a4_0000_7000_8000_0000_0000_0001);

fn message() -> Message<'static> {
    Message {
        notification_id: NOTIFICATION_ID,
        member_id: MEMBER_ID,
        correlation_id: "corr-42",
        traceparent: Some(TRACEPARENT),
        subject: "a new member has registered",
        body: "member 0192f3a4-0000-7000-8000-000000000001 has registered\n.a line with a dot\nbye",
        create_time: CREATED,
    }
}

fn parse(config: Value) -> ChannelConfig {
    serde_json::from_value(config).expect("the configuration's shape")
}

fn open(config: Value) -> Channel {
    Channel::open(&parse(config), Clock::system()).expect("a usable configuration")
}

/// The text of the error that sending ends with, which is an outage.
async fn outage(channel: &Channel) -> String {
    failed(channel, Failure::Outage).await
}

/// The text of the error that sending ends with, which is a refusal.
async fn refusal(channel: &Channel) -> String {
    failed(channel, Failure::Refusal).await
}

async fn failed(channel: &Channel, failure: Failure) -> String {
    let error = channel
        .send(&message())
        .await
        .expect_err("must not succeed");
    let text = error.to_string();
    assert!(text.chars().count() <= 500, "too long: {text}");
    assert!(!text.contains('\n'), "more than a line: {text}");
    assert!(text.starts_with(|c: char| c.is_lowercase()), "{text}");
    assert_eq!(error.failure(), failure, "{text}");
    text
}
