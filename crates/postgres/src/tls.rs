//! TLS to PostgreSQL with libpq's `sslmode` semantics (PostgreSQL documentation, 34.19).

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Credentials;

/// How a connection uses TLS, from the credentials' `ssl*` keywords.
pub(crate) fn connector(credentials: &Credentials) -> Result<(SslMode, MakeRustlsConnect), String> {
    let keyword = |name: &str| credentials.keywords.get(name).map(String::as_str);
    let mode = keyword("sslmode").unwrap_or("prefer");
    let root = keyword("sslrootcert").filter(|path| Path::new(path).exists());
    let (ssl_mode, chain, host) = match mode {
        "disable" => (SslMode::Disable, false, false),
        "allow" | "prefer" => (SslMode::Prefer, false, false),
        // As libpq: a root certificate makes `require` verify the chain.
        "require" => (SslMode::Require, root.is_some(), false),
        "verify-ca" => (SslMode::Require, true, false),
        "verify-full" => (SslMode::Require, true, true),
        other => {
            return Err(format!(
                "sslmode {other:?}: expected disable, allow, prefer, require, verify-ca or verify-full"
            ));
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = match (chain, keyword("sslrootcert")) {
        (false, _) => None,
        (true, None) => return Err(format!("sslmode {mode} needs sslrootcert: the file of the root certificate")),
        (true, Some(path)) => Some(chain_verifier(path, &provider)?),
    };
    let verifier = Arc::new(Verifier { chain, host, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot set up TLS: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let client = match (keyword("sslcert"), keyword("sslkey")) {
        (Some(cert), Some(key)) => {
            let key =
                PrivateKeyDer::from_pem_file(key).map_err(|error| format!("cannot read sslkey {key}: {error}"))?;
            let client = builder.with_client_auth_cert(certificates(cert)?, key);
            client.map_err(|error| format!("cannot use sslcert {cert} with its key: {error}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok((ssl_mode, MakeRustlsConnect::new(client)))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let fail = |error| format!("cannot read certificates from {path}: {error}");
    CertificateDer::pem_file_iter(path).map_err(fail)?.collect::<Result<_, _>>().map_err(fail)
}

fn chain_verifier(path: &str, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| format!("cannot use sslrootcert {path}: {error}"))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| format!("cannot use sslrootcert {path}: {error}"))
}

/// Verifies as much as `sslmode` asks for.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    host: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            // The chain is verified before the name.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.host => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
