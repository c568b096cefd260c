//! The e-mail channel.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use couponmesh_runtime::Timestamp;
use lettre::{
    Message as Email,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0},
    },
    transport::smtp::{
        Error,
        client::{Certificate, TlsParameters},
    },
};

use super::{
    ChannelError, DeliveryError, Message, SmtpConfig,
    connections::{Connections, failed},
    failure::Cause,
    tls::extra_roots,
};

/// The last second of the year 9999, the last that a Date header can say, in microseconds.
const MAX_DATE: i64 = 253_402_300_799_000_000;

/// Sends mails through an SMTP server.
pub struct Smtp {
    connections: Connections,
    from: Mailbox,
    to: Mailbox,
    message_id_domain: String,
    recipient: String,
    timeout: Duration,
}

impl Smtp {
    pub(super) fn open(config: &SmtpConfig) -> Result<Self, ChannelError> {
        let endpoint = config.endpoint()?;
        let tls = tls(&endpoint.host, config)?;
        let to = config.recipient()?;
        Ok(Self {
            connections: Connections::new(endpoint, config.hello()?, tls),
            from: config.sender()?,
            message_id_domain: config.message_id_domain()?,
            recipient: to.email.to_string(),
            to,
            timeout: config.timeout,
        })
    }

    pub(super) fn recipient(&self) -> &str {
        &self.recipient
    }

    pub(super) async fn send(&self, message: &Message<'_>) -> Result<(), DeliveryError> {
        let email = self.compose(message)?;
        // lettre has a timeout for connecting only.
        tokio::time::timeout(self.timeout, self.deliver(&email))
            .await
            .unwrap_or_else(|_| Err(DeliveryError::timeout(self.timeout)))
    }

    async fn deliver(&self, email: &Email) -> Result<(), DeliveryError> {
        let mut connection = self.connections.get().await?;
        connection
            .send(email.envelope(), &email.formatted())
            .await
            .map_err(|error| failed(&error))?;
        self.connections.park(connection);
        Ok(())
    }

    fn compose(&self, message: &Message<'_>) -> Result<Email, DeliveryError> {
        Email::builder()
            .from(self.from.clone())
            .to(self.to.clone())
            .subject(message.subject)
            .message_id(Some(format!(
                "<{}@{}>",
                message.notification_id, self.message_id_domain
            )))
            .date(date(message.create_time))
            // Content-Type and Content-Transfer-Encoding mean nothing without it, and lettre sets
            // it for parts only.
            .header(MIME_VERSION_1_0)
            .header(ContentType::TEXT_PLAIN)
            .raw_header(header("X-Correlation-Id", message.correlation_id))
            // RFC 3834: keeps vacation notices and other robots from answering.
            .raw_header(header("Auto-Submitted", "auto-generated"))
            .body(message.body.to_owned())
            .map_err(|error| DeliveryError::new(Cause::Unwritable, error))
    }
}

/// Without the connections: they know the password.
impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp")
            .field("recipient", &self.recipient)
            .finish_non_exhaustive()
    }
}

fn tls(host: &str, config: &SmtpConfig) -> Result<TlsParameters, ChannelError> {
    const KEY: &str = "smtp.tls_ca_file";
    let unusable = |error: Error| ChannelError::new(KEY, format!("cannot be used: {error}"));
    let mut tls = TlsParameters::builder(host.to_owned());
    for root in extra_roots(KEY, &config.tls_ca_file)? {
        tls = tls.add_root_certificate(Certificate::from_der(root.to_vec()).map_err(unusable)?);
    }
    tls.build().map_err(unusable)
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

/// The Date header panics outside of its range.
fn date(time: Timestamp) -> SystemTime {
    let micros = u64::try_from(time.0.clamp(0, MAX_DATE)).unwrap_or(0);
    UNIX_EPOCH + Duration::from_micros(micros)
}
