//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use couponmesh::{listen::Listen, node::ServiceName};

use crate::{
    load::LoadArgs,
    operator::args::{DlqArgs, NotificationsArgs, OutboxArgs},
};

/// Membership with a welcome coupon, as a mesh of gRPC services.
///
/// Start with `couponmesh run`: all services in one process, on files in ./data. It prints a line to try.
#[derive(Debug, Parser)]
#[command(name = "couponmesh", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// A TOML file that overrides the defaults; see `couponmesh config print --default`.
    #[arg(long, global = true, env = "COUPONMESH_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs all services in one process, on SQLite files and the embedded durable bus
    ///
    /// Everything that was acknowledged is on the disk before it is acknowledged; stop it with Ctrl-C, or kill
    /// it: nothing is lost. `--without coupon` lets you see how registering goes on and withdrawing pauses
    /// while a service is away; run again without it and everything catches up.
    Run(RunArgs),
    /// Runs one service, any number of replicas of it, on PostgreSQL and NATS JetStream
    ///
    /// Set `database.url` (the service's own database), `bus.url` and, for member, `member.coupon_address`, in
    /// a file or by COUPONMESH__DATABASE__URL and so on. The database is migrated at the start, by one replica
    /// at a time.
    Serve(ServeArgs),
    /// Brings a service's PostgreSQL database up to date, and does nothing else
    Migrate {
        /// Whose database `database.url` is.
        service: ServiceName,
    },
    /// Lists dead letters, events that a service could not handle, and has them handled again or dropped
    Dlq(DlqArgs),
    /// Has a service's events published or read once more, for a bus or a reader that lost them
    Outbox(OutboxArgs),
    /// Lists the administrator's notifications, and has failed ones sent again
    Notifications(NotificationsArgs),
    /// Shows what NATS has to allow
    Bus {
        #[command(subcommand)]
        command: BusCommand,
    },
    /// Shows the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Registers members at a given concurrency or rate against any address, and checks every coupon.
    Load(LoadArgs),
    /// Prints a script that completes commands and options in a shell
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Prints a manual page, for `man -l -`
    Man {
        /// The command that the page is about, e.g. `dlq list`; without one, all of them.
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BusCommand {
    /// Prints a login of each service, with the least permissions, as nats-server's configuration takes them
    ///
    /// They are `users` of an account or of `authorization`, and go by `bus.prefix` and `messaging.partitions`. The passwords
    /// come from the server's environment: COUPONMESH_OPERATOR_PASSWORD for who looks after the server,
    /// COUPONMESH_MEMBER_PASSWORD and so on, with another prefix those that it prints. Let each begin with a letter:
    /// nats-server takes what begins with a digit for a number.
    Logins,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the configuration in effect, with secrets hidden.
    Print {
        /// Print the defaults instead, with every key explained.
        #[arg(long)]
        default: bool,
    },
}

/// What `serve` takes.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The service.
    pub(crate) service: ServiceName,
    /// Where to listen: ADDRESS:PORT, NAME:PORT, or :PORT for every interface. Nobody is authenticated yet:
    /// anyone who reaches it can do everything, so let only a gateway or a mesh with policies reach it.
    #[arg(long, default_value = "0.0.0.0:50051", value_name = "ADDRESS")]
    pub(crate) listen: Listen,
}

/// What `run` takes.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Where to listen: ADDRESS:PORT, NAME:PORT, or :PORT for every interface. Nobody is authenticated yet:
    /// anyone who reaches it can do everything, so think twice before you leave the loopback.
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "ADDRESS")]
    pub(crate) listen: Listen,
    /// Where the data is kept; made when it is missing.
    #[arg(long, default_value = "./data", value_name = "DIRECTORY")]
    pub(crate) data_dir: PathBuf,
    /// Leave a service out; may be given more than once.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) without: Vec<ServiceName>,
    /// Where member calls coupon, e.g. http://127.0.0.1:50052; without it, in this process.
    #[arg(long, value_name = "URL")]
    pub(crate) coupon_address: Option<String>,
}
