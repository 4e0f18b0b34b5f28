//! TLS identity: an install CA on disk, certificates that it issues, and rustls configurations made from them.
//!
//! Keys are ECDSA P-256, files with secrets have mode 0600 and appear by rename.

mod der;
mod live;
mod request;
mod sign;

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use live::{Identity, live_client_config, live_server_config, unverified_client_config};
pub use request::{Request, ask};

use crate::clock;
use sign::{Signer, Unsigned, Usages};

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

/// What a CA is recognised by before it is trusted: `sha256:` and the hash of its public key, as `kubeadm` has it.
///
/// # Errors
/// No certificate, one that does not parse, or more than one: all would be trusted, and only one was looked at.
pub fn pin(cert_pem: &str) -> Result<String, Error> {
    let bad = material("CA certificate");
    let mut all = CertificateDer::pem_slice_iter(cert_pem.as_bytes());
    let der = all.next().ok_or_else(|| bad(&"there is none"))?.map_err(|e| bad(&e))?;
    if all.next().is_some() {
        return Err(bad(&"there are several, and a hash tells of one (hint: is somebody in between?)"));
    }
    let (_, cert) = X509Certificate::from_der(&der).map_err(|e| bad(&e))?;
    let hash = ring::digest::digest(&ring::digest::SHA256, cert.public_key().raw);
    Ok(hash.as_ref().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}")))
}

/// The DNS names and addresses that a certificate is for, as text.
///
/// # Errors
/// No certificate, or one that does not parse.
pub fn names(cert_pem: &str) -> Result<Vec<String>, Error> {
    use x509_parser::extensions::GeneralName;
    let bad = material("certificate");
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| bad(&e))?;
    let (_, cert) = X509Certificate::from_der(&der).map_err(|e| bad(&e))?;
    let Some(extension) = cert.subject_alternative_name().map_err(|e| bad(&e))? else {
        return Ok(Vec::new());
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    };
    Ok(extension.value.general_names.iter().filter_map(text).collect())
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

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Subject CN; the last one when there are several, as Go reads it.
    pub common_name: String,
    /// Subject O, repeated.
    pub organizations: Vec<String>,
    /// The serial number, hexadecimal.
    pub serial: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
}

impl Facts {
    /// Of the first certificate in a PEM text.
    ///
    /// # Errors
    /// No certificate, or one that does not parse.
    pub fn of(cert_pem: &str) -> Result<Self, Error> {
        let der =
            CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| material("certificate")(&e))?;
        Self::of_der(&der).ok_or_else(|| material("certificate")(&"does not parse"))
    }

    /// Of a certificate; nothing when it does not parse or its subject is no text.
    #[must_use]
    pub fn of_der(der: &[u8]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let mut common_name = String::new();
        for part in cert.subject().iter_common_name() {
            part.as_str().ok()?.clone_into(&mut common_name);
        }
        let groups = cert.subject().iter_organization().map(|part| part.as_str().map(str::to_owned));
        let validity = cert.validity();
        Some(Self {
            common_name,
            organizations: groups.collect::<Result<_, _>>().ok()?,
            serial: cert.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        })
    }

    /// When it is time for the next one: after two thirds of its life.
    #[must_use]
    pub fn renewal(&self) -> Timestamp {
        let third = self.not_after.duration_since(self.not_before).checked_div(3);
        third.and_then(|third| self.not_after.checked_sub(third).ok()).unwrap_or(self.not_after)
    }

    /// It should be replaced: the time has come, or the clock was set back to before its beginning.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> bool {
        now >= self.renewal() || now < self.not_before
    }
}

