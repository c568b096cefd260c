//! Who vouches for `https://` addresses: the system's certificate authorities, and a further one.

use std::path::Path;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tonic::transport::ClientTlsConfig;

/// TLS that trusts the system's authorities and those of the PEM file `ca_file`.
///
/// # Errors
/// One line: the file is of no use, or there is no authority at all.
pub(super) fn config(ca_file: Option<&Path>) -> Result<ClientTlsConfig, String> {
    let mut roots = RootCertStore::empty();
    let systems = rustls_native_certs::load_native_certs();
    // Systems keep some that nobody can use any more.
    roots.add_parsable_certificates(systems.certs);
    if let Some(file) = ca_file {
        add(&mut roots, file).map_err(|why| format!("--ca-file {}: {why}", file.display()))?;
    }
    if roots.is_empty() {
        let errors = systems.errors.iter().map(ToString::to_string);
        let errors = errors.collect::<Vec<_>>().join(", ");
        let separator = if errors.is_empty() { "" } else { ": " };
        return Err(format!(
            "this system has no certificate authorities{separator}{errors}; name one by --ca-file"
        ));
    }
    Ok(ClientTlsConfig::new().trust_anchors(roots.roots))
}

fn add(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    let pem = std::fs::read(file).map_err(|error| format!("cannot be read: {error}"))?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| format!("is not PEM: {error}"))?;
    if found.is_empty() {
        return Err("holds no certificate".to_owned());
    }
    for certificate in found {
        let added = roots.add(certificate);
        added.map_err(|error| format!("holds no authority's certificate: {error}"))?;
    }
    Ok(())
}
