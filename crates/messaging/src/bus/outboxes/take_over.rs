//! Taking over what releases up to 0.3 left in a data directory: they copied every event from the outboxes to a log in
//! a file of its own, where each consumer had its offset.
//!
//! What somebody has not read there goes back to the outbox that it came from, if it is no longer in it, and every
//! consumer gets a position in each outbox: before the first event that it may not have read. Some are read twice, which
//! handlers tolerate. Then the file goes. It can be interrupted anywhere, and begins anew.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use couponmesh_runtime::{database::Database, id::EventId};
use sea_orm::DbErr;

use super::{Outboxes, Service, old_log};
use crate::{
    checkpoint,
    consume::positions,
    event::Event,
    migrations::{MigrateError, bring_up},
    outbox,
    store::Store,
};

/// Why it was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// A database refused, or is not what it should be.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The file cannot be removed.
    #[error("it is taken over and not needed any more, but cannot be removed: {0}")]
    Remove(io::Error),
}

impl From<DbErr> for TakeOverError {
    fn from(error: DbErr) -> Self {
        Self::Migrate(error.into())
    }
}

impl Outboxes {
    /// Takes the log at `path` over, when there is one. No service may run.
    ///
    /// # Errors
    /// See [`TakeOverError`].
    pub async fn take_over(&self, path: &Path) -> Result<(), TakeOverError> {
        if !path.exists() {
            return Ok(());
        }
        let log = Database::open_sqlite(path).await?;
        // One whose making was interrupted may have no tables yet.
        bring_up::<old_log::Migrator>(&log).await?;
        for source in self.services.iter() {
            self.take_over_source(&log, &source.store).await?;
        }
        log.close().await?;
        remove(path).map_err(TakeOverError::Remove)?;
        tracing::info!(
            log = %path.display(),
            "the log of an earlier release is taken over and removed; earlier releases cannot use this directory any more"
        );
        Ok(())
    }

    async fn take_over_source(&self, log: &Database, source: &Store) -> Result<(), TakeOverError> {
        let name = source.service();
        let mut readers = Vec::new();
        for reader in self.services.iter().filter(|one| one.reads(name)) {
            let offset = old_log::offset(log.read(), reader.store.service()).await?;
            readers.push(Reader {
                service: reader,
                offset,
                unread: i64::MAX,
            });
        }
        let Some(mut after) = readers.iter().map(|reader| reader.offset).min() else {
            return Ok(());
        };
        loop {
            let events = old_log::after(log.read(), name, after).await?;
            let Some((last, _)) = events.last() else {
                break;
            };
            after = *last;
            let stored = put_back(source, &events).await?;
            for (event_id, position) in stored {
                let found = events.iter().find(|(_, event)| event.id == event_id);
                let Some((sequence, _)) = found else { continue };
                for reader in &mut readers {
                    if *sequence > reader.offset {
                        reader.unread = reader.unread.min(position);
                    }
                }
            }
        }
        // What lies above may not have been copied.
        let copied = checkpoint::load(source.read()).await?.position;
        let copied = copied.min(outbox::end(source.read()).await?);
        for reader in readers {
            let before = copied.min(reader.unread - 1);
            positions::begin_at(&reader.service.store, name, before, reader.service.types).await?;
        }
        Ok(())
    }
}

/// A consumer of one service's events.
struct Reader<'a> {
    service: &'a Service,
    /// How far it was in the log.
    offset: i64,
    /// The lowest position in the outbox of what it had not read.
    unread: i64,
}

/// Appends those of `events` to the outbox that are no longer in it. Returns where each of them is.
async fn put_back(source: &Store, events: &[(i64, Event)]) -> Result<Vec<(EventId, i64)>, DbErr> {
    let events: Vec<&Event> = events.iter().map(|(_, event)| event).collect();
    let stored = outbox::find(source.read(), &events).await?;
    let there: HashSet<EventId> = stored.iter().map(|(event_id, _)| *event_id).collect();
    let mut seen = HashSet::new();
    let missing = events
        .into_iter()
        .filter(|event| !there.contains(&event.id));
    let missing: Vec<Event> = missing
        .filter(|event| seen.insert(event.id))
        .cloned()
        .collect();
    if !missing.is_empty() {
        let tx = source.begin("take_over").await?;
        outbox::insert(&*tx, missing).await?;
        tx.commit().await?;
    }
    // What was put back lies above all that was copied.
    Ok(stored)
}

/// The log itself last: as long as it is there, all of this is done once more.
fn remove(path: &Path) -> io::Result<()> {
    for suffix in ["-wal", "-shm", ""] {
        let mut file = OsString::from(path);
        file.push(suffix);
        match fs::remove_file(PathBuf::from(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
