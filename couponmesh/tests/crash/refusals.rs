//! Refused calls in the log.

use std::{path::Path, time::Instant};

use couponmesh_proto::member::v1::member_service_client::MemberServiceClient;
use futures::{StreamExt as _, stream};
use serde_json::Value;

use crate::binary::{
    caller::registration,
    process::{Call, channel, eventually},
};

fn entries(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    // The last line may be under way.
    let lines = text
        .rsplit_once('\n')
        .map_or("", |(whole, _)| whole)
        .lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn refused_calls_are_logged_with_their_reason_and_a_flood_of_them_as_a_count() {
    const FLOOD: u64 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let call = Call::run(&dir.path().join("data")).set("TELEMETRY__LOG_FORMAT", "json");
    let (process, address) = call.log_to(&log).start().await;
    let channel = channel(address);
    let refused = |email: &str| {
        let mut members = MemberServiceClient::new(channel.clone());
        let request = registration("", email);
        async move { members.register_member(request).await.unwrap_err() }
    };
    let mut members = MemberServiceClient::new(channel.clone());
    let taken = registration("", "ann@example.com");
    members.register_member(taken).await.unwrap();
    refused("ann@example.com").await;
    let is_refusal = |entry: &Value, message: &str, reason: &str| {
        let fields = &entry["fields"];
        fields["message"] == message && fields["reason"] == reason
    };
    let single = |entry: &Value| is_refusal(entry, "call refused", "EMAIL_TAKEN");
    let line = eventually("the refusal is logged", async || {
        entries(&log).into_iter().find(|entry| single(entry))
    })
    .await;
    assert_eq!(line["level"], "INFO", "{line}");
    assert_eq!(line["fields"]["grpc.code"], "AlreadyExists", "{line}");
    let method = "couponmesh.member.v1.MemberService/RegisterMember";
    assert_eq!(line["span"]["rpc.method"], method, "{line}");

    let begin = Instant::now();
    let flood = (0..FLOOD).map(|_| refused("nobody"));
    stream::iter(flood).buffer_unordered(64).count().await;
    let seconds = begin.elapsed().as_secs() + 2;
    let (lines, counted) = eventually("every refusal is accounted for", async || {
        let (mut lines, mut counted) = (0, 0);
        for entry in entries(&log) {
            lines += u64::from(is_refusal(&entry, "call refused", "FIELD_INVALID"));
            let message = "calls refused that are not logged one by one";
            if is_refusal(&entry, message, "FIELD_INVALID") {
                counted += entry["fields"]["count"].as_u64().unwrap();
            }
        }
        (lines + counted >= FLOOD).then_some((lines, counted))
    })
    .await;
    assert_eq!(lines + counted, FLOOD);
    assert!(lines <= 10 * seconds, "{lines} lines in {seconds} s");
    process.terminate().await;
}
