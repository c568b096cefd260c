//! How a notification leaves: the log, an e-mail or a webhook.
//!
//! A channel makes one attempt and says whether it worked, and if not, whether a repeat may
//! ([`Failure`]); when to try again is the worker's business. An attempt that failed may have
//! arrived all the same, so every repeat carries the notification's id as its identity and the
//! receiver drops what it knows.

mod config;
mod connections;
mod endpoint;
mod error;
mod failure;
mod log;
pub(crate) mod retry_after;
mod smtp;
mod tls;
mod webhook;

use couponmesh_runtime::{Clock, Timestamp};
use uuid::Uuid;

pub use self::{
    config::{ChannelConfig, ChannelKind, SmtpConfig, WebhookConfig},
    error::{ChannelError, DeliveryError},
    failure::Failure,
    log::Log,
    smtp::Smtp,
    webhook::Webhook,
};

/// One notification, as every channel sends it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The delivery's identity: the same at every repeat.
    pub notification_id: Uuid,
    /// The member whom the administrator is told of; nothing else about the member is sent.
    pub member_id: Uuid,
    /// Shared by everything that the registration caused.
    pub correlation_id: &'a str,
    /// W3C trace context of this attempt; none when the registration came without one.
    pub traceparent: Option<&'a str>,
    /// One line.
    pub subject: &'a str,
    /// Plain text.
    pub body: &'a str,
    /// When the notification was stored, not when it is tried.
    pub create_time: Timestamp,
}

/// Where notifications go.
#[derive(Debug)]
pub enum Channel {
    /// A line in the service's own log.
    Log(Log),
    /// An e-mail through an SMTP server.
    Smtp(Box<Smtp>),
    /// An HTTP request, signed as Standard Webhooks has it.
    Webhook(Box<Webhook>),
}

impl Channel {
    /// Builds the configured channel. Reads certificate files, connects to nothing.
    ///
    /// # Errors
    /// When a value does not mean anything or a file cannot be read; the error names the key.
    pub fn open(config: &ChannelConfig, clock: Clock) -> Result<Self, ChannelError> {
        Ok(match config.kind {
            ChannelKind::Log => Self::Log(Log),
            ChannelKind::Smtp => Self::Smtp(Box::new(Smtp::open(&config.smtp)?)),
            ChannelKind::Webhook => Self::Webhook(Box::new(Webhook::open(&config.webhook, clock)?)),
        })
    }

    /// The channel's name, as `Notification.channel` shows it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Log(_) => "log",
            Self::Smtp(_) => "smtp",
            Self::Webhook(_) => "webhook",
        }
    }

    /// Who receives, as `Notification.recipient` shows it: an address, a URL without its secrets, or `log`.
    #[must_use]
    pub fn recipient(&self) -> &str {
        match self {
            Self::Log(_) => "log",
            Self::Smtp(smtp) => smtp.recipient(),
            Self::Webhook(webhook) => webhook.recipient(),
        }
    }

    /// Tries once, for at most the channel's timeout. Dropping the future ends the attempt.
    ///
    /// # Errors
    /// When the receiver did not say that it took the message. It may have arrived nevertheless.
    pub async fn send(&self, message: &Message<'_>) -> Result<(), DeliveryError> {
        match self {
            Self::Log(log) => {
                log.send(message);
                Ok(())
            }
            Self::Smtp(smtp) => smtp.send(message).await,
            Self::Webhook(webhook) => webhook.send(message).await,
        }
    }
}
