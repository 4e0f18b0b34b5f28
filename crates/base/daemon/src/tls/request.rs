//! Certificate signing requests (PKCS #10, RFC 2986) of others, as far as they are looked at.

use std::net::IpAddr;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    prelude::FromDer,
    x509::X509Name,
};

use super::{Error, material};

/// A request whose signature was verified.
#[derive(Clone, Debug)]
pub struct Request {
    /// Subject CN; the last one when there are several.
    pub common_name: String,
    /// Subject O, repeated.
    pub organizations: Vec<String>,
    /// Alternative names: DNS.
    pub dns: Vec<String>,
    /// Alternative names: addresses.
    pub ips: Vec<IpAddr>,
    /// Alternative names: mail addresses.
    pub emails: Vec<String>,
    /// Alternative names: URIs.
    pub uris: Vec<String>,
    /// The subject, DER, to be signed as it is.
    pub(super) subject: Vec<u8>,
    /// SubjectPublicKeyInfo, DER.
    pub(super) key: Vec<u8>,
    /// The content of the extension with the alternative names.
    pub(super) alternatives: Option<Vec<u8>>,
}

/// A request of our own, and the fresh key that it is for: both PEM.
///
/// # Errors
/// A name that cannot be put into a request.
pub fn ask(common_name: &str, organizations: &[&str], names: &[String]) -> Result<(String, String), Error> {
    let bad = material(common_name);
    let key = KeyPair::generate().map_err(|e| bad(&e))?;
    let mut params = CertificateParams::new(names).map_err(|e| bad(&e))?;
    params.distinguished_name = DistinguishedName::new();
    for organization in organizations {
        params.distinguished_name.push(DnType::OrganizationName, *organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    let request = params.serialize_request(&key).map_err(|e| bad(&e))?;
    Ok((request.pem().map_err(|e| bad(&e))?, key.serialize_pem()))
}

impl Request {
    /// Reads a PEM block `CERTIFICATE REQUEST` and verifies that its sender has the key.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem)
            .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
        let (rest, parsed) = X509CertificationRequest::from_der(&der).map_err(|e| format!("asn1: {e}"))?;
        if !rest.is_empty() {
            return Err("asn1: syntax error: trailing data".to_owned());
        }
        parsed.verify_signature().map_err(|_| "x509: the signature does not match the key".to_owned())?;
        let info = &parsed.certification_request_info;
        let (common_name, organizations) = names(&info.subject)?;
        let mut request = Self {
            common_name,
            organizations,
            dns: Vec::new(),
            ips: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            subject: info.subject.as_raw().to_vec(),
            key: info.subject_pki.raw.to_vec(),
            alternatives: None,
        };
        for attribute in info.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else { continue };
            for extension in &asked.extensions {
                if extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME {
                    request.alternatives(extension.value, extension.parsed_extension())?;
                }
            }
        }
        Ok(request)
    }

    fn alternatives(&mut self, raw: &[u8], parsed: &ParsedExtension<'_>) -> Result<(), String> {
        let ParsedExtension::SubjectAlternativeName(names) = parsed else {
            return Err("x509: the subject alternative names do not parse".to_owned());
        };
        if self.alternatives.is_some() {
            return Err("x509: subject alternative names are given twice".to_owned());
        }
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
                GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => self.ips.push(address(bytes)?),
                _ => {
                    return Err("x509: a subject alternative name is of a kind that is not signed".to_owned());
                }
            }
        }
        self.alternatives = Some(raw.to_vec());
        Ok(())
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(four.into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes);
    sixteen.map(IpAddr::from).map_err(|_| "x509: an address is neither IPv4 nor IPv6".to_owned())
}

/// CN (the last one, as Go reads it) and O of a name.
fn names(name: &X509Name<'_>) -> Result<(String, Vec<String>), String> {
    let bad = |_| "x509: the subject is not text".to_owned();
    let mut common = String::new();
    for part in name.iter_common_name() {
        part.as_str().map_err(bad)?.clone_into(&mut common);
    }
    let groups = name.iter_organization().map(|part| part.as_str().map(str::to_owned));
    Ok((common, groups.collect::<Result<_, _>>().map_err(bad)?))
}
