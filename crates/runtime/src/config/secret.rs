//! Values that must not be shown: passwords, and URLs that carry them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is shown instead.
pub const REDACTED: &str = "<redacted>";

/// A value that neither `Debug` nor `config print` shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.is_empty() { "" } else { REDACTED }
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Serde's own error would quote the value.
        let value = String::deserialize(deserializer);
        value
            .map(Self)
            .map_err(|_| de::Error::custom("must be a string"))
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

/// Parameters of URLs that are shown; the value of any other could be a password.
const SHOWN: [&str; 13] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "ssl-ca",
    "ssl-mode",
    "ssl-root-cert",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "tls",
    "user",
];

/// `url` without its password, token or any parameter that is not known to be harmless; rather hides too much than too
/// little.
#[must_use]
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // NATS takes a server without a scheme, and a token before it.
        return redact_authority("", url);
    };
    if !is_made_of(scheme, "+-.") {
        return REDACTED.to_owned();
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A password that holds one of these ends only at the last @.
    if tail.contains('@') {
        return format!("{scheme}://{REDACTED}");
    }
    let (tail, fragment) = match tail.split_once('#') {
        Some((tail, _)) => (tail, format!("#{REDACTED}")),
        None => (tail, String::new()),
    };
    let (path, query) = match tail.split_once('?') {
        Some((path, query)) => {
            let query: Vec<_> = query.split('&').map(redact_parameter).collect();
            (path, format!("?{}", query.join("&")))
        }
        None => (tail, String::new()),
    };
    let authority = redact_authority(scheme, authority);
    format!("{scheme}://{authority}{path}{query}{fragment}")
}

/// User, password, host and port: `user:password@host:port`.
fn redact_authority(scheme: &str, authority: &str) -> String {
    let (userinfo, server) = match authority.rsplit_once('@') {
        Some((userinfo, server)) => (Some(userinfo), server),
        None => (None, authority),
    };
    let port = server.rsplit_once(':').map(|(_, port)| port);
    let is_server = is_made_of(server, ".-_:[]%,")
        && port.is_none_or(|port| port.ends_with(']') || port.bytes().all(|b| b.is_ascii_digit()));
    let server = if is_server { server } else { REDACTED };
    let is_database = scheme.starts_with("postgres");
    match userinfo.map(|userinfo| (userinfo.split_once(':'), userinfo)) {
        None => server.to_owned(),
        Some((Some((user, _)), _)) if is_database => format!("{user}:{REDACTED}@{server}"),
        Some((None, user)) if is_database => format!("{user}@{server}"),
        // Elsewhere what looks like a name may be a token, or a part of it.
        Some(_) => format!("{REDACTED}@{server}"),
    }
}

/// Parameters that hold secrets; of any other the name, too, could be a part of one.
const NAMED: [&str; 5] = ["key", "options", "password", "secret", "token"];

/// Whether `text` has only letters, digits and `others`.
fn is_made_of(text: &str, others: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

fn redact_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if SHOWN.contains(&name) => parameter.to_owned(),
        Some((name, _)) if NAMED.contains(&name) => format!("{name}={REDACTED}"),
        _ => REDACTED.to_owned(),
    }
}

/// For `#[serde(serialize_with = "couponmesh_runtime::config::serialize_url")]` on a URL that may
/// carry a password.
///
/// # Errors
///
/// When the serializer fails.
pub fn serialize_url<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redact_url(url))
}