/// The install's own certificate authority.
pub struct Ca {
    cert_pem: String,
    key: KeyPair,
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    facts: Facts,
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
            let cert_pem = self_signed(&key, common_name)?;
            // The certificate first: a crash in between leaves no key, so the next start makes both anew.
            write_file(&cert_path, cert_pem.as_bytes(), 0o644)?;
            write_file(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        }
        let cert_pem = read_file(&cert_path)?;
        let key_pem = read_file(&key_path)?;
        let bad = |path: &Path| material(&path.display().to_string())(&"does not parse");
        let key = KeyPair::from_pem(&key_pem).map_err(|_| bad(&key_path))?;
        Self::new(cert_pem, key).ok_or_else(|| bad(&cert_path))
    }

    fn new(cert_pem: String, key: KeyPair) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).ok()?;
        let (_, cert) = X509Certificate::from_der(&der).ok()?;
        let key_id = cert.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let subject = cert.subject().as_raw().to_vec();
        let facts = Facts::of_der(&der)?;
        Some(Self { cert_pem, key, subject, key_id, facts })
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// What the CA's certificate says.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Issue a certificate with a fresh key.
    ///
    /// # Errors
    /// A profile that cannot be put into a certificate.
    pub fn issue(&self, profile: &Profile) -> Result<Issued, Error> {
        let bad = material(&profile.common_name);
        let key = KeyPair::generate().map_err(|e| bad(&e))?;
        let organizations = profile.organizations.iter().map(|name| der::attribute(&[0x55, 4, 10], name));
        let mut subject: Vec<Vec<u8>> = organizations.collect();
        subject.push(der::attribute(&[0x55, 4, 3], &profile.common_name));
        let mut names = Vec::new();
        for name in &profile.dns {
            if !name.is_ascii() {
                return Err(bad(&format!("{name:?} is no DNS name")));
            }
            names.extend(der::tlv(0x82, &[name.as_bytes()]));
        }
        for ip in &profile.ips {
            names.extend(match ip {
                IpAddr::V4(ip) => der::tlv(0x87, &[&ip.octets()]),
                IpAddr::V6(ip) => der::tlv(0x87, &[&ip.octets()]),
            });
        }
        let names = (!names.is_empty()).then(|| der::sequence(&[&names]));
        let usages: &[&str] = match profile.usage {
            Usage::Server => &["digital signature", "server auth"],
            Usage::Client => &["digital signature", "client auth"],
            Usage::Both => &["digital signature", "server auth", "client auth"],
        };
        let (not_before, not_after) = validity(i64::from(profile.days));
        let cert_pem = self.sign(&Unsigned {
            subject: &der::sequence(&[&subject.concat()]),
            key: &key.subject_public_key_info(),
            alternatives: names.as_deref(),
            usages: Usages::parse(usages).map_err(|usage| bad(&usage))?,
            not_before,
            not_after: not_after.min(self.facts.not_after),
        })?;
        Ok(Issued { cert_pem, key_pem: key.serialize_pem() })
    }

    /// Sign what somebody asked for: the subject, key and alternative names of the request as they are, with these
    /// usages (in `certificates.k8s.io`'s words), for `life` from now on. Short lives are not shortened by what is
    /// dated back for clocks that differ. Nothing outlives the CA. Gives PEM.
    ///
    /// # Errors
    /// A usage that nobody knows, or a CA that has expired.
    pub fn sign_request(
        &self,
        request: &Request,
        usages: &[String],
        life: Duration,
    ) -> Result<String, Error> {
        const BACK: SignedDuration = SignedDuration::from_mins(5);
        const SHORT: Duration = Duration::from_secs(8 * 3600);
        let bad = material("certificate request");
        let usages =
            Usages::parse(usages).map_err(|usage| bad(&format!("unrecognized usage values: [{usage:?}]")))?;
        let now = clock::now();
        if now >= self.facts.not_after {
            let text = format!("the signer has expired: NotAfter={}", clock::rfc3339(self.facts.not_after));
            return Err(bad(&text));
        }
        let mut until = now.checked_add(life).map_err(|e| bad(&e))?;
        if life >= SHORT {
            until = until.checked_sub(BACK).map_err(|e| bad(&e))?;
        }
        self.sign(&Unsigned {
            subject: &request.subject,
            key: &request.key,
            alternatives: request.alternatives.as_deref(),
            usages,
            not_before: now.checked_sub(BACK).map_err(|e| bad(&e))?,
            not_after: until.min(self.facts.not_after),
        })
    }

    fn sign(&self, cert: &Unsigned<'_>) -> Result<String, Error> {
        let signer = Signer { key: &self.key, subject: &self.subject, key_id: self.key_id.as_deref() };
        Ok(pem("CERTIFICATE", &sign::sign(&signer, cert)?))
    }
}

fn self_signed(key: &KeyPair, common_name: &str) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let (from, until) = validity(3650);
    let date = |at: Timestamp| {
        time::OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|e| material("CA certificate")(&e))
    };
    params.not_before = date(from)?;
    params.not_after = date(until)?;
    let cert = params.self_signed(key).map_err(|e| material("CA certificate")(&e))?;
    Ok(cert.pem())
}

