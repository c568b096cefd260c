//! Values that must not be shown: passwords, and URLs that carry them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const REDACTED: &str = "<redacted>";

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

/// `url` without its password, token or secret query values; rather hides too much than too little.
#[must_use]
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // NATS takes a server without a scheme, and a token before it.
        return match url.rsplit_once('@') {
            Some((_, server)) => format!("{REDACTED}@{server}"),
            None => url.to_owned(),
        };
    };
    // The last @ of all: a password may hold any character, escaped or not.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((userinfo, rest)) => (Some(redact_userinfo(scheme, userinfo)), rest),
        None => (None, rest),
    };
    let mut redacted = format!("{scheme}://{}", user.unwrap_or_default());
    match rest.split_once('?') {
        Some((rest, query)) => {
            let query: Vec<_> = query.split('&').map(redact_parameter).collect();
            redacted.push_str(rest);
            redacted.push('?');
            redacted.push_str(&query.join("&"));
        }
        None => redacted.push_str(rest),
    }
    redacted
}

fn redact_userinfo(scheme: &str, userinfo: &str) -> String {
    match userinfo.split_once(':') {
        Some((user, _)) => format!("{user}:{REDACTED}@"),
        // A name alone is a name for databases, a token for NATS.
        None if scheme.starts_with("postgres") => format!("{userinfo}@"),
        None => format!("{REDACTED}@"),
    }
}

fn redact_parameter(parameter: &str) -> String {
    const SECRET: [&str; 4] = ["password", "secret", "token", "key"];
    match parameter.split_once('=') {
        Some((name, _)) if SECRET.iter().any(|s| name.to_ascii_lowercase().contains(s)) => {
            format!("{name}={REDACTED}")
        }
        _ => parameter.to_owned(),
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
