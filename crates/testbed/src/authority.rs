//! A private certificate authority and a server certificate of its for localhost.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

/// An authority that nobody knows but who is given its file.
#[derive(Debug)]
pub struct Authority {
    config: ServerConfig,
    file: NamedTempFile,
}

impl Authority {
    /// Makes one.
    #[allow(clippy::new_without_default)] // no two are equal
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &root)
            .unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), root.pem()).unwrap();
        Self { config, file }
    }

    /// Accepts connections with the certificate.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::new(self.config.clone()))
    }

    /// The same for gRPC, whose clients insist on HTTP/2.
    #[must_use]
    pub fn http2_acceptor(&self) -> TlsAcceptor {
        let mut config = self.config.clone();
        config.alpn_protocols.push(b"h2".to_vec());
        TlsAcceptor::from(Arc::new(config))
    }

    /// The root certificate, as `tls_ca_file` wants it.
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        self.file.path()
    }
}
