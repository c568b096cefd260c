use std::time::Duration;

use couponmesh_runtime::{
    Random,
    config::{Problems, Validate},
};
use serde::{Deserialize, Serialize};

use crate::channel::{ChannelConfig, ChannelKind, retry_after};

/// Attempts that a claim leaves time for, one after the other.
pub(crate) const ATTEMPTS_PER_CLAIM: u32 = 4;
/// How much longer than its attempts a claim lasts: for noting the outcome.
const CLAIM_MARGIN: Duration = Duration::from_secs(10);

/// The notification service's own settings. The keys are explained in `config.default.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NotificationConfig {
    /// Deliveries under way at once.
    pub concurrency: usize,
    /// How long a notification is tried, from its first failed attempt, before it is given up as
    /// FAILED.
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
    /// First pause after a failed attempt; pauses double.
    #[serde(with = "humantime_serde")]
    pub first_pause: Duration,
    /// Longest pause between attempts.
    #[serde(with = "humantime_serde")]
    pub longest_pause: Duration,
    /// The way out.
    pub channel: ChannelConfig,
}

impl NotificationConfig {
    /// How long one attempt can take.
    fn attempt_timeout(&self) -> Duration {
        match self.channel.kind {
            ChannelKind::Log => Duration::ZERO,
            ChannelKind::Smtp => self.channel.smtp.timeout,
            ChannelKind::Webhook => self.channel.webhook.timeout,
        }
    }

    /// How long a claim lasts: the last of a round begins when all before it have taken their time.
    pub(crate) fn claim_time(&self) -> Duration {
        self.attempt_timeout() * ATTEMPTS_PER_CLAIM + CLAIM_MARGIN
    }

    /// The pause after a failure of what has failed for `failing`: as long again, so that pauses
    /// double. `floor` is what the receiver asked to be left alone for.
    pub(crate) fn pause(
        &self,
        random: &Random,
        failing: Duration,
        floor: Option<Duration>,
    ) -> Duration {
        let pause = failing.max(self.first_pause).min(self.longest_pause);
        random.jitter(pause).max(floor.unwrap_or_default())
    }

    /// No pause and no claim is longer.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.longest_pause
            .max(retry_after::LONGEST)
            .max(self.claim_time())
    }
}

impl Validate for NotificationConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.range("concurrency", self.concurrency, 1..=1_000);
        problems.duration(
            "give_up_after",
            self.give_up_after,
            Duration::from_mins(1)..=Duration::from_hours(30 * 24),
        );
        problems.duration(
            "first_pause",
            self.first_pause,
            Duration::from_millis(10)..=Duration::from_secs(3_600),
        );
        problems.duration(
            "longest_pause",
            self.longest_pause,
            self.first_pause..=Duration::from_secs(86_400),
        );
        problems.within("channel", &self.channel);
    }
}
