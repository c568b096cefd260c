//! `outbox republish`: has the relay publish events once more, for a bus that lost them. Where the outboxes are the
//! bus, they are read once more instead.

use couponmesh_messaging::{Store, checkpoint, consume::positions, outbox};
use couponmesh_runtime::Timestamp;

use super::args::RepublishArgs;
use crate::{output, run::BoxError};

pub(super) async fn republish(store: &Store, args: &RepublishArgs) -> Result<(), BoxError> {
    let (service, db) = (store.service(), store.read());
    let since = args.since.at(store.now());
    warn_of_gaps(store, since).await?;
    let checkpoint = checkpoint::load(db).await?;
    let from = outbox::position_before(db, since).await?;
    let from = from.unwrap_or(i64::MAX).min(checkpoint.position);
    let count = outbox::count_after(db, from).await?;
    let waiting = outbox::count_after(db, checkpoint.position).await?;
    let again = count.saturating_sub(waiting);
    if again == 0 || args.dry_run {
        output::print(&match again {
            0 => format!(
                "{service} has published no event of that time that it still has; what waits to be published is published anyway\n"
            ),
            _ => format!(
                "{} of {service} would be published again; nothing was done\n",
                events(again)
            ),
        });
        return Ok(());
    }
    let tx = store.begin("operator.republish").await?;
    checkpoint::rewind(&*tx, from).await?;
    tx.commit().await?;
    output::print(&format!(
        "{} to be published again by {service} at once, or as soon as it runs\n",
        events(again)
    ));
    Ok(())
}

/// The same in a data directory: `readers` go back to where they were then.
pub(super) async fn read_again(
    store: &Store,
    readers: &[Store],
    args: &RepublishArgs,
) -> Result<(), BoxError> {
    let (service, db) = (store.service(), store.read());
    let since = args.since.at(store.now());
    warn_of_gaps(store, since).await?;
    let from = outbox::position_before(db, since).await?;
    let from = from.unwrap_or(i64::MAX);
    let (mut names, mut count) = (Vec::new(), 0);
    for reader in readers {
        let position = positions::find(reader.read(), service).await?;
        let position = position.map_or(0, |found| found.sequence);
        if position <= from {
            continue;
        }
        let unread = outbox::count_after(db, position).await?;
        count = count.max(outbox::count_after(db, from).await?.saturating_sub(unread));
        names.push(reader.service());
        if !args.dry_run {
            let tx = reader.begin("operator.republish").await?;
            positions::rewind(&*tx, service, from).await?;
            tx.commit().await?;
        }
    }
    let (events, names) = (events(count), names.join(", "));
    output::print(&match (count, args.dry_run) {
        (0, _) => format!(
            "{service} has no event of that time that was read; what is not read yet is read anyway\n"
        ),
        (_, true) => {
            format!("{events} of {service} would be read again by {names}; nothing was done\n")
        }
        (_, false) => format!(
            "{events} of {service} to be read again by {names} at once, or as soon as they run\n"
        ),
    });
    for reader in readers {
        // What was done is committed, however closing goes.
        let _ = reader.database().close().await;
    }
    Ok(())
}

/// What retention has deleted cannot be published again: say so, or the operator believes that all is well.
async fn warn_of_gaps(store: &Store, since: Timestamp) -> Result<(), BoxError> {
    let service = store.service();
    let Some((seq, oldest)) = outbox::oldest(store.read()).await? else {
        return Ok(());
    };
    // The very first row is the oldest because nothing was before it.
    if seq > 1 && oldest > since {
        output::complain(&format!(
            "couponmesh: warning: the oldest event that {service} still has is of {oldest}; older ones were \
             deleted after messaging.retention and are not published again"
        ));
    }
    Ok(())
}

fn events(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} event{plural}")
}
