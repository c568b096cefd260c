//! `outbox republish`: has the relay publish events once more, for a bus that lost them.

use couponmesh_messaging::{
    Store,
    outbox::{self, Span},
};

use super::args::RepublishArgs;
use crate::{load::progress::Progress, output, run::BoxError};

/// Rows in one transaction: short enough that the service hardly notices.
const CHUNK: u64 = 500;

pub(super) async fn republish(store: &Store, args: &RepublishArgs) -> Result<(), BoxError> {
    let (service, now) = (store.service(), store.now());
    let span = Span {
        since: args.since.at(now),
        until: args.until.map_or(now, |moment| moment.at(now)),
    };
    if span.since >= span.until {
        let (since, until) = (span.since, span.until);
        return Err(format!("--since {since} is not before --until {until}").into());
    }
    warn_of_gaps(store, span).await?;
    let total = outbox::count_published(store.read(), span).await?;
    if total == 0 || args.dry_run {
        output::print(&match total {
            0 => format!(
                "{service} has published no event of that time that it still has; what waits to be published is published anyway\n"
            ),
            _ => format!(
                "{} of {service} would be published again; nothing was done\n",
                events(total)
            ),
        });
        return Ok(());
    }
    let mut progress = Progress::new("events", usize::try_from(total)?);
    let (mut done, mut last) = (0, 0);
    loop {
        let tx = store.begin("operator.republish").await?;
        let Some((count, end)) = outbox::republish(&*tx, span, last, CHUNK).await? else {
            break;
        };
        tx.commit().await?;
        (done, last) = (done + count, end);
        progress.reach(done);
    }
    drop(progress);
    output::print(&format!(
        "{} to be published again by {service} at once, or as soon as it runs\n",
        events(done as u64)
    ));
    Ok(())
}

/// What retention has deleted cannot be published again: say so, or the operator believes that all is well.
async fn warn_of_gaps(store: &Store, span: Span) -> Result<(), BoxError> {
    let service = store.service();
    let Some((seq, oldest)) = outbox::oldest(store.read()).await? else {
        return Ok(());
    };
    // The very first row is the oldest because nothing was before it.
    if seq > 1 && oldest > span.since {
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
