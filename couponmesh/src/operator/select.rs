//! The dead letters that an operator means, a chunk at a time: each is one short transaction.

use std::collections::BTreeSet;

use couponmesh_messaging::{
    Store,
    dead_letter::query::{self, Filter},
};
use couponmesh_runtime::id::EventId;

use super::args::ActArgs;
use crate::run::BoxError;

const CHUNK: u64 = 500;

pub(super) enum Selection {
    /// These, all of which are there.
    Ids(Vec<EventId>),
    /// Whatever matches.
    Matching {
        filter: Filter,
        after: Option<EventId>,
    },
}

impl Selection {
    /// What `args` name. Ids that cannot be meant are refused before anything is done about the others.
    pub(super) async fn of(args: &ActArgs, store: &Store) -> Result<Self, BoxError> {
        if !args.name_any() {
            return Err("which events? name their ids, or narrow them by --type, --member-id, --parked-since or \
                        --parked-before, or take --all"
                .into());
        }
        let service = store.service();
        let ids: BTreeSet<EventId> = args.ids.iter().copied().collect();
        for &id in &ids {
            match query::find(store.read(), service, id).await? {
                None => return Err(format!("{}; nothing was done", unknown(id, service)).into()),
                Some(letter) => {
                    if let Some(time) = letter.close_time {
                        let done = "was redriven and handled at";
                        return Err(format!("event {id} {done} {time}; nothing was done").into());
                    }
                }
            }
        }
        if ids.is_empty() {
            let filter = args.filter.at(store.now());
            return Ok(Self::Matching {
                filter,
                after: None,
            });
        }
        Ok(Self::Ids(ids.into_iter().collect()))
    }

    /// The next of them; empty at the end.
    pub(super) async fn next(&mut self, store: &Store) -> Result<Vec<EventId>, BoxError> {
        match self {
            Self::Ids(ids) => {
                let rest = ids.split_off(ids.len().min(CHUNK as usize));
                Ok(std::mem::replace(ids, rest))
            }
            Self::Matching { filter, after } => {
                let (db, service) = (store.read(), store.service());
                let ids = query::ids(db, service, filter, *after, CHUNK).await?;
                *after = ids.last().copied().or(*after);
                Ok(ids)
            }
        }
    }
}

pub(super) fn unknown(id: EventId, service: &str) -> String {
    format!("{service} has no dead letter of event {id}")
}
