//! How this service makes sure whom it talks to.

use std::path::Path;

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The system's authorities, where they are wanted, and the given one. Certificates are always verified, the host's name
/// included.
pub(super) fn client_config(ca_file: Option<&Path>, system: bool) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if system {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = ca_file {
        for certificate in CertificateDer::pem_file_iter(path).with_context(|| format!("read {}", path.display()))? {
            let certificate = certificate.map_err(anyhow::Error::new).and_then(|found| Ok(roots.add(found)?));
            certificate.with_context(|| format!("read a certificate of {}", path.display()))?;
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
