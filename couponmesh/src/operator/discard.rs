//! `dlq drop`: gives dead letters up.

use couponmesh_messaging::{Store, dead_letter::operate};

use super::{
    args::ActArgs,
    list::{letters, say},
    select::Selection,
};
use crate::run::BoxError;

pub(super) async fn discard(store: &Store, args: &ActArgs) -> Result<(), BoxError> {
    let service = store.service();
    let mut selection = Selection::of(args, store).await?;
    let mut count = 0;
    loop {
        let ids = selection.next(store).await?;
        if ids.is_empty() {
            break;
        }
        if args.dry_run {
            for letter in operate::look(store.read(), service, ids).await? {
                let (id, member) = (letter.event_id, letter.member_id);
                say("would be dropped", id, &letter.event_type, member);
                count += 1;
            }
            continue;
        }
        let tx = store.begin("operator.drop").await?;
        let dropped = operate::discard(&tx, service, ids).await?;
        tx.commit().await?;
        for letter in dropped {
            let (id, member) = (letter.event_id, letter.member_id);
            say("dropped", id, &letter.event_type, member);
            count += 1;
        }
    }
    let letters = letters(count);
    crate::output::print(&match (count, args.dry_run) {
        (0, _) => format!("{letters} to drop at {service}\n"),
        (_, true) => format!("{letters} of {service} would be dropped; nothing was done\n"),
        (_, false) => format!("{letters} dropped; {service} never handles the events\n"),
    });
    Ok(())
}
