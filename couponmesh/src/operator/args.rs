//! What operators can ask for.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use couponmesh::node::ServiceName;
use couponmesh_messaging::dead_letter::query::Filter;
use couponmesh_runtime::{
    Timestamp,
    id::{EventId, MemberId, NotificationId},
};

use super::moment::Moment;

/// Which service's database.
#[derive(Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// The service whose database is meant.
    #[arg(long, global = true, value_name = "SERVICE")]
    pub(super) service: Option<ServiceName>,
    #[command(flatten)]
    pub(super) place: Place,
}

/// Where the databases are.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The data directory of `couponmesh run`, which may go on meanwhile. Without it, the PostgreSQL database
    /// `database.url` when that is set, else ./data.
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub(super) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DlqArgs {
    #[command(flatten)]
    pub(super) database: DatabaseArgs,
    #[command(subcommand)]
    pub(super) command: DlqCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// Lists the events that wait as dead letters, the oldest first.
    List(ListArgs),
    /// Shows all that is known of one, but not its payload, which may hold names.
    Show(ShowArgs),
    /// Has the service handle events again; it publishes nothing again
    ///
    /// This only asks for it. The service's own worker handles each event within seconds, or as soon as the
    /// service runs; `dlq list` shows those that are still to do or failed again.
    Redrive(ActArgs),
    /// Gives events up: they are deleted here, and handled only if the bus is read again from before them.
    Drop(ActArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Letters at the most; the last line counts them all.
    #[arg(long, default_value_t = 1_000, value_name = "NUMBER")]
    pub(super) limit: u64,
    /// An array for programs instead of a table for people.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The event's id.
    #[arg(value_name = "EVENT_ID", value_parser = event_id)]
    pub(super) id: EventId,
    /// An object for programs instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ActArgs {
    /// The events' ids.
    #[arg(value_name = "EVENT_ID", value_parser = event_id, conflicts_with_all = FILTERS)]
    pub(super) ids: Vec<EventId>,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Every dead letter of the service.
    #[arg(long)]
    pub(super) all: bool,
    /// Says what would be done, and does nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// The names of everything that stands for letters without naming them.
const FILTERS: [&str; 5] = [
    "all",
    "event_type",
    "member_id",
    "parked_since",
    "parked_before",
];

#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only events of this type, in full or its last part, e.g. MemberRegistered.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only events about this member.
    #[arg(long, value_name = "MEMBER_ID", value_parser = member_id)]
    member_id: Option<MemberId>,
    /// Only events parked at this time or later, e.g. 2026-11-23T13:00:00Z, or 2h for two hours ago.
    #[arg(long, value_name = "TIME")]
    parked_since: Option<Moment>,
    /// Only events parked before this time, likewise.
    #[arg(long, value_name = "TIME")]
    parked_before: Option<Moment>,
}

impl ActArgs {
    /// Whether anything says which letters are meant. None is not all: an operator may have forgotten it.
    pub(super) fn name_any(&self) -> bool {
        let FilterArgs {
            event_type,
            member_id,
            parked_since,
            parked_before,
        } = &self.filter;
        let filtered = event_type.is_some()
            || member_id.is_some()
            || parked_since.is_some()
            || parked_before.is_some();
        self.all || filtered || !self.ids.is_empty()
    }
}

impl FilterArgs {
    pub(super) fn at(&self, now: Timestamp) -> Filter {
        Filter {
            event_type: self.event_type.clone(),
            member_id: self.member_id,
            parked_since: self.parked_since.map(|moment| moment.at(now)),
            parked_before: self.parked_before.map(|moment| moment.at(now)),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct OutboxArgs {
    #[command(flatten)]
    pub(super) database: DatabaseArgs,
    #[command(subcommand)]
    pub(super) command: OutboxCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// Has the service publish its events once more; in a data directory, has them read once more
    ///
    /// Nothing is done twice: handlers tolerate events that come again. A bus that lost events is filled again without
    /// this.
    Republish(RepublishArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RepublishArgs {
    /// Events from this time on, e.g. 2026-11-23T13:00:00Z, or 2h for two hours ago.
    #[arg(long, value_name = "TIME")]
    pub(super) since: Moment,
    /// Says what would be done, and does nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NotificationsArgs {
    #[command(flatten)]
    pub(super) place: Place,
    #[command(subcommand)]
    pub(super) command: NotificationsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NotificationsCommand {
    /// Lists notifications, the newest first.
    List(NotificationsListArgs),
    /// Has failed notifications sent again, each under the identity that it had
    ///
    /// This only asks for it. The notification service sends them within seconds, or as soon as it
    /// runs, and tries for as long as it tries a new one; `notifications list --failed` shows those
    /// that failed again.
    Resend(ResendArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NotificationsListArgs {
    /// Only those that were refused or given up.
    #[arg(long)]
    pub(super) failed: bool,
    /// Notifications at the most; the last line counts them all.
    #[arg(long, default_value_t = 1_000, value_name = "NUMBER")]
    pub(super) limit: u64,
    /// An array for programs instead of a table for people.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ResendArgs {
    /// The notifications' ids.
    #[arg(value_name = "NOTIFICATION_ID", value_parser = notification_id, conflicts_with = "failed")]
    pub(super) ids: Vec<NotificationId>,
    /// Every notification that was refused or given up.
    #[arg(long)]
    pub(super) failed: bool,
    /// Says what would be done, and does nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
}

const NO_ID: &str = "must be a UUID such as 0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11";

fn event_id(text: &str) -> Result<EventId, &'static str> {
    EventId::parse(text).ok_or(NO_ID)
}

fn notification_id(text: &str) -> Result<NotificationId, &'static str> {
    NotificationId::parse(text).ok_or(NO_ID)
}

fn member_id(text: &str) -> Result<MemberId, &'static str> {
    MemberId::parse(text).ok_or(NO_ID)
}
