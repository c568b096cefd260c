//! `couponmesh notifications` beside a running mesh.

use std::time::Duration;

use couponmesh::config::Config;
use couponmesh_notification::{
    gate,
    notifications::{self, State},
};
use couponmesh_proto::member::v1::{
    GetMemberRequest, Member, member_service_client::MemberServiceClient,
};
use couponmesh_runtime::Clock;
use sea_orm::EntityTrait as _;
use serde_json::Value;
use tonic::transport::Channel;

use crate::{
    binary::{
        process::{Call, channel, eventually},
        webhook::Webhook,
    },
    desk::{Desk, register},
};

/// A call that announces members to `webhook`, and is in no hurry with what fails.
pub(crate) fn announcing(call: Call, webhook: &Webhook) -> Call {
    let mut config = Config::load(None).unwrap();
    webhook.receives(&mut config);
    let settings = &config.notification.channel.webhook;
    call.set("NOTIFICATION__CHANNEL__KIND", "webhook")
        .set("NOTIFICATION__CHANNEL__WEBHOOK__URL", settings.url.expose())
        .set(
            "NOTIFICATION__CHANNEL__WEBHOOK__SECRET",
            settings.secret.expose(),
        )
        .set("NOTIFICATION__FIRST_PAUSE", "1h")
        .set("NOTIFICATION__LONGEST_PAUSE", "1h")
}

impl Desk {
    pub(crate) async fn notifications(&self) -> Vec<notifications::Model> {
        let database = self.database("notification").await;
        let rows = notifications::Entity::find().all(database.read()).await;
        database.close().await.unwrap();
        rows.unwrap()
    }

    pub(crate) async fn eventually_all(
        &self,
        state: State,
        count: usize,
    ) -> Vec<notifications::Model> {
        eventually("all notifications are in that state", async || {
            let rows = self.notifications().await;
            let there = rows.iter().filter(|row| row.state == state).count();
            (there == count && rows.len() == count).then_some(rows)
        })
        .await
    }

    /// Waits until the gate is closed for longer than a probe lasts.
    async fn eventually_closed(&self) {
        eventually("the gate is closed", async || {
            let database = self.database("notification").await;
            let gate = gate::Entity::find().one(database.read()).await.unwrap();
            database.close().await.unwrap();
            let wait = gate?.probe_time.since(Clock::system().now());
            (wait > Duration::from_mins(30)).then_some(())
        })
        .await;
    }
}

async fn member(channel: Channel, member_id: &str) -> Member {
    let request = GetMemberRequest {
        member_id: member_id.to_owned(),
    };
    let answer = MemberServiceClient::new(channel).get_member(request).await;
    answer.unwrap().into_inner().member.unwrap()
}

#[tokio::test]
async fn a_refused_notification_is_sent_again_under_its_identity_when_the_operator_says_so() {
    let desk = Desk::new();
    let webhook = Webhook::refusing(0).await;
    webhook.answers(410);
    let (process, address) = announcing(desk.run(), &webhook).start().await;
    let nothing = desk.told(&["notifications", "list"]).await;
    assert_eq!(nothing, "0 notifications\n");
    let member_id = register(channel(address), "ann@example.com").await;
    let [row] = desk
        .eventually_all(State::Failed, 1)
        .await
        .try_into()
        .unwrap();
    assert_eq!(row.attempt_count, 1);
    let id = row.notification_id.to_string();

    let list = desk.told(&["notifications", "list", "--failed"]).await;
    let lines: Vec<&str> = list.lines().collect();
    let [heading, line, count] = lines[..] else {
        panic!("{list}");
    };
    assert_eq!(heading.find("STATE"), line.find("failed"), "{list}");
    for told in [&id, &member_id, "/hook", "410 Gone"] {
        assert!(line.contains(told), "{told} is not in {list}");
    }
    assert_eq!(count, "1 failed notification");
    let text = desk.told(&["notifications", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(listed[0]["notification_id"], id);
    assert_eq!(listed[0]["state"], "failed");
    assert_eq!(listed[0]["attempts"], 1);

    let dry = ["notifications", "resend", &id, "--dry-run"];
    let told = desk.told(&dry).await;
    assert!(
        told.contains("would be sent again; nothing was done"),
        "{told}"
    );
    assert_eq!(desk.notifications().await, [row]);

    webhook.answers(200);
    let resend = ["notifications", "resend", &id];
    let told = desk.told(&resend).await;
    assert!(
        told.contains("1 failed notification to be sent again"),
        "{told}"
    );
    let [sent] = desk
        .eventually_all(State::Sent, 1)
        .await
        .try_into()
        .unwrap();
    assert_eq!(sent.attempt_count, 2);
    let delivered = webhook.delivered();
    assert_eq!(delivered.len(), 2);
    assert!(delivered.iter().all(|delivery| delivery.id() == id));
    eventually("the member shows it", async || {
        let member = member(channel(address), &member_id).await;
        member.admin_notified.then_some(())
    })
    .await;
    // What was sent is not sent again.
    let refused = desk.ask(&resend).await;
    refused.assert_refused(&[&id, "was sent at", "nothing was done"]);
    let told = desk.told(&["notifications", "resend", "--failed"]).await;
    assert_eq!(told, "0 failed notifications to send again\n");
    let (status, _) = process.terminate().await;
    assert!(status.success());
}

#[tokio::test]
async fn all_that_failed_is_sent_again_at_once_although_the_receiver_was_away() {
    const MEMBERS: usize = 5;
    let desk = Desk::new();
    let webhook = Webhook::refusing(0).await;
    webhook.answers(404);
    let (process, address) = announcing(desk.run(), &webhook).start().await;
    for number in 0..MEMBERS {
        register(channel(address), &format!("{number}@example.com")).await;
    }
    desk.eventually_all(State::Failed, MEMBERS).await;
    let resend = ["notifications", "resend", "--failed"];
    let told = desk.told(&[&resend[..], &["--dry-run"]].concat()).await;
    assert!(
        told.contains("5 failed notifications would be sent again"),
        "{told}"
    );

    // By now the receiver is away, and would be asked again in an hour.
    webhook.answers(503);
    register(channel(address), "late@example.com").await;
    desk.eventually_closed().await;
    let told = desk.told(&resend).await;
    assert!(
        told.contains("5 failed notifications to be sent again"),
        "{told}"
    );
    let waiting = desk.eventually_all(State::Pending, MEMBERS + 1).await;
    let told = desk.told(&resend).await;
    assert_eq!(told, "0 failed notifications to send again\n");
    eventually("one of them was tried", async || {
        (webhook.delivered().len() == MEMBERS + 2).then_some(())
    })
    .await;
    desk.eventually_closed().await;

    webhook.answers(200);
    let id = waiting[0].notification_id.to_string();
    let told = desk.told(&["notifications", "resend", &id]).await;
    assert!(told.contains("is tried already"), "{told}");
    eventually("what was not tried meanwhile is sent", async || {
        let rows = desk.notifications().await;
        let sent = rows.iter().filter(|row| row.state == State::Sent).count();
        (sent == MEMBERS - 1).then_some(())
    })
    .await;
    let (status, _) = process.terminate().await;
    assert!(status.success());
}
