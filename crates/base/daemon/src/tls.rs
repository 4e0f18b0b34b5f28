//! TLS identity: an install CA on disk, certificates that it issues, and rustls configurations made from them.
//!
//! Keys are ECDSA P-256, files with secrets have mode 0600 and appear by rename.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// Why an identity could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A key or certificate does not parse or cannot be made.
    #[error("{what}: {reason}")]
    Material {
        /// Which key or certificate.
        what: String,
        /// The cause.
        reason: String,
    },
}

fn material(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Error + '_ {
    move |reason| Error::Material { what: what.to_owned(), reason: reason.to_string() }
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A server's identity.
    Server,
    /// A client's identity.
    Client,
    /// Both.
    Both,
}

/// What to put into a certificate.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Subject CN; Kubernetes reads it as the user name.
    pub common_name: String,
    /// Subject O, repeated; Kubernetes reads them as groups.
    pub organizations: Vec<String>,
    /// DNS names a server answers to.
    pub dns: Vec<String>,
    /// Addresses a server answers at.
    pub ips: Vec<IpAddr>,
    /// Extended key usage.
    pub usage: Usage,
    /// Days until it ends.
    pub days: u32,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Issued {
    /// Certificate, PEM.
    pub cert_pem: String,
    /// Private key, PKCS #8 PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The install's own certificate authority.
pub struct Ca {
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Ca {
    /// Read `ca.crt` and `ca.key` in `dir`, or make them (valid for ten years) when neither exists.
    ///
    /// # Errors
    /// I/O, or files that are no CA.
    pub fn load_or_create(dir: &Path, common_name: &str) -> Result<Self, Error> {
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !key_path.exists() {
            let key = KeyPair::generate().map_err(|e| material("CA key")(&e))?;
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            validity(&mut params, 3650);
            let cert = params.self_signed(&key).map_err(|e| material("CA certificate")(&e))?;
            // The certificate first: a crash in between leaves no key, so the next start makes both anew.
            write_file(&cert_path, cert.pem().as_bytes(), 0o644)?;
            write_file(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        }
        let cert_pem = read_file(&cert_path)?;
        let key_pem = read_file(&key_path)?;
        let bad = |path: &Path| material(&path.display().to_string())(&"does not parse");
        let key = KeyPair::from_pem(&key_pem).map_err(|_| bad(&key_path))?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(|_| bad(&cert_path))?;
        Ok(Self { cert_pem, issuer })
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Issue a certificate with a fresh key.
    ///
    /// # Errors
    /// A profile that cannot be put into a certificate.
    pub fn issue(&self, profile: &Profile) -> Result<Issued, Error> {
        let bad = material(&profile.common_name);
        let key = KeyPair::generate().map_err(|e| bad(&e))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, profile.common_name.as_str());
        for organization in &profile.organizations {
            params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        }
        for name in &profile.dns {
            let name = name.as_str().try_into().map_err(|e: rcgen::Error| bad(&e))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(profile.ips.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if profile.usage != Usage::Client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if profile.usage != Usage::Server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        validity(&mut params, profile.days);
        let cert = params.signed_by(&key, &self.issuer).map_err(|e| bad(&e))?;
        Ok(Issued { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

fn validity(params: &mut CertificateParams, days: u32) {
    let now = time::OffsetDateTime::now_utc();
    // An hour back, for machines whose clocks differ a little.
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(i64::from(days));
}

/// A server's rustls configuration, offering HTTP/2 and HTTP/1.1. With `client_ca_pem`, client certificates are
/// verified when sent, and demanded when `require_client`.
///
/// # Errors
/// PEM that does not parse or match.
pub fn server_config(
    identity: &Issued,
    client_ca_pem: Option<&str>,
    require_client: bool,
) -> Result<Arc<ServerConfig>, Error> {
    let bad = material("server identity");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
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
    let mut config =
        builder.with_single_cert(chain(identity)?, private_key(identity)?).map_err(|e| bad(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client's rustls configuration that trusts `ca_pem` alone. Sets no ALPN: HTTP/1.1 unless the caller says more.
///
/// # Errors
/// PEM that does not parse or match.
pub fn client_config(ca_pem: &str, identity: Option<&Issued>) -> Result<Arc<ClientConfig>, Error> {
    let bad = material("client identity");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_root_certificates(roots(ca_pem)?);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(id) => builder.with_client_auth_cert(chain(id)?, private_key(id)?).map_err(|e| bad(&e))?,
    };
    Ok(Arc::new(config))
}

fn roots(ca_pem: &str) -> Result<RootCertStore, Error> {
    let bad = material("CA certificate");
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(cert.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
    }
    Ok(roots)
}

fn chain(identity: &Issued) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| material("certificate")(&e))
}

fn private_key(identity: &Issued) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| material("private key")(&e))
}

fn read_file(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Write a whole file by a synced temporary and a rename.
///
/// # Errors
/// I/O, naming the file.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let temporary = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(io)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&temporary, path).map_err(io)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn profile(name: &str, usage: Usage) -> Profile {
        Profile {
            common_name: name.into(),
            organizations: vec!["system:masters".into()],
            dns: vec!["localhost".into()],
            ips: vec![[127, 0, 0, 1].into()],
            usage,
            days: 1,
        }
    }

    /// Handshake in memory: both ends must agree that the other is who it says.
    fn handshake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Result<(), rustls::Error> {
        let mut server = rustls::ServerConnection::new(server)?;
        let mut client = rustls::ClientConnection::new(client, "localhost".try_into().unwrap())?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn the_ca_is_kept_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::load_or_create(dir.path(), "sampan-ca").unwrap();
        let again = Ca::load_or_create(dir.path(), "sampan-ca").unwrap();
        assert_eq!(first.cert_pem(), again.cert_pem());
        let mode = fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn mutual_tls_works_within_one_ca_and_not_across() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ours = Ca::load_or_create(one.path(), "ours").unwrap();
        let other = Ca::load_or_create(two.path(), "other").unwrap();
        let server = ours.issue(&profile("api", Usage::Server)).unwrap();
        let friend = ours.issue(&profile("admin", Usage::Client)).unwrap();
        let stranger = other.issue(&profile("admin", Usage::Client)).unwrap();

        let config = server_config(&server, Some(ours.cert_pem()), true).unwrap();
        handshake(config.clone(), client_config(ours.cert_pem(), Some(&friend)).unwrap()).unwrap();
        assert!(handshake(config.clone(), client_config(ours.cert_pem(), Some(&stranger)).unwrap()).is_err());
        assert!(handshake(config, client_config(other.cert_pem(), Some(&friend)).unwrap()).is_err());
    }

    #[test]
    fn a_broken_ca_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        Ca::load_or_create(dir.path(), "ca").unwrap();
        fs::write(dir.path().join("ca.crt"), "garbage").unwrap();
        let error = Ca::load_or_create(dir.path(), "ca").unwrap_err().to_string();
        assert!(error.contains("ca.crt"), "{error}");
    }
}
