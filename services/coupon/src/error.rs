//! What can go wrong here, and what a caller is told.

use couponmesh_runtime::{
    database,
    group_commit::NotTaken,
    status::{self, Reason},
};
use sea_orm::DbErr;
use tonic::Status;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such coupon.
    #[error("coupon_id: there is no such coupon")]
    CouponNotFound,
    /// The service has more to do than it may hold.
    #[error("the service has too much to do")]
    Overloaded,
    /// The database refused.
    #[error("the database refused")]
    Storage(#[from] DbErr),
}

impl From<NotTaken> for Error {
    fn from(_: NotTaken) -> Self {
        Self::Overloaded
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::CouponNotFound => status::status(Reason::CouponNotFound, text),
            Error::Overloaded => status::overloaded(text, std::time::Duration::from_secs(1)),
            Error::Storage(error) => database::status_of(&error),
        }
    }
}
