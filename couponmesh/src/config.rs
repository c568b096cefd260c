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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_defaults_are_valid_and_print() {
        let config = Config::load(None).unwrap();
        let printed = config::print(&config).unwrap();
        assert!(printed.contains("[member.withdrawal]"), "{printed}");
    }
}
