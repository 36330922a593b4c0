//! How a connection is encrypted, and whose certificate is believed.
//!
//! `require` follows libpq: encrypted, but any certificate is accepted, because hosted databases hand out such URLs with
//! certificates that no public authority signed. It stops eavesdroppers and not impostors; `verify-full` stops both, and the
//! pool warns about anything weaker. What must stay true: no process-wide crypto provider is used or installed.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::DatabaseError;
use super::address::Address;
use super::startup::{Connector, Encryption};

/// What TLS has to prove. Whether it may be left out altogether is the driver's `SslMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    /// It is not used.
    Off,
    /// It is used where offered, and proves nothing.
    Opportunistic,
    /// It must be used, and proves nothing.
    Unverified,
    /// An authority we trust signed the certificate, whatever name it bears.
    VerifyAuthority,
    /// An authority we trust signed the certificate, and it bears the host's name.
    VerifyFull,
}

/// Believes certificates as `mode` says, without the name.
#[derive(Debug)]
struct NamelessVerifier {
    // `None` believes everyone.
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

pub(super) fn connector(address: &Address) -> Result<Connector, DatabaseError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match address.tls {
        TlsMode::Off | TlsMode::Opportunistic | TlsMode::Unverified => {
            Arc::new(NamelessVerifier { roots: None, provider: Arc::clone(&provider) })
        }
        TlsMode::VerifyAuthority => {
            Arc::new(NamelessVerifier { roots: Some(roots(address.roots.as_deref())?), provider: Arc::clone(&provider) })
        }
        TlsMode::VerifyFull => {
            let roots = Arc::new(roots(address.roots.as_deref())?);
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .expect("a verifier without revocation lists over at least one root is valid")
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default TLS versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    if address.encryption == Encryption::Direct {
        // PostgreSQL refuses a direct handshake that does not name its protocol.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(Connector { tls: MakeRustlsConnect::new(config), encryption: address.encryption })
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, DatabaseError> {
    let refuse = |message: String| DatabaseError::Configuration(message);
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let unreadable = |error| refuse(format!("`sslrootcert` {} cannot be read: {error}", file.display()));
            for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
                roots
                    .add(certificate.map_err(unreadable)?)
                    .map_err(|error| refuse(format!("`sslrootcert` {} is not usable: {error}", file.display())))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(refuse(
            "there is no certificate authority to verify the database with: name a file in `sslrootcert`".to_owned(),
        ));
    }
    Ok(roots)
}

// === impl NamelessVerifier ===

impl ServerCertVerifier for NamelessVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
