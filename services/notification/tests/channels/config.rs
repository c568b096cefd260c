//! What the configuration may say, and what is said about one that may not.

use std::io::Write;

use couponmesh_notification::channel::{Channel, ChannelConfig};
use couponmesh_runtime::{Clock, config::Problems};
use serde_json::{Value, json};

use crate::parse;

/// A usable section of either kind with one value changed.
fn with(kind: &str, key: &str, value: Value) -> ChannelConfig {
    let mut config = json!({
        "kind": kind,
        "smtp": {"url": "smtp://localhost", "from": "a@example.com", "to": "b@example.com"},
        "webhook": {
            "url": "https://example.com/hook",
            "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        },
    });
    config[kind][key] = value;
    parse(config)
}

#[test]
fn nothing_need_be_configured() {
    let config = ChannelConfig::default();
    assert_eq!(Problems::of(&config), Vec::<String>::new());
    assert!(matches!(
        Channel::open(&config, Clock::system()),
        Ok(Channel::Log(_))
    ));
    let shown = serde_json::to_value(&config).unwrap();
    assert_eq!(shown["kind"], "log");
    assert_eq!(shown["smtp"]["timeout"], "10s");
}

#[test]
fn an_unknown_key_is_refused() {
    for config in [
        json!({"knid": "log"}),
        json!({"kind": "pigeon"}),
        json!({"smtp": {"urk": ""}}),
        json!({"webhook": {"secrte": ""}}),
    ] {
        assert!(serde_json::from_value::<ChannelConfig>(config).is_err());
    }
}

#[test]
fn every_section_that_is_not_chosen_may_be_empty_and_the_chosen_one_may_not() {
    let keys = |kind| {
        let problems = Problems::of(&parse(json!({"kind": kind})));
        let key = |problem: &String| problem.split(' ').next().unwrap().to_owned();
        problems.iter().map(key).collect::<Vec<_>>()
    };
    assert!(keys("log").is_empty());
    assert_eq!(keys("smtp"), ["smtp.url", "smtp.from", "smtp.to"]);
    assert_eq!(keys("webhook"), ["webhook.url", "webhook.secret"]);
}

/// Both validating and opening name the key and what is wrong with it, and do not repeat the value.
fn refused(kind: &str, key: &str, values: &[(&str, &str)]) {
    for (value, problem) in values {
        let config = with(kind, key, json!(value));
        let [message] = Problems::of(&config).try_into().unwrap();
        let wanted = format!("{kind}.{key} {problem}");
        assert!(message.starts_with(&wanted), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
        let error = Channel::open(&config, Clock::system()).unwrap_err();
        assert_eq!(error.to_string(), format!("notification.channel.{message}"));
    }
}

#[test]
fn a_mail_server_or_an_address_that_means_nothing_is_refused() {
    let urls = [
        ("localhost", "is not a url"),
        ("smtp:25", "has no host"),
        ("http://h", "must begin with smtp:// or smtps://"),
        (
            "smtp://h?tls=opportunistic",
            "has a query that is not known",
        ),
        ("smtps://h?tls=required", "has a query that is not known"),
        ("smtp://s3cret@h", "has a user name but no password"),
        ("smtp://:s3cret@h", "has a password but no user name"),
        ("smtp://u:s3cret%FF@h", "has credentials that are not"),
        ("smtp://h/mail.example.com", "has a path"),
    ];
    refused("smtp", "url", &urls);
    let addresses = [
        ("", "is not an e-mail address"),
        ("nobody", "is not an e-mail address"),
        ("a@example.com, b@example.com", "is not an e-mail address"),
    ];
    refused("smtp", "from", &addresses);
    refused("smtp", "to", &addresses);
    let names = [
        ("two words", "is not a host name"),
        ("mail.example.com\r\nMAIL", "is not a host name"),
        ("[mail.example.com]", "is not a host name"),
    ];
    refused("smtp", "hello_name", &names);
    refused("smtp", "message_id_domain", &names);
}

#[test]
fn a_webhook_that_means_nothing_is_refused() {
    let urls = [
        ("s3cret", "is not a url"),
        ("ftp://s3cret@h", "must begin with http:// or https://"),
    ];
    refused("webhook", "url", &urls);
    let secrets = [
        ("s3cret", "must begin with whsec_"),
        ("whsec_s3cret!", "is not base64"),
        ("whsec_c2VjcmV0", "must be 24 to 64 bytes long"),
    ];
    refused("webhook", "secret", &secrets);
}

#[test]
fn a_timeout_has_bounds() {
    for kind in ["smtp", "webhook"] {
        for value in ["0s", "1h"] {
            let [message] = Problems::of(&with(kind, "timeout", json!(value)))
                .try_into()
                .unwrap();
            let wanted = format!("{kind}.timeout must be between 10ms and 300s");
            assert!(message.starts_with(&wanted), "{message}");
        }
    }
}

#[test]
fn a_certificate_file_must_hold_certificates() {
    let mut empty = tempfile::NamedTempFile::new().unwrap();
    writeln!(empty, "nothing of the kind").unwrap();
    let missing = empty.path().with_extension("missing");
    for kind in ["smtp", "webhook"] {
        for (path, problem) in [
            (empty.path(), "holds no certificate"),
            (&missing, "cannot be read"),
        ] {
            let config = with(kind, "tls_ca_file", json!(path));
            assert_eq!(Problems::of(&config), Vec::<String>::new());
            let error = Channel::open(&config, Clock::system())
                .unwrap_err()
                .to_string();
            let key = format!("notification.channel.{kind}.tls_ca_file ");
            assert!(
                error.starts_with(&key) && error.contains(problem),
                "{error}"
            );
        }
    }
}
