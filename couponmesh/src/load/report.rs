//! What a run found, as numbers: the JSON output, and the base of the table and of the exit code.

use serde::Serialize;

use super::{
    LoadArgs, drain::Drained, errors::ErrorCount, latency::Summary, ledger::Audit, pace::Pace,
    register::Registrations, watch::Watched, withdraw::Withdrawals,
};

/// Everything that is told.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) run_id: String,
    pub(super) address: String,
    /// "64 callers" or "500/s".
    pub(super) pace: String,
    pub(super) registration: Registration,
    pub(super) coupons: Coupons,
    pub(super) my_page: MyPage,
    /// Only with --withdraw.
    pub(super) withdrawal: Option<Withdrawal>,
    pub(super) errors: Vec<ErrorCount>,
    /// Why the exit code is 1; empty when it is 0.
    pub(super) problems: Vec<String>,
}

/// The registrations.
#[derive(Debug, Serialize)]
pub(super) struct Registration {
    pub(super) members: usize,
    pub(super) acknowledged: usize,
    pub(super) retries: u64,
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    /// Until accepted, repeats included; in an open loop from the intended start.
    pub(super) latency: Option<Summary>,
}

/// The exactly-once check.
#[derive(Debug, Serialize)]
pub(super) struct Coupons {
    /// "ListCoupons", or "GetMyPage" and why.
    pub(super) check: String,
    /// From the last answer until every coupon was seen.
    pub(super) drained_seconds: Option<f64>,
    /// By how much that may be too long.
    pub(super) drained_to_within_seconds: f64,
    #[serde(flatten)]
    pub(super) audit: Audit,
}

/// The sample that was watched.
#[derive(Debug, Serialize)]
pub(super) struct MyPage {
    pub(super) sample: usize,
    pub(super) waited_for_a_stream: usize,
    pub(super) unseen: usize,
    /// From the registration's answer until the page shows the coupon's code.
    pub(super) latency: Option<Summary>,
}

/// The withdrawals.
#[derive(Debug, Serialize)]
pub(super) struct Withdrawal {
    pub(super) completed_at_once: usize,
    pub(super) pending: usize,
    pub(super) failed: usize,
    pub(super) unfinished: usize,
    pub(super) retries: u64,
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    pub(super) completed_after_seconds: Option<f64>,
    pub(super) latency: Option<Summary>,
    pub(super) pending_latency: Option<Summary>,
}

impl Report {
    /// Puts the phases' outcomes together and judges them.
    pub(super) fn new(
        args: &LoadArgs,
        run_id: String,
        registrations: &Registrations,
        drained: Drained,
        watched: &Watched,
        withdrawals: Option<&Withdrawals>,
        errors: Vec<ErrorCount>,
    ) -> Self {
        let mut report = Self {
            run_id,
            address: args.address.clone(),
            pace: match args.pace() {
                Pace::Callers(callers) => format!("{callers} callers"),
                Pace::PerSecond(rate) => format!("{rate}/s"),
            },
            registration: Registration::new(args.members.get(), registrations),
            coupons: Coupons::new(drained),
            my_page: MyPage {
                sample: watched.sample,
                waited_for_a_stream: watched.waited,
                unseen: watched.unseen,
                latency: watched.latency.summary(),
            },
            withdrawal: withdrawals.map(Withdrawal::new),
            errors,
            problems: Vec::new(),
        };
        report.problems = super::verdict::problems(&report);
        report
    }
}

impl Registration {
    fn new(members: usize, registrations: &Registrations) -> Self {
        let seconds = (registrations.last_answer - registrations.begun).as_secs_f64();
        let acknowledged = registrations.acknowledged.len();
        Self {
            members,
            acknowledged,
            retries: registrations.retries,
            seconds,
            per_second: per_second(acknowledged, seconds),
            latency: registrations.latency.summary(),
        }
    }
}

impl Coupons {
    fn new(drained: Drained) -> Self {
        Self {
            check: match drained.list_refused {
                None => "ListCoupons".to_owned(),
                Some(code) => {
                    format!("GetMyPage, which cannot show a second coupon; ListCoupons said {code}")
                }
            },
            drained_seconds: drained.after.map(|after| after.as_secs_f64()),
            drained_to_within_seconds: drained.to_within.as_secs_f64(),
            audit: drained.audit,
        }
    }
}

impl Withdrawal {
    fn new(withdrawals: &Withdrawals) -> Self {
        let seconds = withdrawals.elapsed.as_secs_f64();
        let answered = withdrawals.completed_at_once + withdrawals.pending;
        Self {
            completed_at_once: withdrawals.completed_at_once,
            pending: withdrawals.pending,
            failed: withdrawals.failed,
            unfinished: withdrawals.unfinished,
            retries: withdrawals.retries,
            seconds,
            per_second: per_second(answered, seconds),
            completed_after_seconds: withdrawals.completed_after.map(|after| after.as_secs_f64()),
            latency: withdrawals.latency.summary(),
            pending_latency: withdrawals.pending_latency.summary(),
        }
    }
}

fn per_second(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}
