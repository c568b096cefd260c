//! The webhook channel: Standard Webhooks <https://www.standardwebhooks.com>.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use couponmesh_runtime::{Clock, context::CORRELATION_HEADER};
use hmac::{Hmac, Mac};
use reqwest::{
    Certificate, Client,
    header::{CONTENT_TYPE, HeaderValue},
    redirect,
};
use serde::Serialize;
use sha2::Sha256;
use url::Url;

use super::{ChannelError, DeliveryError, Message, WebhookConfig, tls::extra_roots};

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
        let body = serde_json::to_string(&body).map_err(DeliveryError::new)?;
        // Of this attempt, not of the event: receivers refuse old ones.
        let timestamp = (self.clock.now().unix_millis() / 1_000).to_string();
        let mut request = self
            .client
            .post(self.url.clone())
            .header(
                "webhook-signature",
                self.signer.sign(&id, &timestamp, &body),
            )
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        if let Ok(correlation_id) = HeaderValue::from_str(message.correlation_id) {
            request = request.header(CORRELATION_HEADER, correlation_id);
        }
        // The answer's body is never read: dropping it ends the request.
        let response = request.send().await.map_err(|error| self.failed(error))?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(DeliveryError::new(format_args!(
            "the webhook answered {}",
            response.status()
        )))
    }

    fn failed(&self, error: reqwest::Error) -> DeliveryError {
        if error.is_timeout() {
            return DeliveryError::timeout(self.timeout);
        }
        DeliveryError::caused(&error.without_url())
    }
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
        Hmac::new_from_slice(&key)
            .map(Signer)
            .map_err(|error| ChannelError::new(KEY, error.to_string()))
    }
}

/// Signs requests with the shared key.
pub(super) struct Signer(Hmac<Sha256>);

impl Signer {
    fn sign(&self, id: &str, timestamp: &str, body: &str) -> String {
        let mac = self
            .0
            .clone()
            .chain_update(format!("{id}.{timestamp}.{body}"));
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

fn client(url: &Url, config: &WebhookConfig) -> Result<Client, ChannelError> {
    const KEY: &str = "webhook.tls_ca_file";
    let unusable = |error: reqwest::Error| {
        ChannelError::new(KEY, DeliveryError::caused(&error.without_url()).to_string())
    };
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
