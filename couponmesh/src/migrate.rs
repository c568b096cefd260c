//! Bringing a service's database up to date without running the service.

use couponmesh_messaging::migrations::{MigrateError, bring_up};
use couponmesh_runtime::database::Database;

use crate::node::ServiceName;

/// Brings the database of `service` up to date.
///
/// # Errors
/// See [`MigrateError`].
pub async fn migrate(service: ServiceName, database: &Database) -> Result<(), MigrateError> {
    match service {
        ServiceName::Member => bring_up::<couponmesh_member::migrations::Migrator>(database).await,
        ServiceName::Coupon => bring_up::<couponmesh_coupon::migrations::Migrator>(database).await,
        ServiceName::Notification => {
            bring_up::<couponmesh_notification::migrations::Migrator>(database).await
        }
        ServiceName::Mypage => bring_up::<couponmesh_mypage::migrations::Migrator>(database).await,
    }
}
