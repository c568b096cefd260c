//! Which mail server to talk to and how: what the `smtp.url` says.

use std::net::IpAddr;

use lettre::{
    message::Mailbox,
    transport::smtp::{authentication::Credentials, extension::ClientId},
};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::{ChannelError, SmtpConfig};

const URL: &str = "smtp.url";

/// How the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// Not at all.
    None,
    /// By STARTTLS, without which nothing is sent.
    StartTls,
    /// By TLS from the first byte.
    Implicit,
}

/// A mail server.
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
    pub(super) credentials: Option<Credentials>,
}

impl SmtpConfig {
    pub(super) fn endpoint(&self) -> Result<Endpoint, ChannelError> {
        let url = Url::parse(self.url.expose())
            .map_err(|error| ChannelError::new(URL, format!("is not a url: {error}")))?;
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| ChannelError::new(URL, "has no host"))?;
        let (security, port) = match (url.scheme(), url.query()) {
            ("smtp", None) => (Security::None, 25),
            ("smtp", Some("tls=required")) => (Security::StartTls, 587),
            ("smtps", None) => (Security::Implicit, 465),
            ("smtp" | "smtps", _) => {
                return Err(ChannelError::new(
                    URL,
                    "has a query that is not known: only smtp:// takes one, tls=required",
                ));
            }
            _ => {
                return Err(ChannelError::new(
                    URL,
                    "must begin with smtp:// or smtps://",
                ));
            }
        };
        if !matches!(url.path(), "" | "/") {
            return Err(ChannelError::new(
                URL,
                "has a path: the name to greet with is smtp.hello_name",
            ));
        }
        Ok(Endpoint {
            // The brackets of an IPv6 address belong to the URL, not to the address.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(port),
            security,
            credentials: credentials(&url)?,
        })
    }

    /// The name to greet the server with. By default the sender's domain, which the world knows:
    /// the host name of a container is none that a mail server accepts.
    pub(super) fn hello(&self) -> Result<ClientId, ChannelError> {
        self.name("smtp.hello_name", &self.hello_name)
    }

    /// What stands behind the `@` of a Message-ID.
    pub(super) fn message_id_domain(&self) -> Result<String, ChannelError> {
        let name = self.name("smtp.message_id_domain", &self.message_id_domain)?;
        Ok(name.to_string())
    }

    fn name(&self, key: &'static str, configured: &str) -> Result<ClientId, ChannelError> {
        let name = match configured {
            "" => host_name(self.sender()?.email.domain()),
            configured => host_name(configured),
        };
        name.ok_or_else(|| ChannelError::new(key, "is not a host name"))
    }

    /// Who the mail is from.
    pub(super) fn sender(&self) -> Result<Mailbox, ChannelError> {
        mailbox("smtp.from", &self.from)
    }

    /// Who the mail is for.
    pub(super) fn recipient(&self) -> Result<Mailbox, ChannelError> {
        mailbox("smtp.to", &self.to)
    }
}

fn credentials(url: &Url) -> Result<Option<Credentials>, ChannelError> {
    let decode = |text| {
        let text = percent_decode_str(text).decode_utf8();
        text.map_err(|_| {
            ChannelError::new(URL, "has credentials that are not percent-encoded utf-8")
        })
    };
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        ("", Some(_)) => Err(ChannelError::new(URL, "has a password but no user name")),
        (_, None) => Err(ChannelError::new(URL, "has a user name but no password")),
        (user, Some(password)) => Ok(Some(Credentials::new(
            decode(user)?.into_owned(),
            decode(password)?.into_owned(),
        ))),
    }
}

/// The ASCII form of a domain, or an address literal like `[192.0.2.1]`.
fn host_name(text: &str) -> Option<ClientId> {
    let literal = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(literal) = literal {
        let address = literal.strip_prefix("IPv6:").unwrap_or(literal);
        return Some(match address.parse().ok()? {
            IpAddr::V4(address) => ClientId::Ipv4(address),
            IpAddr::V6(address) => ClientId::Ipv6(address),
        });
    }
    Some(match Host::parse(text).ok()? {
        Host::Domain(domain) => ClientId::Domain(domain),
        Host::Ipv4(address) => ClientId::Ipv4(address),
        Host::Ipv6(address) => ClientId::Ipv6(address),
    })
}

fn mailbox(key: &'static str, text: &str) -> Result<Mailbox, ChannelError> {
    text.parse()
        .map_err(|_| ChannelError::new(key, "is not an e-mail address"))
}
