//! Certificates, keys and cipher suites: from files to a rustls configuration.

use std::sync::Arc;

use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::config::{TlsFiles, VerifyClient};

/// Certificate and key files larger than this are not read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the files. Errors name the setting and the file, never what is in it.
pub(crate) fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let certificates = certificates("certfile", &files.certfile)?;
    let key = private_key(files)?;
    let provider = Arc::new(provider(files.ciphers.as_deref()));
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("restapi.ciphers: {error}"))?;
    let builder = match (files.verify_client, &files.cafile) {
        (VerifyClient::None, _) => builder.with_no_client_auth(),
        (_, None) => return Err("restapi.verify_client needs restapi.cafile".to_owned()),
        (verify, Some(cafile)) => {
            let mut roots = RootCertStore::empty();
            let (added, _) = roots.add_parsable_certificates(self::certificates("cafile", cafile)?);
            if added == 0 {
                return Err(format!("restapi.cafile: {cafile} has no certificate that can be used as a root"));
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if verify == VerifyClient::Optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|error| format!("restapi.cafile: cannot use {cafile}: {error}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| format!("restapi.certfile: cannot use {} with its key: {error}", files.certfile))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(setting: &str, path: &str) -> Result<Vec<u8>, String> {
    let fail = |error: &dyn std::fmt::Display| format!("restapi.{setting}: cannot read {path}: {error}");
    let size = std::fs::metadata(path).map_err(|error| fail(&error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(fail(&format_args!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read(path).map_err(|error| fail(&error))
}

fn certificates(setting: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(setting, path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("restapi.{setting}: {path} is not valid PEM: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("restapi.{setting}: {path} contains no PEM certificate"));
    }
    Ok(certificates)
}

fn private_key(files: &TlsFiles) -> Result<PrivateKeyDer<'static>, String> {
    let (setting, path) = match &files.keyfile {
        Some(keyfile) => ("keyfile", keyfile),
        None => ("certfile", &files.certfile),
    };
    let pem = read(setting, path)?;
    let text = String::from_utf8_lossy(&pem);
    if let Some(block) = encrypted_block(&text) {
        let password = files.keyfile_password.as_deref().ok_or_else(|| {
            format!("restapi.{setting}: the key in {path} is encrypted: restapi.keyfile_password is needed")
        })?;
        return decrypt(block, password)
            .ok_or_else(|| format!("restapi.{setting}: cannot decrypt the key in {path} with keyfile_password"));
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "restapi.{setting}: the key in {path} is encrypted in the old OpenSSL form; \
             convert it with `openssl pkcs8 -topk8`"
        ));
    }
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| format!("restapi.{setting}: {path} contains no usable private key: {error}"))
}

/// The PEM block of an encrypted PKCS #8 key, which may stand beside certificates.
fn encrypted_block(text: &str) -> Option<&str> {
    const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
    let block = &text[text.find(BEGIN)?..];
    Some(&block[..block.find(END)? + END.len()])
}

fn decrypt(block: &str, password: &str) -> Option<PrivateKeyDer<'static>> {
    let (_, document) = SecretDocument::from_pem(block).ok()?;
    let key = EncryptedPrivateKeyInfo::try_from(document.as_bytes()).ok()?.decrypt(password).ok()?;
    Some(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}

/// The TLS 1.2 suites that exist here, by their OpenSSL names.
const OPENSSL_NAMES: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", ring::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The cryptography with the TLS 1.2 suites narrowed to those named in `ciphers`. As in OpenSSL, TLS 1.3 is not
/// touched by that list. Every suite here is a strong one, so names we do not have, and OpenSSL's keywords
/// (`HIGH`, `!aNULL`), only cost a warning.
fn provider(ciphers: Option<&str>) -> CryptoProvider {
    let mut provider = ring::default_provider();
    let Some(ciphers) = ciphers else {
        return provider;
    };
    let mut chosen = Vec::new();
    for name in ciphers.split([':', ',', ' ']).filter(|name| !name.is_empty()) {
        match OPENSSL_NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, suite)) => chosen.push(*suite),
            None => tracing::warn!("restapi.ciphers: {name:?} is not the name of a supported cipher suite; ignored"),
        }
    }
    if !chosen.is_empty() {
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.cipher_suites.extend(chosen);
    }
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cipher_names_narrow_tls12_only() {
        let count = |ciphers| provider(ciphers).cipher_suites.len();
        let all = count(None);
        assert_eq!(count(Some("HIGH:!aNULL")), all);
        assert_eq!(count(Some("ECDHE-RSA-AES256-GCM-SHA384:AES128-SHA")), all - OPENSSL_NAMES.len() + 1);
    }

    #[test]
    fn missing_and_empty_files_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("server.crt").to_string_lossy().into_owned();
        let files = TlsFiles {
            certfile: path.clone(),
            keyfile: None,
            keyfile_password: Some("secret".into()),
            cafile: None,
            ciphers: None,
            verify_client: VerifyClient::None,
        };
        let error = server_config(&files).expect_err("no file");
        assert!(error.contains("restapi.certfile") && error.contains(&path), "{error}");
        std::fs::write(&path, "nothing").expect("a file");
        let error = server_config(&files).expect_err("no certificate");
        assert!(error.contains("no PEM certificate"), "{error}");
    }
}
