//! What can go wrong here, and what a caller is told.

use std::time::Duration;

use couponmesh_runtime::{
    database,
    status::{self, Reason},
};
use sea_orm::DbErr;
use tonic::Status;

/// When a caller that found no place should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no page of this member, or not yet.
    #[error("member_id: there is no page of this member yet")]
    PageNotFound,
    /// Too many calls that last.
    #[error("{0}")]
    Overloaded(&'static str),
    /// The server is going away; another one goes on.
    #[error("the server is draining; call again")]
    Draining,
    /// The watch has lasted as long as one may.
    #[error("the watch has reached its greatest age; watch again")]
    Aged,
    /// A read that many waited for failed.
    #[error("{}", .0.message())]
    Read(Status),
    /// The database refused.
    #[error("the database refused")]
    Storage(#[from] DbErr),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::PageNotFound => status::status(Reason::PageNotFound, text),
            Error::Overloaded(text) => status::overloaded(text, RETRY_AFTER),
            Error::Draining | Error::Aged => status::status(Reason::Draining, text),
            Error::Read(status) => status,
            Error::Storage(error) => database::status_of(&error),
        }
    }
}
