//! The bounds of a gRPC server.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::{Problems, Validate};

/// The bounds of a gRPC server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcConfig {
    /// Largest request message, decoded, in bytes. Services apply it themselves:
    /// `XServer::new(…).max_decoding_message_size(config.max_message_bytes)`.
    pub max_message_bytes: usize,
    /// The longest that a unary call may take; a caller's shorter deadline is honoured.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long calls that are running may go on after the server was told to stop.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// A further address where nothing but health checks is answered; empty for none.
    pub health_listen: String,
    /// Connections at once, or fewer where the process may not open as many files. For one more,
    /// the longest idle is closed.
    pub max_connections: usize,
    /// Connections at once from one address.
    pub max_connections_per_peer: usize,
    /// Calls at once on one connection.
    pub max_streams_per_connection: u32,
    /// How long a new connection may take to send the HTTP/2 preface.
    #[serde(with = "humantime_serde")]
    pub preface_timeout: Duration,
    /// How often a connection is asked whether it is still there.
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    /// How long the answer to that may take before the connection is closed.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// Calls in flight of each RPC that is not in `max_in_flight_of`.
    pub max_in_flight: usize,
    /// Calls in flight by RPC, like `"couponmesh.mypage.v1.MyPageService/WatchMyPage" = 10000`.
    pub max_in_flight_of: BTreeMap<String, usize>,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 * 1024,
            request_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            health_listen: String::new(),
            max_connections: 4096,
            max_connections_per_peer: 4096,
            max_streams_per_connection: 128,
            preface_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            max_in_flight: 1024,
            max_in_flight_of: BTreeMap::new(),
        }
    }
}

impl Validate for GrpcConfig {
    fn validate(&self, problems: &mut Problems) {
        const MOMENT: Duration = Duration::from_millis(10);
        const HOUR: Duration = Duration::from_secs(3600);
        const MANY: usize = 1 << 20;
        problems.range("max_message_bytes", self.max_message_bytes, 1024..=1 << 26);
        problems.range("max_connections", self.max_connections, 1..=MANY);
        let per_peer = self.max_connections_per_peer;
        problems.range("max_connections_per_peer", per_peer, 1..=MANY);
        let listen = &self.health_listen;
        if !listen.is_empty() && listen.parse::<SocketAddr>().is_err() {
            problems.add(
                "health_listen",
                format_args!("must be empty or an address such as 0.0.0.0:50050, is {listen:?}"),
            );
        }
        let streams = self.max_streams_per_connection;
        problems.range("max_streams_per_connection", streams, 1..=1 << 20);
        problems.range("max_in_flight", self.max_in_flight, 1..=MANY);
        for (method, bound) in &self.max_in_flight_of {
            let key = format!("max_in_flight_of.{method:?}");
            problems.range(&key, *bound, 1..=MANY);
        }
        for (key, value) in [
            ("request_timeout", self.request_timeout),
            ("drain_timeout", self.drain_timeout),
            ("preface_timeout", self.preface_timeout),
            ("keepalive_interval", self.keepalive_interval),
            ("keepalive_timeout", self.keepalive_timeout),
        ] {
            problems.duration(key, value, MOMENT..=HOUR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        assert_eq!(Problems::of(&GrpcConfig::default()), Vec::<String>::new());
    }

    #[test]
    fn bounds_out_of_range_are_named() {
        let config = GrpcConfig {
            max_message_bytes: 3,
            keepalive_timeout: Duration::ZERO,
            max_in_flight_of: BTreeMap::from([("a.B/C".to_owned(), 0)]),
            ..GrpcConfig::default()
        };
        assert_eq!(
            Problems::of(&config),
            [
                "max_message_bytes must be between 1024 and 67108864, is 3",
                "max_in_flight_of.\"a.B/C\" must be between 1 and 1048576, is 0",
                "keepalive_timeout must be between 10ms and 3600s, is 0ns",
            ]
        );
    }
}
