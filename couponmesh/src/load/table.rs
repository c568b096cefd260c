//! The report as an aligned table, for people.

use std::fmt::{self, Display, Formatter};

use super::{facts::facts, latency::Summary, report::Report};

/// Writes a report for people.
pub(super) struct Table<'a>(pub(super) &'a Report);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (label, text) in facts(self.0) {
            writeln!(f, "{label:<15}{text}")?;
        }
        self.latencies(f)?;
        self.errors(f)?;
        writeln!(f)?;
        match self.0.problems.as_slice() {
            [] => writeln!(f, "ok"),
            problems => problems
                .iter()
                .try_for_each(|problem| writeln!(f, "FAILED  {problem}")),
        }
    }
}

impl Table<'_> {
    fn latencies(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let withdrawal = self.0.withdrawal.as_ref();
        let rows = [
            ("RegisterMember", self.0.registration.latency),
            ("registered to coupon on My Page", self.0.my_page.latency),
            ("WithdrawMember", withdrawal.and_then(|w| w.latency)),
            (
                "WithdrawMember, if PENDING",
                withdrawal.and_then(|w| w.pending_latency),
            ),
        ];
        writeln!(f)?;
        write!(f, "{:<32}{:>8}", "latency in ms", "count")?;
        writeln!(f, "{:>10}{:>10}{:>10}{:>10}", "p50", "p90", "p99", "max")?;
        for (what, summary) in rows {
            let Some(Summary {
                count,
                p50_ms,
                p90_ms,
                p99_ms,
                max_ms,
            }) = summary
            else {
                continue;
            };
            write!(f, "{what:<32}{count:>8}")?;
            writeln!(
                f,
                "{p50_ms:>10.1}{p90_ms:>10.1}{p99_ms:>10.1}{max_ms:>10.1}"
            )?;
        }
        Ok(())
    }

    fn errors(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.errors.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{:<16}{:<20}{:<22}{:>8}  the first said",
            "errors", "code", "reason", "count"
        )?;
        for error in &self.0.errors {
            let reason = if error.reason.is_empty() {
                "-"
            } else {
                &error.reason
            };
            write!(f, "{:<16}{:<20}{reason:<22}", error.rpc, error.code)?;
            writeln!(f, "{:>8}  {}", error.count, error.first_message)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixture::report, *};

    #[test]
    fn columns_stand_below_each_other() {
        let text = Table(&report()).to_string();
        let latencies: Vec<_> = text
            .lines()
            .skip_while(|line| !line.starts_with("latency"))
            .take(4)
            .collect();
        assert!(
            latencies
                .iter()
                .all(|line| line.len() == latencies[0].len()),
            "{text}"
        );
        assert!(
            text.contains("10 of 10 accepted in 2.00 s: 5.0/s, 1 retries"),
            "{text}"
        );
        assert!(!text.contains("if PENDING"), "{text}");
        assert!(text.ends_with("\nok\n"), "{text}");
    }

    #[test]
    fn what_went_wrong_stands_last() {
        let mut report = report();
        report.coupons.drained_seconds = None;
        report.problems = vec!["3 lost".to_owned()];
        let text = Table(&report).to_string();
        assert!(text.contains("drained        no\n"), "{text}");
        assert!(text.ends_with("FAILED  3 lost\n"), "{text}");
    }

    #[test]
    fn the_json_form_is_one_object_with_the_audit_beside_its_check() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["coupons"]["exactly_one"], 10);
        assert_eq!(json["registration"]["latency"]["p99_ms"], 300.0);
        assert!(json["problems"].as_array().is_some_and(Vec::is_empty));
    }
}
