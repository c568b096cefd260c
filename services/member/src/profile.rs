//! What a person tells of itself, checked at the door.

mod characters;
mod display_name;
mod email;

pub use display_name::DisplayName;
pub use email::Email;

use couponmesh_runtime::id::RequestId;
use sha2::{Digest as _, Sha256};

/// Tells one registration's content from another's under the same request id.
///
/// It is stored beside the address and tells no more than that; both are erased together. The request id salts it,
/// so that digests of one address differ.
#[must_use]
pub fn digest(request_id: RequestId, email: &Email, name: &DisplayName) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(request_id.0.as_bytes());
    hash.update(email.expose().as_bytes());
    // Not part of any address or name, so two fields cannot pass for two others.
    hash.update([0]);
    hash.update(name.expose().as_bytes());
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests;
