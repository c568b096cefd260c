//! The lines of the table that say what happened, a label and a sentence each.

use super::report::Report;

/// Label and text of each line.
pub(super) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let Report {
        registration,
        coupons,
        my_page,
        ..
    } = report;
    let audit = &coupons.audit;
    let mut facts = vec![
        (
            "run",
            format!("{} at {}, {}", report.run_id, report.address, report.pace),
        ),
        (
            "registrations",
            format!(
                "{} of {} accepted in {:.2} s: {:.1}/s, {} retries",
                registration.acknowledged,
                registration.members,
                registration.seconds,
                registration.per_second,
                registration.retries,
            ),
        ),
        (
            "coupons",
            format!(
                "{} exactly one, {} missing, {} several",
                audit.exactly_one, audit.missing, audit.several
            ),
        ),
        ("checked with", coupons.check.clone()),
        (
            "drained",
            coupons.drained_seconds.map_or_else(
                || "no".to_owned(),
                |s| {
                    format!(
                        "{s:.2} s after the last answer (up to {:.2} s less)",
                        coupons.drained_to_within_seconds
                    )
                },
            ),
        ),
        (
            "My Page",
            format!(
                "{} members watched, {} waited for a free stream, {} never saw their coupon",
                my_page.sample, my_page.waited_for_a_stream, my_page.unseen,
            ),
        ),
    ];
    if let Some(withdrawal) = &report.withdrawal {
        facts.push((
            "withdrawals",
            format!(
                "{} completed at once, {} pending, {} failed in {:.2} s: {:.1}/s, {} retries",
                withdrawal.completed_at_once,
                withdrawal.pending,
                withdrawal.failed,
                withdrawal.seconds,
                withdrawal.per_second,
                withdrawal.retries,
            ),
        ));
        let completed = match withdrawal.completed_after_seconds {
            Some(seconds) => format!("{seconds:.2} s after the last answer"),
            None => format!("no, {} are pending", withdrawal.unfinished),
        };
        facts.push(("completed", completed));
    }
    facts
}
