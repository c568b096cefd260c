//! Everything that can be set. `config.default.toml` explains every key and is the default.

use std::path::Path;

use couponmesh_member::MemberConfig;
use couponmesh_messaging::{MessagingConfig, bus::NatsConfig};
use couponmesh_mypage::MyPageConfig;
use couponmesh_notification::NotificationConfig;
use couponmesh_runtime::{
    config::{self, ConfigError, Problems, Validate},
    database::DatabaseConfig,
    grpc::GrpcConfig,
    telemetry::TelemetryConfig,
};
use serde::{Deserialize, Serialize};

/// The defaults, commented: what `couponmesh config print --default` shows.
pub const DEFAULT: &str = include_str!("config.default.toml");

/// The whole configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// The gRPC server.
    pub grpc: GrpcConfig,
    /// The PostgreSQL database of the one service that `serve` runs.
    pub database: DatabaseConfig,
    /// The NATS server between the services that `serve` runs.
    pub bus: NatsConfig,
    /// How events move.
    pub messaging: MessagingConfig,
    /// The member service.
    pub member: MemberConfig,
    /// The notification service.
    pub notification: NotificationConfig,
    /// The read model.
    pub mypage: MyPageConfig,
}

impl Config {
    /// Reads the defaults, then `file`, then `COUPONMESH__…` variables, and validates the result.
    ///
    /// # Errors
    /// When something cannot be read or makes no sense; the error names the keys.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        config::load(DEFAULT, file)
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        problems.within("telemetry", &self.telemetry);
        problems.within("grpc", &self.grpc);
        problems.within("database", &self.database);
        problems.within("bus", &self.bus);
        problems.within("messaging", &self.messaging);
        problems.within("member", &self.member);
        problems.within("notification", &self.notification);
        problems.within("mypage", &self.mypage);
        self.validate_commits(problems);
    }
}

impl Config {
    /// A caller may wait for a commit that is under way and then for its own, and is to learn in time that the
    /// storage is unavailable.
    fn validate_commits(&self, problems: &mut Problems) {
        let (commit, request) = (self.database.commit_timeout, self.grpc.request_timeout);
        // Without a server no commit waits for a standby.
        if !self.database.url.is_empty() && commit.saturating_mul(2) >= request {
            problems.add(
                "database.commit_timeout",
                format_args!(
                    "must be less than half of grpc.request_timeout, is {commit:?} of {request:?}: lower it, \
                     or raise grpc.request_timeout"
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where a secret may stand: the key, and what it is set to, with S for the secret.
    const SECRETS: [(&str, &str); 19] = [
        ("database.url", "postgres://app:S@127.0.0.1/m"),
        (
            "database.url",
            "postgres://db/m?sslmode=verify-full&user=app&password=S",
        ),
        (
            "database.url",
            "postgres://db/m?sslmode=verify-full&options=-c%20x%3DS",
        ),
        (
            "database.url",
            "postgres://db/m?sslmode=verify-full&options[x]=S",
        ),
        (
            "database.url",
            "postgres://db/m?sslmode=verify-full&pasword=S",
        ),
        ("database.url", "app:S"),
        ("bus.url", "nats://ann:S@127.0.0.1:4222,tls://S@two:4222"),
        ("bus.url", "S@127.0.0.1:4222"),
        ("member.coupon_address", "http://ann:S@coupon:50051"),
        ("member.coupon_address", "http://coupon:50051/?token=S"),
        ("member.coupon_address", "https://ann:S@coupon:50051"),
        ("telemetry.otlp_endpoint", "http://ann:S@otel:4317"),
        ("telemetry.otlp_endpoint", "http://otel:4317?key=S"),
        ("telemetry.otlp_endpoint", "ann:S@otel:4317"),
        ("notification.channel.smtp.url", "smtps://ann:S@mail:465"),
        ("notification.channel.smtp.url", "ann:S@mail"),
        (
            "notification.channel.webhook.url",
            "https://ann:S@hooks/a?key=S",
        ),
        ("notification.channel.webhook.url", "S"),
        ("notification.channel.webhook.secret", "S"),
    ];

    proptest! {
        #[test]
        fn no_secret_is_in_what_is_printed_nor_in_an_error(
            (key, value) in prop::sample::select(SECRETS.to_vec()),
            // Whatever a password generator makes; QZ so that no other text has it by chance.
            parts in proptest::collection::vec("QZ[0-9]|[!-~]", 4..12),
            channel in prop::sample::select(vec!["log", "smtp", "webhook"]),
        ) {
            let secret = format!("QZ{}ZQ", parts.concat());
            let value = serde_json::Value::String(value.replace('S', &secret));
            let (section, name) = key.rsplit_once('.').unwrap();
            let mut text = format!("[{section}]\n{name} = {value}\n");
            if section != "notification.channel" {
                text = format!("[notification.channel]\nkind = \"{channel}\"\n{text}");
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&file, text).unwrap();
            let told = match Config::load(Some(file.path())) {
                Ok(config) => config::print(&config).unwrap(),
                Err(error) => error.to_string(),
            };
            for part in ["QZ", "ZQ"] {
                prop_assert!(!told.contains(part), "{key} = {value}: {told}");
            }
        }
    }

    #[test]
    fn a_commit_that_could_outlast_its_caller_is_refused_by_both_keys() {
        let mut config = Config::load(None).unwrap();
        config.database.url = "postgres://member@127.0.0.1/member".to_owned();
        assert_eq!(Problems::of(&config), Vec::<String>::new());
        config.database.commit_timeout = config.grpc.request_timeout / 2;
        assert_eq!(
            Problems::of(&config),
            [
                "database.commit_timeout must be less than half of grpc.request_timeout, is 5s of 10s: \
                 lower it, or raise grpc.request_timeout"
            ]
        );
        // There is no database that commits.
        config.database.url.clear();
        assert_eq!(Problems::of(&config), Vec::<String>::new());
    }

    #[test]
    fn the_compiled_in_defaults_are_valid_and_print() {
        let config = Config::load(None).unwrap();
        let printed = config::print(&config).unwrap();
        assert!(printed.contains("[member.withdrawal]"), "{printed}");
    }
}
