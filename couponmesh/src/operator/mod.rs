//! Commands for operators: dead letters, events that have to be published once more, and
//! notifications that failed.
//!
//! They work on a service's database while the service runs, and leave the doing to it.
//!
//! | what | file |
//! | --- | --- |
//! | what can be asked for | [`args`] |
//! | the database that is meant | [`database`] |
//! | the dead letters that are meant | [`select`] |
//! | which there are, and what is known of one | [`list`], [`show`] |
//! | handle them again, or give them up | [`redrive`], [`discard`] |
//! | publish events again | [`republish`] |
//! | notifications: which there are, and send them again | [`notifications`], [`resend`] |

pub(crate) mod args;
mod database;
mod discard;
mod list;
mod moment;
mod notifications;
mod redrive;
mod republish;
mod resend;
mod select;
mod show;
mod table;

use std::path::Path;

use couponmesh::node::ServiceName;

use self::args::{
    DlqArgs, DlqCommand, NotificationsArgs, NotificationsCommand, OutboxArgs, OutboxCommand,
};
use crate::run::BoxError;

/// `couponmesh dlq`.
pub(crate) fn dlq(args: &DlqArgs, file: Option<&Path>) -> Result<(), BoxError> {
    database::with(&args.database, file, async |store| match &args.command {
        DlqCommand::List(args) => list::list(store, args).await,
        DlqCommand::Show(args) => show::show(store, args).await,
        DlqCommand::Redrive(args) => redrive::redrive(store, args).await,
        DlqCommand::Drop(args) => discard::discard(store, args).await,
    })
}

/// `couponmesh outbox`.
pub(crate) fn outbox(args: &OutboxArgs, file: Option<&Path>) -> Result<(), BoxError> {
    let OutboxCommand::Republish(republish) = &args.command;
    let place = &args.database.place;
    database::with(&args.database, file, async |store| {
        // In a data directory the outboxes are the bus.
        match database::readers(place, store).await? {
            Some(readers) => republish::read_again(store, &readers, republish).await,
            None => republish::republish(store, republish).await,
        }
    })
}

/// `couponmesh notifications`.
pub(crate) fn notifications(args: &NotificationsArgs, file: Option<&Path>) -> Result<(), BoxError> {
    let service = ServiceName::Notification;
    database::of_service(service, &args.place, file, async |store| {
        match &args.command {
            NotificationsCommand::List(args) => notifications::list(store, args).await,
            NotificationsCommand::Resend(args) => resend::resend(store, args).await,
        }
    })
}
