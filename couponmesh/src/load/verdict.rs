//! Decides what in a report is a problem, and so the exit code.

use super::report::Report;

/// One line for each thing that must not be; empty when all is well.
pub(super) fn problems(report: &Report) -> Vec<String> {
    let (registration, coupons, audit) =
        (&report.registration, &report.coupons, &report.coupons.audit);
    let withdrawal = report.withdrawal.as_ref();
    let counts = [
        (
            registration.members - registration.acknowledged,
            "registrations were never acknowledged",
        ),
        (audit.missing, "acknowledged members have no coupon"),
        (audit.several, "members have two or more coupons"),
        (
            audit.shared_codes,
            "coupons carry a code that another has too",
        ),
        (
            audit.repeated_members,
            "acknowledgements name a member that another named before",
        ),
        (
            report.my_page.unseen,
            "watched members never saw their coupon on My Page",
        ),
        (
            withdrawal.map_or(0, |w| w.failed),
            "withdrawals were not accepted",
        ),
        (
            withdrawal.map_or(0, |w| w.unfinished),
            "withdrawals are still pending",
        ),
    ];
    let mut problems: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !coupons.audit.examples.is_empty() {
        problems.push(format!("look at members {}", audit.examples.join(", ")));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::{super::fixture::report, *};

    #[test]
    fn a_run_where_all_went_well_has_no_problems() {
        assert_eq!(problems(&report()), [] as [String; 0]);
    }

    #[test]
    fn every_kind_of_loss_is_a_problem() {
        let spoil: [fn(&mut Report); 6] = [
            |report| report.registration.acknowledged -= 1,
            |report| report.coupons.audit.missing = 1,
            |report| report.coupons.audit.several = 1,
            |report| report.coupons.audit.shared_codes = 1,
            |report| report.coupons.audit.repeated_members = 1,
            |report| report.my_page.unseen = 1,
        ];
        for spoil in spoil {
            let mut report = report();
            spoil(&mut report);
            assert_eq!(problems(&report).len(), 1);
        }
    }

    #[test]
    fn a_withdrawal_that_stays_pending_is_a_problem_but_pending_at_first_is_not() {
        let mut report = report();
        let withdrawal = report.withdrawal.as_mut().unwrap();
        withdrawal.pending = 3;
        withdrawal.unfinished = 2;
        assert_eq!(problems(&report), ["2 withdrawals are still pending"]);
    }
}
