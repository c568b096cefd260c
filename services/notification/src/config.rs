use std::time::Duration;

use couponmesh_runtime::config::{Problems, Validate};
use serde::{Deserialize, Serialize};

use crate::channel::{ChannelConfig, ChannelKind};

/// The notification service's own settings. The keys are explained in `config.default.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NotificationConfig {
    /// Deliveries under way at once.
    pub concurrency: usize,
    /// Attempts before a notification is given up as FAILED.
    pub max_attempts: i32,
    /// First pause after a failed attempt; it doubles with each.
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
    pub(crate) fn attempt_timeout(&self) -> Duration {
        match self.channel.kind {
            ChannelKind::Log => Duration::ZERO,
            ChannelKind::Smtp => self.channel.smtp.timeout,
            ChannelKind::Webhook => self.channel.webhook.timeout,
        }
    }

    /// The pause after attempt number `attempt`, from 1.
    pub(crate) fn pause_after(&self, attempt: i32) -> Duration {
        let doublings = u32::try_from(attempt.saturating_sub(1))
            .unwrap_or(0)
            .min(31);
        self.first_pause
            .saturating_mul(1 << doublings)
            .min(self.longest_pause)
    }
}

impl Validate for NotificationConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.range("concurrency", self.concurrency, 1..=1_000);
        problems.range("max_attempts", self.max_attempts, 1..=1_000);
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
