//! The `notification.channel` section of the configuration.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use couponmesh_runtime::config::{Problems, Secret, Validate};
use serde::{Deserialize, Serialize};

/// Long enough for a greylisting mail server, short enough for a worker that has others waiting.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// From what may work to what a worker can wait.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(5);

/// Which channel takes the notifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelKind {
    /// A line in the service's own log.
    #[default]
    Log,
    /// An e-mail.
    Smtp,
    /// A signed HTTP request.
    Webhook,
}

/// Where notifications go. Only the section of the chosen kind is looked at.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelConfig {
    /// `log` (the default), `smtp` or `webhook`.
    pub kind: ChannelKind,
    /// Read when `kind` is `smtp`.
    pub smtp: SmtpConfig,
    /// Read when `kind` is `webhook`.
    pub webhook: WebhookConfig,
}

/// Delivery by e-mail.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmtpConfig {
    /// The mail server: `smtp://host:port` in the clear (default port 25), `smtps://host:port` with TLS from
    /// the first byte (465), `smtp://host:port?tls=required` with STARTTLS (587). User name and password
    /// go percent-encoded before the host. A secret.
    pub url: Secret,
    /// The sender: `address` or `Name <address>`.
    pub from: String,
    /// The administrator: `address` or `Name <address>`.
    pub to: String,
    /// The name to greet the server with (EHLO). Empty (the default) for the sender's domain.
    pub hello_name: String,
    /// The domain of the Message-ID, by which the receiver knows a repeat: a mail that is tried
    /// again after this has changed is another mail. Empty (the default) for the sender's domain.
    pub message_id_domain: String,
    /// The longest one delivery may take, from connecting to the server's last answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// A PEM file with certificates to trust besides the system's: a private authority.
    /// Empty (the default) for none.
    pub tls_ca_file: PathBuf,
}

impl Default for SmtpConfig {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            from: String::new(),
            to: String::new(),
            hello_name: String::new(),
            message_id_domain: String::new(),
            timeout: DEFAULT_TIMEOUT,
            tls_ca_file: PathBuf::new(),
        }
    }
}

/// Delivery by webhook.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where to POST: `https://…`, or `http://…` within a trusted network. May carry user name, password or
    /// a token in its query, therefore a secret; its path is shown as the recipient.
    pub url: Secret,
    /// Signs the requests: `whsec_` and 24 to 64 random bytes in base64. A secret.
    pub secret: Secret,
    /// The longest one delivery may take, from connecting to the answer's status.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// A PEM file with certificates to trust besides the system's: a private authority.
    /// Empty (the default) for none.
    pub tls_ca_file: PathBuf,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            secret: Secret::default(),
            timeout: DEFAULT_TIMEOUT,
            tls_ca_file: PathBuf::new(),
        }
    }
}

/// Looks at the chosen channel only, and at no file: [`Channel::open`](super::Channel::open) reads them.
impl Validate for ChannelConfig {
    fn validate(&self, problems: &mut Problems) {
        let errors = match self.kind {
            ChannelKind::Log => Vec::new(),
            ChannelKind::Smtp => {
                problems.duration("smtp.timeout", self.smtp.timeout, TIMEOUTS);
                let sender = self.smtp.sender();
                // Both are made of the sender unless they are set.
                let names = sender.is_ok().then(|| {
                    let hello = self.smtp.hello().err();
                    hello.or_else(|| self.smtp.message_id_domain().err())
                });
                vec![
                    self.smtp.endpoint().err(),
                    sender.err(),
                    self.smtp.recipient().err(),
                    names.flatten(),
                ]
            }
            ChannelKind::Webhook => {
                problems.duration("webhook.timeout", self.webhook.timeout, TIMEOUTS);
                vec![self.webhook.target().err(), self.webhook.signer().err()]
            }
        };
        for error in errors.into_iter().flatten() {
            problems.add(error.key, error.problem);
        }
    }
}
