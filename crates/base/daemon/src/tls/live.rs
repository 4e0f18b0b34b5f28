//! Identities that are replaced while they are in use: what is open stays open, what is new shows the new certificate.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ClientConfig, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::UnixTime,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

use super::{Error, Facts, Issued, chain, material, private_key, roots};
use crate::clock;

/// An identity with its current certificate.
pub struct Identity(RwLock<Arc<Current>>);

struct Current {
    issued: Issued,
    facts: Facts,
    key: Arc<CertifiedKey>,
}

impl Identity {
    /// Starts with a certificate.
    ///
    /// # Errors
    /// PEM that does not parse or match.
    pub fn new(issued: Issued) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(Current::new(issued)?)))))
    }

    /// From now on, new connections show this certificate.
    ///
    /// # Errors
    /// PEM that does not parse or match; the certificate before stays.
    pub fn replace(&self, issued: Issued) -> Result<(), Error> {
        let current = Arc::new(Current::new(issued)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// The certificate with its key.
    #[must_use]
    pub fn issued(&self) -> Issued {
        self.current().issued.clone()
    }

    /// What the certificate says.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.current().facts.clone()
    }

    fn current(&self) -> Arc<Current> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Current {
    fn new(issued: Issued) -> Result<Self, Error> {
        let provider = rustls::crypto::ring::default_provider();
        let key = CertifiedKey::from_der(chain(&issued)?, private_key(&issued)?, &provider)
            .map_err(|e| material("identity")(&e))?;
        Ok(Self { facts: Facts::of(&issued.cert_pem)?, key: Arc::new(key), issued })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.current().facts).finish()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().key.clone())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current().key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Certificates are judged by our own clock.
#[derive(Debug)]
struct OurClock;

impl TimeProvider for OurClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(clock::now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// A server's rustls configuration, offering HTTP/2 and HTTP/1.1, with an identity that may be replaced at any time.
/// With `client_ca_pem`, client certificates are verified when sent, and demanded when `require_client`.
///
/// # Errors
/// PEM that does not parse or match.
pub fn live_server_config(
    identity: Arc<Identity>,
    client_ca_pem: Option<&str>,
    require_client: bool,
) -> Result<Arc<ServerConfig>, Error> {
    let bad = material("server identity");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(OurClock))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?;
    let builder = match client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)?), provider);
            let verifier = if require_client { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| bad(&e))?)
        }
    };
    let mut config = builder.with_cert_resolver(identity);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client's rustls configuration that trusts `ca_pem` alone, with an identity that may be replaced at any time.
/// Sets no ALPN: HTTP/1.1 unless the caller says more.
///
/// # Errors
/// PEM that does not parse.
pub fn live_client_config(ca_pem: &str, identity: Option<Arc<Identity>>) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(OurClock))
        .with_safe_default_protocol_versions()
        .map_err(|e| material("client identity")(&e))?
        .with_root_certificates(roots(ca_pem)?);
    Ok(Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(identity),
    }))
}

/// A client's rustls configuration that takes any certificate of the server: for who asked not to check it.
///
/// # Errors
/// PEM that does not parse or match.
pub fn unverified_client_config(identity: Option<&Issued>) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider.clone(), Arc::new(OurClock))
        .with_safe_default_protocol_versions()
        .map_err(|e| material("client identity")(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    Ok(Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Identity::new(identity.clone())?),
    }))
}

/// Believes every certificate; only that the other side has its key is checked.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
