//! Outages of deliveries that begin on the sender's own machine.

use std::process::Command;

use couponmesh_notification::notifications::{Model, State};
use couponmesh_proto::member::v1::{GetMemberRequest, member_service_client::MemberServiceClient};
use tonic::Code;

use crate::{
    binary::{
        process::{Call, Process, channel, eventually},
        webhook::Webhook,
    },
    desk::{Desk, register},
    notifications::announcing,
};

fn often(call: Call) -> Call {
    call.set("NOTIFICATION__FIRST_PAUSE", "50ms")
        .set("NOTIFICATION__LONGEST_PAUSE", "200ms")
}

impl Process {
    /// Sets the soft limit on open descriptors.
    fn may_open(&self, limit: &str) {
        let pid = self.id().to_string();
        let nofile = format!("--nofile={limit}:");
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &nofile])
            .status();
        assert!(set.expect("prlimit, of util-linux, is needed").success());
    }
}

/// The one notification, once it was tried more than once, which `error` ended each time.
async fn tried_again(desk: &Desk, error: &str) -> Model {
    let row = eventually("it was tried again", async || {
        let row = desk.notifications().await.pop()?;
        (row.attempt_count > 2).then_some(row)
    })
    .await;
    assert_eq!(row.state, State::Pending);
    assert!(row.last_error.contains(error), "{}", row.last_error);
    row
}

#[tokio::test]
async fn a_notification_outlasts_that_there_is_no_descriptor_for_it() {
    let desk = Desk::new();
    let webhook = Webhook::refusing(0).await;
    let (process, address) = often(announcing(desk.run(), &webhook)).start().await;
    // What is open stays open, this connection too; nothing more can be opened.
    let connection = channel(address);
    let nobody = GetMemberRequest::default();
    let mut members = MemberServiceClient::new(connection.clone());
    let refused = members.get_member(nobody).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    process.may_open("3");
    register(connection, "ann@example.com").await;
    let row = tried_again(&desk, "Too many open files").await;
    assert_eq!(webhook.delivered().len(), 0);
    process.may_open("1024");
    let sent = desk.eventually_all(State::Sent, 1).await;
    assert_eq!(sent[0].notification_id, row.notification_id);
    assert_eq!(webhook.delivered().len(), 1);
    process.terminate().await;
}

#[tokio::test]
async fn a_notification_outlasts_that_its_receiver_has_no_name() {
    let desk = Desk::new();
    let webhook = Webhook::refusing(0).await;
    let call = often(announcing(desk.run(), &webhook));
    // Too long a label for DNS: nobody is asked, on any machine.
    let nowhere = format!("http://{}.invalid/hook", "a".repeat(64));
    let lost = call
        .clone()
        .set("NOTIFICATION__CHANNEL__WEBHOOK__URL", &nowhere);
    let (process, address) = lost.start().await;
    register(channel(address), "ann@example.com").await;
    let row = tried_again(&desk, "dns error").await;
    process.terminate().await;

    let (process, _) = call.start().await;
    let sent = desk.eventually_all(State::Sent, 1).await;
    assert_eq!(sent[0].notification_id, row.notification_id);
    assert_eq!(webhook.delivered().len(), 1);
    process.terminate().await;
}
