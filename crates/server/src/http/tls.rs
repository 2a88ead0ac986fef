//! TLS for the management interfaces, from PEM files.

use std::path::Path;
use std::sync::Arc;

use api::{Code, Error};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Reads certificate and key. With `client_ca`, clients need a certificate that it has signed.
///
/// # Errors
/// A file cannot be read, holds nothing usable, or the key does not belong to the certificate.
pub fn server_config(
    cert: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, Error> {
    let chain = certificates(cert, "tls_cert")?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("tls_key", key, e))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal(format!("the TLS library lacks its own versions: {e}")))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path, "tls_client_ca")? {
                roots
                    .add(root)
                    .map_err(|e| wrong("tls_client_ca", path, e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(
                verifier
                    .build()
                    .map_err(|e| wrong("tls_client_ca", path, e))?,
            )
        }
    };
    let config = builder.with_single_cert(chain, private);
    let mut config = config.map_err(|e| wrong("tls_key", key, e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path, field: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).map_err(|e| wrong(field, path, e))?;
    let found: Result<Vec<_>, _> = read.collect();
    let found = found.map_err(|e| wrong(field, path, e))?;
    if found.is_empty() {
        return Err(wrong(field, path, "there is no certificate in it"));
    }
    Ok(found)
}

fn wrong(field: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    let text = format!("{field}: {} cannot be used: {why}", path.display());
    Error::new(Code::InvalidArgument, text).at(field)
}
