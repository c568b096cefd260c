//! `dlq drop`: gives dead letters up.

use couponmesh_messaging::{Store, dead_letter::operate};
use couponmesh_runtime::id::{EventId, MemberId};

use super::{args::ActArgs, list::letters, select::Selection, table::plain};
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
    crate::print(&match (count, args.dry_run) {
        (0, _) => format!("{letters} to drop at {service}\n"),
        (_, true) => format!("{letters} of {service} would be dropped; nothing was done\n"),
        (_, false) => format!("{letters} dropped; {service} never handles the events\n"),
    });
    Ok(())
}

fn say(what: &str, id: EventId, event_type: &str, member: MemberId) {
    let event_type = plain(event_type);
    crate::print(&format!("{what:<18}{id}  {event_type}  member {member}\n"));
}
