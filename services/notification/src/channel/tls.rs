//! Private certificate authorities, for both network channels.

use std::path::Path;

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::ChannelError;

/// The certificates in the PEM file at `path`, to be trusted besides the system's; none for an empty path.
pub(super) fn extra_roots(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ChannelError> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let unusable = |problem| ChannelError::new(key, format!("{}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| unusable(format!("cannot be read: {error}")))?;
    let roots = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(format!("is not PEM: {error}")))?;
    if roots.is_empty() {
        return Err(unusable("holds no certificate".to_owned()));
    }
    Ok(roots)
}
