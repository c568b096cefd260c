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
    /// There is no page of this member, or not yet.
    #[error("member_id: there is no page of this member yet")]
    PageNotFound,
    /// The server is going away; another one goes on.
    #[error("the server is draining; call again")]
    Draining,
    /// The database refused.
    #[error("the database refused")]
    Storage(#[from] DbErr),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::PageNotFound => status::status(Reason::PageNotFound, text),
            Error::Draining => status::overloaded(text, std::time::Duration::ZERO),
            Error::Storage(error) => database::status_of(&error),
        }
    }
}
