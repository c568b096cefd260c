//! `dlq redrive`: asks the service to handle dead letters again.

use couponmesh_messaging::{Store, dead_letter::operate};

use super::{
    args::ActArgs,
    list::{letters, say},
    select::Selection,
};
use crate::run::BoxError;

pub(super) async fn redrive(store: &Store, args: &ActArgs) -> Result<(), BoxError> {
    let service = store.service();
    let mut selection = Selection::of(args, store).await?;
    let mut count = 0;
    loop {
        let ids = selection.next(store).await?;
        if ids.is_empty() {
            break;
        }
        let found = if args.dry_run {
            operate::look(store.read(), service, ids).await?
        } else {
            let tx = store.begin("operator.redrive").await?;
            let found = operate::redrive(&*tx, service, ids, tx.now()).await?;
            tx.commit().await?;
            found
        };
        for letter in found {
            let what = match (letter.redrive_time, args.dry_run) {
                (Some(_), _) => "asked for before",
                (None, true) => "would be redriven",
                (None, false) => "to be redriven",
            };
            count += u64::from(letter.redrive_time.is_none());
            say(what, letter.event_id, &letter.event_type, letter.member_id);
        }
    }
    let letters = letters(count);
    crate::output::print(&match (count, args.dry_run) {
        (0, _) => format!("{letters} to redrive at {service}\n"),
        (_, true) => format!("{letters} of {service} would be redriven; nothing was done\n"),
        (_, false) => format!(
            "{letters} to be redriven by {service} within seconds, or as soon as it runs; see dlq list\n"
        ),
    });
    Ok(())
}