/// From an hour ago, for machines whose clocks differ a little.
fn validity(days: i64) -> (Timestamp, Timestamp) {
    let now = clock::now();
    let from = now.checked_sub(SignedDuration::from_hours(1)).unwrap_or(now);
    let until = now.checked_add(SignedDuration::from_hours(24 * days)).unwrap_or(Timestamp::MAX);
    (from, until)
}

/// A PEM block (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A server's rustls configuration with an identity that stays; see [`live_server_config`].
///
/// # Errors
/// PEM that does not parse or match.
pub fn server_config(
    identity: &Issued,
    client_ca_pem: Option<&str>,
    require_client: bool,
) -> Result<Arc<ServerConfig>, Error> {
    live_server_config(Identity::new(identity.clone())?, client_ca_pem, require_client)
}

/// A client's rustls configuration with an identity that stays; see [`live_client_config`].
///
/// # Errors
/// PEM that does not parse or match.
pub fn client_config(ca_pem: &str, identity: Option<&Issued>) -> Result<Arc<ClientConfig>, Error> {
    live_client_config(ca_pem, identity.cloned().map(Identity::new).transpose()?)
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
    fn a_pin_is_of_one_certificate_alone() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ours = Ca::load_or_create(one.path(), "ours").unwrap();
        let other = Ca::load_or_create(two.path(), "other").unwrap();
        assert!(pin(ours.cert_pem()).unwrap().starts_with("sha256:"));
        // The first one fits, and the second would be trusted all the same.
        assert!(pin(&format!("{}{}", ours.cert_pem(), other.cert_pem())).is_err());
        assert!(pin("").is_err() && pin("nonsense").is_err());
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
    fn a_replaced_identity_is_shown_to_who_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(dir.path(), "ca").unwrap();
        let identity = Identity::new(ca.issue(&profile("api", Usage::Server)).unwrap()).unwrap();
        let server = live_server_config(identity.clone(), Some(ca.cert_pem()), false).unwrap();
        let client = client_config(ca.cert_pem(), None).unwrap();
        handshake(server.clone(), client.clone()).unwrap();
        let before = identity.facts().serial;
        identity.replace(ca.issue(&profile("api", Usage::Server)).unwrap()).unwrap();
        assert_ne!(before, identity.facts().serial);
        handshake(server, client).unwrap();
    }

    #[test]
    fn a_request_is_signed_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(dir.path(), "ca").unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "jane");
        params.distinguished_name.push(DnType::OrganizationName, "one");
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "two");
        let asked = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = Request::parse(asked.as_bytes()).unwrap();
        assert_eq!((request.common_name.as_str(), request.dns.len(), request.ips.len()), ("jane", 1, 1));
        let usages = ["client auth".to_owned(), "digital signature".to_owned()];
        let cert = ca.sign_request(&request, &usages, Duration::from_secs(3600)).unwrap();
        let facts = Facts::of(&cert).unwrap();
        assert_eq!(facts.organizations, ["one", "two"]);
        assert!(!facts.due(clock::now()));
        let server = ca.issue(&profile("api", Usage::Server)).unwrap();
        let server = server_config(&server, Some(ca.cert_pem()), true).unwrap();
        let jane = Issued { cert_pem: cert, key_pem: key.serialize_pem() };
        handshake(server, client_config(ca.cert_pem(), Some(&jane)).unwrap()).unwrap();
        assert!(ca.sign_request(&request, &["nonsense".to_owned()], Duration::from_secs(3600)).is_err());

        let mut der = asked.clone().into_bytes();
        let middle = der.len() / 2;
        der[middle] = if der[middle] == b'A' { b'B' } else { b'A' };
        assert!(Request::parse(&der).is_err());
    }

    #[test]
    fn nothing_that_is_sent_as_a_request_makes_it_panic() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(dir.path(), "ca").unwrap();
        let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let asked = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let der: &[u8] = asked.der();
        let cert = CertificateDer::from_pem_slice(ca.cert_pem().as_bytes()).unwrap();
        for round in 0..4000 {
            for source in [der, &cert] {
                let mut bytes = source.to_vec();
                for _ in 0..=round % 4 {
                    let at = rand::random_range(0..bytes.len());
                    bytes[at] = rand::random();
                }
                bytes.truncate(rand::random_range(1..=bytes.len() + round % 2).min(bytes.len()));
                let _ = Facts::of_der(&bytes);
                let _ = Request::parse(pem("CERTIFICATE REQUEST", &bytes).as_bytes());
                let _ = Request::parse(&bytes);
            }
        }
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
