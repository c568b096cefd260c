use std::time::Duration;

use couponmesh_runtime::config::{Problems, Validate, serialize_url};
use serde::{Deserialize, Serialize};

/// The member service's own settings. The keys are explained in `config.default.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Where CancelCoupon is called; empty means this process itself.
    #[serde(serialize_with = "serialize_url")]
    pub coupon_address: String,
    /// How withdrawals are carried out.
    pub withdrawal: WithdrawalConfig,
}

/// How withdrawals are carried out.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawalConfig {
    /// Deadline of one CancelCoupon call.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// CancelCoupon calls on behalf of waiting callers at once; above, the answer is PENDING.
    pub foreground: usize,
    /// CancelCoupon calls of the worker at once while the coupon service answers.
    pub background: usize,
    /// First pause of the worker after a failure.
    #[serde(with = "humantime_serde")]
    pub first_pause: Duration,
    /// Longest pause of the worker between probes.
    #[serde(with = "humantime_serde")]
    pub longest_pause: Duration,
    /// Pause before a call that was refused, and not for an outage, is tried again.
    #[serde(with = "humantime_serde")]
    pub rejected_pause: Duration,
}

impl WithdrawalConfig {
    /// How long an attempt holds its claim: longer than it lasts, so that the claim ends early only
    /// for the dead.
    pub(crate) fn claim(&self) -> Duration {
        self.deadline + Duration::from_secs(1)
    }

    /// The longest that anything here ever waits: no time in a row lies further ahead.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.claim()
            .max(self.longest_pause)
            .max(self.rejected_pause)
    }
}

impl Validate for MemberConfig {
    fn validate(&self, problems: &mut Problems) {
        let address = &self.coupon_address;
        if !address.is_empty() && !is_url(address) {
            // What it is could quote a password.
            problems.add(
                "coupon_address",
                "must be a URL such as http://coupon:50051",
            );
        }
        problems.within("withdrawal", &self.withdrawal);
    }
}

/// Plain text only: inside the mesh the sidecar encrypts.
fn is_url(address: &str) -> bool {
    address.starts_with("http://") && address.parse::<tonic::transport::Endpoint>().is_ok()
}

impl Validate for WithdrawalConfig {
    fn validate(&self, problems: &mut Problems) {
        let seconds = Duration::from_secs;
        problems.duration(
            "deadline",
            self.deadline,
            Duration::from_millis(50)..=seconds(60),
        );
        problems.range("foreground", self.foreground, 1..=10_000);
        problems.range("background", self.background, 1..=1_000);
        problems.duration(
            "first_pause",
            self.first_pause,
            Duration::from_millis(10)..=seconds(60),
        );
        problems.duration(
            "longest_pause",
            self.longest_pause,
            self.first_pause..=seconds(3_600),
        );
        problems.duration(
            "rejected_pause",
            self.rejected_pause,
            Duration::from_millis(10)..=seconds(86_400),
        );
    }
}
