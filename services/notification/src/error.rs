//! What can go wrong here, and what a caller is told.

use couponmesh_runtime::{
    database,
    status::{self, Reason},
};
use sea_orm::DbErr;
use tonic::Status;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such notification.
    #[error("notification_id: there is no such notification")]
    NotificationNotFound,
    /// The database refused.
    #[error("the database refused")]
    Storage(#[from] DbErr),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::NotificationNotFound => status::status(Reason::NotificationNotFound, text),
            Error::Storage(error) => database::status_of(&error),
        }
    }
}
