//! `notifications resend`: asks the notification service to send again what failed.

use std::collections::BTreeSet;

use couponmesh_messaging::Store;
use couponmesh_notification::{
    notifications::{Model, State},
    resend,
};
use couponmesh_runtime::id::NotificationId;

use super::{args::ResendArgs, notifications::counted};
use crate::run::BoxError;

/// Notifications in one transaction: short enough that the service hardly notices.
const CHUNK: u64 = 500;

pub(super) async fn resend(store: &Store, args: &ResendArgs) -> Result<(), BoxError> {
    let mut ids = named(store, args).await?;
    let (mut after, mut count) = (None, 0);
    loop {
        let chunk = if args.failed {
            resend::failed_after(store.read(), after, CHUNK).await?
        } else {
            let rest = ids.split_off(ids.len().min(CHUNK as usize));
            std::mem::replace(&mut ids, rest)
        };
        let Some(&last) = chunk.last() else { break };
        after = Some(last);
        let found = if args.dry_run {
            resend::look(store.read(), chunk).await?
        } else {
            let tx = store.begin("operator.resend").await?;
            let found = resend::resend(&tx, chunk).await?;
            tx.commit().await?;
            found
        };
        for notification in found {
            count += u64::from(notification.state == State::Failed);
            say(&notification, args.dry_run);
        }
    }
    let failed = counted(count, "failed ");
    crate::print(&match (count, args.dry_run) {
        (0, _) => format!("{failed} to send again\n"),
        (_, true) => format!("{failed} would be sent again; nothing was done\n"),
        (_, false) => format!(
            "{failed} to be sent again within seconds, or as soon as the service runs; \
             see notifications list\n"
        ),
    });
    Ok(())
}

/// The notifications that are named by their ids. What cannot be meant is refused before anything
/// is done about the others.
async fn named(store: &Store, args: &ResendArgs) -> Result<Vec<NotificationId>, BoxError> {
    if args.ids.is_empty() && !args.failed {
        return Err("which notifications? name their ids, or take --failed".into());
    }
    let mut ids: BTreeSet<NotificationId> = args.ids.iter().copied().collect();
    let named: Vec<NotificationId> = ids.iter().copied().collect();
    for chunk in named.chunks(CHUNK as usize) {
        for notification in resend::look(store.read(), chunk.to_vec()).await? {
            let id = notification.notification_id;
            ids.remove(&id);
            if notification.state == State::Sent {
                let when = notification.send_time.map(|time| time.to_string());
                let when = when.unwrap_or_default();
                return Err(
                    format!("notification {id} was sent at {when}; nothing was done").into(),
                );
            }
        }
    }
    match ids.first() {
        Some(id) => Err(format!("there is no notification {id}; nothing was done").into()),
        None => Ok(named),
    }
}

/// What becomes of one notification, on a line.
fn say(notification: &Model, dry_run: bool) {
    let what = match (notification.state, dry_run) {
        (State::Failed, true) => "would be sent",
        (State::Failed, false) => "to be sent",
        (State::Pending, _) => "is tried already",
        (State::Sent, _) => "sent meanwhile",
    };
    let (id, member) = (notification.notification_id, notification.member_id);
    crate::print(&format!("{what:<18}{id}  member {member}\n"));
}
