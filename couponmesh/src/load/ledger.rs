//! The exactly-once check: who holds which coupons.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

/// How many member ids a finding names.
const EXAMPLES: usize = 5;

/// The coupons seen, by member. Seeing the same coupon again, by its id, changes nothing.
#[derive(Debug, Default)]
pub(super) struct Ledger(HashMap<String, Vec<Coupon>>);

#[derive(Debug)]
struct Coupon {
    coupon_id: String,
    code: String,
}

/// What the check found among the acknowledged members.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
pub(super) struct Audit {
    /// Members with exactly one coupon.
    pub(super) exactly_one: usize,
    /// Members without one.
    pub(super) missing: usize,
    /// Members with two or more.
    pub(super) several: usize,
    /// Codes that stand on more than one coupon.
    pub(super) shared_codes: usize,
    /// Acknowledgements that named a member which another had named before.
    pub(super) repeated_members: usize,
    /// A few members with a wrong number of coupons.
    pub(super) examples: Vec<String>,
}

impl Ledger {
    /// Enters a coupon; true when it was not known. A record without a code was cancelled before
    /// it was issued and is no coupon.
    pub(super) fn enter(&mut self, member_id: String, coupon_id: String, code: String) -> bool {
        if code.is_empty() {
            return false;
        }
        let coupons = self.0.entry(member_id).or_default();
        let new = coupons.iter().all(|coupon| coupon.coupon_id != coupon_id);
        if new {
            coupons.push(Coupon { coupon_id, code });
        }
        new
    }

    /// Whether the member has a coupon.
    pub(super) fn holds(&self, member_id: &str) -> bool {
        self.0.contains_key(member_id)
    }

    /// Checks the members of all acknowledgements.
    pub(super) fn audit(&self, acknowledged: &[String]) -> Audit {
        let mut audit = Audit::default();
        let (mut members, mut codes) = (HashSet::new(), HashSet::new());
        for member_id in acknowledged {
            if !members.insert(member_id) {
                audit.repeated_members += 1;
                continue;
            }
            let coupons = self.0.get(member_id).map(Vec::as_slice).unwrap_or_default();
            let shared = coupons.iter().filter(|coupon| !codes.insert(&coupon.code));
            audit.shared_codes += shared.count();
            match coupons.len() {
                0 => audit.missing += 1,
                1 => audit.exactly_one += 1,
                _ => audit.several += 1,
            }
            if coupons.len() != 1 && audit.examples.len() < EXAMPLES {
                audit.examples.push(member_id.clone());
            }
        }
        audit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(coupons: &[(&str, &str, &str)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (member, coupon, code) in coupons {
            ledger.enter(
                (*member).to_owned(),
                (*coupon).to_owned(),
                (*code).to_owned(),
            );
        }
        ledger
    }

    fn audit(ledger: &Ledger, members: &[&str]) -> Audit {
        ledger.audit(&members.iter().map(|&m| m.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_coupon_each_is_right_however_often_it_is_seen() {
        let ledger = ledger(&[("m1", "c1", "A"), ("m2", "c2", "B"), ("m1", "c1", "A")]);
        let right = Audit {
            exactly_one: 2,
            ..Audit::default()
        };
        assert_eq!(audit(&ledger, &["m1", "m2"]), right);
    }

    #[test]
    fn a_second_coupon_and_a_missing_one_are_found_and_named() {
        let ledger = ledger(&[("m1", "c1", "A"), ("m1", "c2", "B")]);
        let audit = audit(&ledger, &["m1", "m2"]);
        assert_eq!((audit.exactly_one, audit.several, audit.missing), (0, 1, 1));
        assert_eq!(audit.examples, ["m1", "m2"]);
    }

    #[test]
    fn a_record_that_was_cancelled_before_it_was_issued_is_no_coupon() {
        let ledger = ledger(&[("m1", "c1", "")]);
        assert!(!ledger.holds("m1"));
        assert_eq!(audit(&ledger, &["m1"]).missing, 1);
    }

    #[test]
    fn a_code_on_two_coupons_and_a_member_acknowledged_twice_are_found() {
        let ledger = ledger(&[("m1", "c1", "A"), ("m2", "c2", "A")]);
        let audit = audit(&ledger, &["m1", "m2", "m2"]);
        assert_eq!((audit.shared_codes, audit.repeated_members), (1, 1));
    }

    #[test]
    fn coupons_of_strangers_do_not_matter() {
        let ledger = ledger(&[("m1", "c1", "A"), ("x", "c2", "B"), ("x", "c3", "C")]);
        assert_eq!(
            audit(&ledger, &["m1"]),
            Audit {
                exactly_one: 1,
                ..Audit::default()
            }
        );
    }
}
