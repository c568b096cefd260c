//! `couponmesh load`: registers members, measures, and checks that each got exactly one coupon.
//!
//! The phases, each in its file: [`register`] at the [`pace`] asked for, with [`watch`] following a
//! sample on My Page meanwhile; [`drain`] until every coupon was seen, and the check of the
//! [`ledger`]; with `--withdraw`, [`withdraw`]. [`report`] puts their numbers together, [`verdict`]
//! judges them, [`table`] writes them.

mod args;
mod client;
mod coupons;
mod drain;
mod errors;
mod facts;
#[cfg(test)]
mod fixture;
mod latency;
mod ledger;
mod pace;
mod pages;
pub(crate) mod progress;
mod register;
mod report;
mod retry;
mod table;
mod tls;
mod verdict;
mod watch;
mod withdraw;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use couponmesh_runtime::{Clock, Random};

use self::{
    client::Client, coupons::CouponList, drain::Drain, errors::Errors, report::Report,
    table::Table, watch::Watchers,
};

pub(crate) use self::args::LoadArgs;
use crate::output;

/// Runs the load and prints what it found. The exit code is told at [`LoadArgs`].
pub(crate) async fn run(args: LoadArgs) -> ExitCode {
    let client = match Client::connect(&args).await {
        Ok(client) => client,
        Err(why) => {
            output::complain(&format!("couponmesh load: {why}"));
            return ExitCode::from(2);
        }
    };
    let report = measure(&args, &client).await;
    match print(&report, args.json, &mut io::stdout().lock()) {
        Ok(()) if report.problems.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

async fn measure(args: &LoadArgs, client: &Client) -> Report {
    let clock = Clock::system();
    let random = args.seed.map_or_else(Random::from_os, Random::seeded);
    let run_id = random.uuid_v7(clock.now()).simple().to_string();
    let errors = Errors::default();
    let list = CouponList::before_the_run(client.clone(), clock.now()).await;
    let mut watchers = Watchers::new(
        args.sample(),
        args.members.get(),
        client.clone(),
        errors.clone(),
    );

    let sources = (&clock, &random);
    let registrations =
        register::register(args, &run_id, client, &errors, sources, &mut watchers).await;

    let deadline = registrations.last_answer + args.timeout;
    let drain = Drain {
        client,
        errors: &errors,
        acknowledged: &registrations.acknowledged,
        last_answer: registrations.last_answer,
        deadline,
        at_once: args.pace().pollers(),
    };
    let (drained, watched) = tokio::join!(drain.run(list), watchers.finish(deadline));

    let withdrawals = if args.withdraw {
        let members = &registrations.acknowledged;
        Some(withdraw::withdraw(args, members, client, &errors, sources).await)
    } else {
        None
    };
    Report::new(
        args,
        run_id,
        &registrations,
        drained,
        &watched,
        withdrawals.as_ref(),
        errors.table(),
    )
}

fn print(report: &Report, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, report)?;
        writeln!(out)
    } else {
        write!(out, "{}", Table(report))
    }
}
