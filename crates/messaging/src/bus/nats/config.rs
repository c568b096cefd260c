//! What can be set about NATS.

use std::{path::PathBuf, time::Duration};

use async_nats::ServerAddr;
use couponmesh_runtime::{
    config::{Problems, REDACTED, Validate, redact_url},
    net,
};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize, Serializer};

/// A NATS server or cluster with JetStream. The keys are explained in `config.default.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// Where it is: one URL, or more with commas between them; empty for none.
    #[serde(serialize_with = "serialize_urls")]
    pub url: String,
    /// What the names of this installation's stream, subjects and bucket begin with.
    pub prefix: String,
    /// A `.creds` file to log in with; empty for none.
    pub credentials_file: PathBuf,
    /// A PEM file with a further certificate authority; empty for none.
    pub tls_ca_file: PathBuf,
    /// Whether a server beyond this machine may do without TLS.
    pub insecure: bool,
    /// How large the stream may become when it is made here.
    pub max_bytes: i64,
    /// How many members are expected to register in a day; the stream's size is compared with it.
    pub registrations_per_day: u64,
    /// How many servers keep a copy of the stream when it is made here.
    pub replicas: usize,
    /// How long a server that was never reached is tried.
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
}

impl NatsConfig {
    /// The servers' addresses; none when one of them is no address.
    pub(super) fn addresses(&self) -> Option<Vec<ServerAddr>> {
        let urls = self.url.split(',').map(str::trim);
        urls.map(|url| url.parse().ok()).collect()
    }

    /// Whether a server beyond this machine is called without TLS.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let addresses = self.addresses().unwrap_or_default();
        addresses.iter().any(|address| {
            !matches!(address.scheme(), "tls" | "wss") && !net::is_this_machine(address.host())
        })
    }

    /// The user name and password of the first URL that has them. The client reads them, and does not use them.
    pub(super) fn login(&self) -> Option<(String, String)> {
        let address = self
            .addresses()?
            .into_iter()
            .find(ServerAddr::has_user_pass)?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let password = address.password().unwrap_or_default();
        Some((decoded(address.username()?), decoded(password)))
    }
}

impl Validate for NatsConfig {
    fn validate(&self, problems: &mut Problems) {
        if !self.url.is_empty() && self.addresses().is_none() {
            // The parser's own words could quote the password.
            problems.add("url", "must be like nats://host:4222 or tls://host:4222");
        }
        if !self.url.is_empty() && self.is_exposed() && !self.insecure {
            problems.add(
                "url",
                "leads beyond this machine without TLS: use tls://, or set bus.insecure = true where the network is \
                 trusted, e.g. inside a mesh",
            );
        }
        if !is_prefix(&self.prefix) {
            problems.add(
                "prefix",
                "must be a lower-case letter, then at most 31 lower-case letters, digits and hyphens",
            );
        }
        problems.range("max_bytes", self.max_bytes, 1_048_576..=i64::MAX);
        problems.range(
            "registrations_per_day",
            self.registrations_per_day,
            0..=1_000_000_000_000,
        );
        problems.range("replicas", self.replicas, 1..=5);
        let second = Duration::from_secs(1);
        problems.duration(
            "start_timeout",
            self.start_timeout,
            second..=second * 86_400,
        );
    }
}

/// Whether names can begin with it: those of subjects, streams and buckets.
fn is_prefix(text: &str) -> bool {
    let is_lower = |byte: u8| byte.is_ascii_lowercase();
    (1..=32).contains(&text.len())
        && text.bytes().next().is_some_and(is_lower)
        && text
            .bytes()
            .all(|byte| is_lower(byte) || byte.is_ascii_digit() || byte == b'-')
}

/// A comma may also stand in a password or token, and divide that.
fn redact_urls(urls: &str) -> String {
    let one_by_one: Vec<&str> = urls.split(',').collect();
    let all_have_schemes = one_by_one.iter().all(|url| url.contains("://"));
    if urls.contains('@') && one_by_one.len() > 1 && !all_have_schemes {
        return REDACTED.to_owned();
    }
    let redacted: Vec<String> = one_by_one.into_iter().map(redact_url).collect();
    redacted.join(",")
}

fn serialize_urls<S: Serializer>(urls: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redact_urls(urls))
}
