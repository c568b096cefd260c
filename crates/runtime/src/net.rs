//! Where an address leads.

use std::net::IpAddr;

/// Whether `host`, a name or an address, with brackets or without, is this machine's own.
#[must_use]
pub fn is_this_machine(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_is_this_machine() {
        for own in [
            "localhost",
            "LocalHost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_this_machine(own), "{own}");
        }
        for other in [
            "",
            "db",
            "10.0.0.1",
            "[fe80::1]",
            "0.0.0.0",
            "localhost.example.com",
        ] {
            assert!(!is_this_machine(other), "{other}");
        }
    }
}
