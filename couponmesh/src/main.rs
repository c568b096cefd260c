//! `couponmesh`: the services, and the commands of those who operate them.

mod cli;
mod load;
mod operator;
mod output;
mod run;
mod serve;
mod shell;
mod stopping;
mod supervisor;

use std::process::ExitCode;

use clap::Parser as _;
use couponmesh::{
    config::{self, Config},
    node::ServiceName,
};

use crate::{
    cli::{BusCommand, Cli, Command, ConfigCommand},
    output::print,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    couponmesh_runtime::descriptors::raise_limit();
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args, cli.config.as_deref()),
        Command::Serve(args) => serve::serve(&args, cli.config.as_deref()),
        Command::Migrate { service } => serve::migrate(service, cli.config.as_deref()),
        Command::Config {
            command: ConfigCommand::Print { default: true },
        } => {
            print(config::DEFAULT);
            Ok(())
        }
        Command::Config {
            command: ConfigCommand::Print { default: false },
        } => Config::load(cli.config.as_deref())
            .and_then(|config| couponmesh_runtime::config::print(&config))
            .map(|text| print(&text))
            .map_err(Into::into),
        Command::Bus {
            command: BusCommand::Logins,
        } => Config::load(cli.config.as_deref())
            .map(|config| print(&ServiceName::logins(&config)))
            .map_err(Into::into),
        Command::Dlq(args) => operator::dlq(&args, cli.config.as_deref()),
        Command::Outbox(args) => operator::outbox(&args, cli.config.as_deref()),
        Command::Notifications(args) => operator::notifications(&args, cli.config.as_deref()),
        Command::Completions { shell } => {
            shell::completions(shell);
            Ok(())
        }
        Command::Man { command } => shell::man(&command),
        Command::Load(args) => {
            return run::block_on(load::run(args)).unwrap_or_else(|error| fail(&*error));
        }
    };
    outcome.map_or_else(|error| fail(&*error), |()| ExitCode::SUCCESS)
}

/// One line that says what is wrong, with its causes.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors quote their source already.
        if !line.contains(&cause_text) {
            line = format!("{line}: {cause_text}");
        }
        source = cause.source();
    }
    output::complain(&format!("couponmesh: {}", line.replace('\n', " ")));
    ExitCode::FAILURE
}
