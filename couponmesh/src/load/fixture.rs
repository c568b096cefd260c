//! A report to try things on.

use super::{
    errors::ErrorCount,
    latency::Summary,
    ledger::Audit,
    report::{Coupons, MyPage, Registration, Report, Withdrawal},
};

/// A run where all went well.
pub(super) fn report() -> Report {
    let latency = Some(Summary {
        count: 10,
        p50_ms: 1.25,
        p90_ms: 20.0,
        p99_ms: 300.0,
        max_ms: 4000.0,
    });
    Report {
        run_id: "r1".to_owned(),
        address: "http://here".to_owned(),
        pace: "64 callers".to_owned(),
        registration: Registration {
            members: 10,
            acknowledged: 10,
            retries: 1,
            seconds: 2.0,
            per_second: 5.0,
            latency,
        },
        coupons: Coupons {
            check: "ListCoupons".to_owned(),
            drained_seconds: Some(0.5),
            drained_to_within_seconds: 0.05,
            audit: Audit {
                exactly_one: 10,
                ..Audit::default()
            },
        },
        my_page: MyPage {
            sample: 4,
            waited_for_a_stream: 0,
            unseen: 0,
            latency,
        },
        withdrawal: Some(Withdrawal {
            completed_at_once: 10,
            pending: 0,
            failed: 0,
            unfinished: 0,
            retries: 0,
            seconds: 1.0,
            per_second: 10.0,
            completed_after_seconds: Some(0.0),
            latency,
            pending_latency: None,
        }),
        errors: vec![ErrorCount {
            rpc: "RegisterMember",
            code: "UNAVAILABLE".to_owned(),
            reason: "OVERLOADED".to_owned(),
            count: 1,
            first_message: "too many calls".to_owned(),
        }],
        problems: Vec::new(),
    }
}
