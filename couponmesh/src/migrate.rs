//! Bringing a service's database up to date without running the service.

use couponmesh_messaging::migrations::{self, MigrateError, bring_up};
use couponmesh_runtime::database::Database;
use sea_orm::DbErr;

use crate::node::ServiceName;

/// Brings the database of `service` up to date.
///
/// # Errors
/// See [`MigrateError`].
pub async fn migrate(service: ServiceName, database: &Database) -> Result<(), MigrateError> {
    match service {
        ServiceName::Member => couponmesh_member::migrations::bring_up(database).await,
        ServiceName::Coupon => bring_up::<couponmesh_coupon::migrations::Migrator>(database).await,
        ServiceName::Notification => {
            bring_up::<couponmesh_notification::migrations::Migrator>(database).await
        }
        ServiceName::Mypage => bring_up::<couponmesh_mypage::migrations::Migrator>(database).await,
    }
}

/// The first migration of `service` that `database` lacks: it is another's, or not up to date.
///
/// # Errors
/// The database's, also when it was never migrated.
pub async fn missing(service: ServiceName, database: &Database) -> Result<Option<String>, DbErr> {
    match service {
        ServiceName::Member => {
            migrations::missing::<couponmesh_member::migrations::Migrator>(database).await
        }
        ServiceName::Coupon => {
            migrations::missing::<couponmesh_coupon::migrations::Migrator>(database).await
        }
        ServiceName::Notification => {
            migrations::missing::<couponmesh_notification::migrations::Migrator>(database).await
        }
        ServiceName::Mypage => {
            migrations::missing::<couponmesh_mypage::migrations::Migrator>(database).await
        }
    }
}
