//! What the operator may ask for.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use super::pace::Pace;

/// Registers members at a given pace, then checks that each got exactly one coupon.
///
/// Exit code 0: every registration was acknowledged and every member has its one coupon.
/// 1: something is missing or doubled; the last lines of the output say what. 2: bad usage, or
/// nothing answers at the address.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// Where couponmesh answers: one process, or the ingress.
    #[arg(long, default_value = "http://127.0.0.1:50051", value_name = "URL")]
    pub(super) address: String,

    /// Where the coupon service answers, when not at --address.
    #[arg(long, value_name = "URL")]
    pub(super) coupon_address: Option<String>,

    /// Where My Page answers, when not at --address.
    #[arg(long, value_name = "URL")]
    pub(super) mypage_address: Option<String>,

    /// A PEM file with a further certificate authority for https:// addresses, beside the system's.
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,

    /// How many members to register.
    #[arg(long, default_value = "1000", value_name = "N")]
    pub(super) members: NonZeroUsize,

    /// Closed loop: this many callers, each waiting for its answer before it calls again.
    #[arg(long, default_value = "64", value_name = "C", conflicts_with = "rate")]
    pub(super) concurrency: NonZeroUsize,

    /// Open loop instead: this many calls are started a second, however slow the answers are.
    /// Latency counts from the intended start, so that a stall shows in every call it delayed.
    #[arg(long, value_name = "R")]
    pub(super) rate: Option<NonZeroU32>,

    /// Withdraw every member afterwards, at the same pace.
    #[arg(long)]
    pub(super) withdraw: bool,

    /// How many members, spread evenly over the run, to watch on My Page; 0 watches none.
    /// [default: a tenth of the members, at least 64, at most 1000]
    #[arg(long, value_name = "S")]
    pub(super) sample: Option<usize>,

    /// How long to wait for the last coupon after the last answer, for pending withdrawals, and
    /// for a server that refuses everything to come back.
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Duration,

    /// Draw ids and jitter from this seed. The time is part of every id, so that a second run with
    /// the same seed does not collide with the first.
    #[arg(long, value_name = "SEED")]
    pub(super) seed: Option<u64>,

    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub(super) json: bool,
}

impl LoadArgs {
    pub(super) fn pace(&self) -> Pace {
        match self.rate {
            Some(rate) => Pace::PerSecond(rate),
            None => Pace::Callers(self.concurrency),
        }
    }

    /// How many members to watch on My Page.
    pub(super) fn sample(&self) -> usize {
        let members = self.members.get();
        self.sample
            .unwrap_or_else(|| (members / 10).clamp(64, 1000))
            .min(members)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn parse(line: &str) -> Result<LoadArgs, clap::Error> {
        Command::try_parse_from(line.split_whitespace()).map(|command| command.load)
    }

    #[test]
    fn the_defaults_are_a_closed_loop_that_watches_at_least_64_members() {
        let args = parse("load").unwrap();
        assert!(matches!(args.pace(), Pace::Callers(callers) if callers.get() == 64));
        assert_eq!(args.sample(), 100);
        assert_eq!(args.timeout, Duration::from_secs(60));
    }

    #[test]
    fn the_sample_is_never_larger_than_the_run() {
        assert_eq!(parse("load --members 10").unwrap().sample(), 10);
        assert_eq!(parse("load --members 10 --sample 99").unwrap().sample(), 10);
        assert_eq!(parse("load --members 99999").unwrap().sample(), 1000);
    }

    #[test]
    fn rate_and_concurrency_exclude_each_other() {
        assert!(parse("load --rate 10 --concurrency 2").is_err());
        assert!(parse("load --rate 0").is_err());
        assert!(parse("load --members 0").is_err());
        assert!(parse("load --timeout soon").is_err());
    }
}
