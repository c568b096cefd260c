//! The webhook channel: Standard Webhooks <https://www.standardwebhooks.com>.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use couponmesh_runtime::{Clock, context::CORRELATION_HEADER, telemetry::TRACEPARENT_HEADER};
use reqwest::{
    Certificate, Client,
    header::{CONTENT_TYPE, HeaderValue},
    redirect,
};
use serde::Serialize;
use standardwebhooks::{
    HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook as Signer,
};
use url::Url;

use super::{
    ChannelError, DeliveryError, Message, WebhookConfig, error::with_causes, failure::Cause,
    retry_after::retry_after, tls::extra_roots,
};

/// What the body's `type` says; receivers choose by it.
const EVENT_TYPE: &str = "member.registered";

/// Posts signed requests.
pub struct Webhook {
    client: Client,
    url: Url,
    recipient: String,
    signer: Signer,
    timeout: Duration,
    clock: Clock,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    notification_id: &'a str,
    member_id: String,
    subject: &'a str,
    body: &'a str,
}

impl Webhook {
    pub(super) fn open(config: &WebhookConfig, clock: Clock) -> Result<Self, ChannelError> {
        let url = config.target()?;
        Ok(Self {
            client: client(&url, config)?,
            // Neither user name and password nor the query.
            recipient: format!("{}{}", url.origin().ascii_serialization(), url.path()),
            url,
            signer: config.signer()?,
            timeout: config.timeout,
            clock,
        })
    }

    pub(super) fn recipient(&self) -> &str {
        &self.recipient
    }

    pub(super) async fn send(&self, message: &Message<'_>) -> Result<(), DeliveryError> {
        let id = message.notification_id.to_string();
        let body = Body {
            r#type: EVENT_TYPE,
            timestamp: message.create_time.to_string(),
            data: Data {
                notification_id: &id,
                member_id: message.member_id.to_string(),
                subject: message.subject,
                body: message.body,
            },
        };
        let body = serde_json::to_string(&body).map_err(unwritable)?;
        // Of this attempt, not of the event: receivers refuse old ones.
        let timestamp = self.clock.now().0.div_euclid(1_000_000);
        let signature = self.signer.sign(&id, timestamp, body.as_bytes());
        let mut request = self
            .client
            .post(self.url.clone())
            .header(HEADER_WEBHOOK_SIGNATURE, signature.map_err(unwritable)?)
            .header(HEADER_WEBHOOK_ID, id)
            .header(HEADER_WEBHOOK_TIMESTAMP, timestamp)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        for (name, value) in [
            (CORRELATION_HEADER, Some(message.correlation_id)),
            (TRACEPARENT_HEADER, message.traceparent),
        ] {
            if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
                request = request.header(name, value);
            }
        }
        // The answer's body is never read: dropping it ends the request.
        let response = request.send().await.map_err(|error| self.failed(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let text = format_args!("the webhook answered {status}");
        let wait = retry_after(response.headers(), self.clock.now());
        Err(DeliveryError::new(Cause::Status(status), text).asking_for(wait))
    }

    fn failed(&self, error: reqwest::Error) -> DeliveryError {
        if error.is_timeout() {
            return DeliveryError::timeout(self.timeout);
        }
        let cause = if error.is_builder() {
            Cause::Unwritable
        } else {
            Cause::NoAnswer
        };
        DeliveryError::new(cause, with_causes(&error.without_url()))
    }
}

fn unwritable(error: impl fmt::Display) -> DeliveryError {
    DeliveryError::new(Cause::Unwritable, error)
}

/// Without the URL and the key: they are secrets.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("recipient", &self.recipient)
            .finish_non_exhaustive()
    }
}

impl WebhookConfig {
    /// Where to post.
    pub(super) fn target(&self) -> Result<Url, ChannelError> {
        const KEY: &str = "webhook.url";
        let url = Url::parse(self.url.expose())
            .map_err(|error| ChannelError::new(KEY, format!("is not a url: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ChannelError::new(
                KEY,
                "must begin with http:// or https://",
            ));
        }
        Ok(url)
    }

    /// The key, in the form that Standard Webhooks hands out.
    pub(super) fn signer(&self) -> Result<Signer, ChannelError> {
        const KEY: &str = "webhook.secret";
        let secret = self.secret.expose().strip_prefix("whsec_");
        let secret = secret.ok_or_else(|| ChannelError::new(KEY, "must begin with whsec_"))?;
        let key = STANDARD
            .decode(secret)
            .map_err(|_| ChannelError::new(KEY, "is not base64 after whsec_"))?;
        if !(24..=64).contains(&key.len()) {
            return Err(ChannelError::new(KEY, "must be 24 to 64 bytes long"));
        }
        Signer::from_bytes(key).map_err(|error| ChannelError::new(KEY, error.to_string()))
    }
}

fn client(url: &Url, config: &WebhookConfig) -> Result<Client, ChannelError> {
    const KEY: &str = "webhook.tls_ca_file";
    let unusable =
        |error: reqwest::Error| ChannelError::new(KEY, with_causes(&error.without_url()));
    // reqwest takes the process's provider; the first one wins, and all of ours are ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let roots = extra_roots(KEY, &config.tls_ca_file)?
        .iter()
        .map(|root| Certificate::from_der(root))
        .collect::<Result<Vec<_>, _>>()
        .map_err(unusable)?;
    let builder = Client::builder()
        .user_agent("couponmesh")
        .redirect(redirect::Policy::none())
        .timeout(config.timeout);
    let builder = if url.scheme() == "https" {
        builder.tls_certs_merge(roots)
    } else {
        // Without redirects there is no TLS: works in an image that has no certificates at all.
        builder.tls_certs_only(roots)
    };
    builder.build().map_err(unusable)
}
