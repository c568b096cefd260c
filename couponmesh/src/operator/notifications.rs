//! `notifications list`: which there are, and why some failed.

use couponmesh_messaging::Store;
use couponmesh_notification::{
    notifications::{Model, State},
    resend,
};
use serde_json::{Value, json};

use super::{
    args::NotificationsListArgs,
    list::second,
    table::{columns, plain, shortened},
};
use crate::run::BoxError;

/// Characters of an error in the table.
const ERROR: usize = 60;

pub(super) async fn list(store: &Store, args: &NotificationsListArgs) -> Result<(), BoxError> {
    let state = args.failed.then_some(State::Failed);
    let notifications = resend::list(store.read(), state, args.limit).await?;
    if args.json {
        let notifications: Vec<Value> = notifications.iter().map(json).collect();
        crate::print(&format!("{:#}\n", Value::from(notifications)));
        return Ok(());
    }
    let all = resend::count(store.read(), state).await?;
    if !notifications.is_empty() {
        let heading = [
            "NOTIFICATION ID",
            "MEMBER ID",
            "STATE",
            "ATTEMPTS",
            "STORED",
            "RECIPIENT",
            "ERROR",
        ];
        let rows: Vec<[String; 7]> = notifications.iter().map(row).collect();
        crate::print(&columns(heading, &rows));
    }
    let shown = notifications.len() as u64;
    let more = if shown < all {
        format!(", of which {shown} are shown; --limit shows more")
    } else {
        String::new()
    };
    let which = if args.failed { "failed " } else { "" };
    crate::print(&format!("{}{more}\n", counted(all, which)));
    Ok(())
}

/// "2 failed notifications".
pub(super) fn counted(count: u64, which: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {which}notification{plural}")
}

fn state(state: State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Sent => "sent",
        State::Failed => "failed",
    }
}

fn row(notification: &Model) -> [String; 7] {
    [
        notification.notification_id.to_string(),
        notification.member_id.to_string(),
        state(notification.state).to_owned(),
        notification.attempt_count.to_string(),
        second(notification.create_time),
        plain(&notification.recipient),
        shortened(&notification.last_error, ERROR),
    ]
}

fn json(notification: &Model) -> Value {
    json!({
        "notification_id": notification.notification_id.to_string(),
        "member_id": notification.member_id.to_string(),
        "state": state(notification.state),
        "attempts": notification.attempt_count,
        "channel": notification.channel,
        "recipient": notification.recipient,
        "create_time": notification.create_time.to_string(),
        "send_time": notification.send_time.map(|time| time.to_string()),
        "error": notification.last_error,
    })
}
