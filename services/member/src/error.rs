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
    /// The request id was used for another content.
    #[error("request_id: was used for a call with other content")]
    RequestIdReused,
    /// The request id was used to register somebody who has withdrawn. What was asked for then is erased.
    #[error("request_id: the member that this call registered has withdrawn; use a new request_id")]
    MemberWithdrawn,
    /// There is no such member.
    #[error("member_id: there is no such member")]
    MemberNotFound,
    /// There is no such withdrawal.
    #[error("withdrawal_id: there is no such withdrawal")]
    WithdrawalNotFound,
    /// A live member has this address.
    #[error("email: is taken by a member")]
    EmailTaken,
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
            Error::RequestIdReused => status::status(Reason::RequestIdReused, text),
            Error::MemberWithdrawn => status::status(Reason::MemberWithdrawn, text),
            Error::MemberNotFound => status::status(Reason::MemberNotFound, text),
            Error::WithdrawalNotFound => status::status(Reason::WithdrawalNotFound, text),
            Error::EmailTaken => status::status(Reason::EmailTaken, text),
            Error::Overloaded => status::overloaded(text, std::time::Duration::from_secs(1)),
            Error::Storage(error) => database::status_of(&error),
        }
    }
}
