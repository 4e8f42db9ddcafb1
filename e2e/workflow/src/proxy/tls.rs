//! The cluster's certificates.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::harness::paths::Paths;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Ends TLS with this certificate and its key, both in PEM.
pub fn acceptor(certificate: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("failed to read `{}`", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("failed to read `{}`", key.display()))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Begins TLS with servers whose certificate this authority has signed.
pub fn connector(authority: &Path) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(authority)
        .with_context(|| format!("failed to read `{}`", authority.display()))?;
    roots.add(certificate)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Ends TLS as the API server of the test cluster does.
pub fn as_api_server(paths: &Paths) -> anyhow::Result<TlsAcceptor> {
    acceptor(&paths.pki("apiserver.crt"), &paths.pki("apiserver.key"))
}

/// Trusts the API server of the test cluster.
pub fn to_api_server(paths: &Paths) -> anyhow::Result<TlsConnector> {
    connector(&paths.pki("ca.crt"))
}
