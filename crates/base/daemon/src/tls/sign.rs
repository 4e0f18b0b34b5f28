//! What a CA signs (RFC 5280). A subject that somebody sent is signed byte by byte as it came.

use jiff::Timestamp;
use rcgen::{KeyPair, SigningKey};

use super::{Error, der, material};

const EXT_SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXT_EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const EXT_BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const EXT_AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];

/// A certificate before it is signed.
pub(super) struct Unsigned<'a> {
    /// Subject, DER.
    pub(super) subject: &'a [u8],
    /// SubjectPublicKeyInfo, DER.
    pub(super) key: &'a [u8],
    /// GeneralNames, DER.
    pub(super) alternatives: Option<&'a [u8]>,
    pub(super) usages: Usages,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// Who signs.
pub(super) struct Signer<'a> {
    pub(super) key: &'a KeyPair,
    /// The CA's subject, DER.
    pub(super) subject: &'a [u8],
    /// The CA's subject key identifier.
    pub(super) key_id: Option<&'a [u8]>,
}

/// Key usages, as bits and object identifiers.
#[derive(Debug, Default)]
pub(super) struct Usages {
    bits: u16,
    extended: Vec<&'static [u8]>,
}

impl Usages {
    /// From the names that `certificates.k8s.io` gives them; an unknown one is the error.
    pub(super) fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, String> {
        let mut usages = Self::default();
        for name in names {
            let name = name.as_ref();
            if let Some(bit) = bit(name) {
                usages.bits |= 1 << bit;
            } else if let Some(oid) = extended(name) {
                if !usages.extended.contains(&oid) {
                    usages.extended.push(oid);
                }
            } else {
                return Err(name.to_owned());
            }
        }
        Ok(usages)
    }
}

/// The bit of a key usage (RFC 5280, section 4.2.1.3).
fn bit(name: &str) -> Option<u8> {
    Some(match name {
        "signing" | "digital signature" => 0,
        "content commitment" => 1,
        "key encipherment" => 2,
        "data encipherment" => 3,
        "key agreement" => 4,
        "cert sign" => 5,
        "crl sign" => 6,
        "encipher only" => 7,
        "decipher only" => 8,
        _ => return None,
    })
}

/// The object identifier of an extended key usage.
fn extended(name: &str) -> Option<&'static [u8]> {
    Some(match name {
        "any" => &[0x55, 0x1d, 0x25, 0x00],
        "server auth" => &[0x2b, 6, 1, 5, 5, 7, 3, 1],
        "client auth" => &[0x2b, 6, 1, 5, 5, 7, 3, 2],
        "code signing" => &[0x2b, 6, 1, 5, 5, 7, 3, 3],
        "email protection" | "s/mime" => &[0x2b, 6, 1, 5, 5, 7, 3, 4],
        "ipsec end system" => &[0x2b, 6, 1, 5, 5, 7, 3, 5],
        "ipsec tunnel" => &[0x2b, 6, 1, 5, 5, 7, 3, 6],
        "ipsec user" => &[0x2b, 6, 1, 5, 5, 7, 3, 7],
        "timestamping" => &[0x2b, 6, 1, 5, 5, 7, 3, 8],
        "ocsp signing" => &[0x2b, 6, 1, 5, 5, 7, 3, 9],
        "microsoft sgc" => &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3],
        "netscape sgc" => &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1],
        _ => return None,
    })
}

/// Signs; gives the certificate as DER.
pub(super) fn sign(signer: &Signer<'_>, cert: &Unsigned<'_>) -> Result<Vec<u8>, Error> {
    let algorithm = algorithm(signer.key)?;
    let mut serial: [u8; 16] = rand::random();
    // Positive, and never zero.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let version = der::tlv(0xa0, &[&der::integer(&[2])]);
    let validity = der::sequence(&[&der::time(cert.not_before), &der::time(cert.not_after)]);
    let extensions = der::tlv(0xa3, &[&der::sequence(&[&extensions(signer, cert).concat()])]);
    let signed = der::sequence(&[
        &version,
        &der::integer(&serial),
        &algorithm,
        signer.subject,
        &validity,
        cert.subject,
        cert.key,
        &extensions,
    ]);
    let signature = signer.key.sign(&signed).map_err(|e| material("CA key")(&e))?;
    Ok(der::sequence(&[&signed, &algorithm, &der::bits(&signature)]))
}

fn extensions(signer: &Signer<'_>, cert: &Unsigned<'_>) -> Vec<Vec<u8>> {
    let mut list = Vec::new();
    if cert.usages.bits != 0 {
        list.push(der::extension(EXT_KEY_USAGE, true, &der::named_bits(cert.usages.bits)));
    }
    if !cert.usages.extended.is_empty() {
        let kinds: Vec<Vec<u8>> = cert.usages.extended.iter().map(|kind| der::oid(kind)).collect();
        list.push(der::extension(EXT_EXTENDED_KEY_USAGE, false, &der::sequence(&[&kinds.concat()])));
    }
    // No CA, and said so.
    list.push(der::extension(EXT_BASIC_CONSTRAINTS, true, &der::sequence(&[])));
    if let Some(id) = signer.key_id {
        list.push(der::extension(EXT_AUTHORITY_KEY_ID, false, &der::sequence(&[&der::tlv(0x80, &[id])])));
    }
    if let Some(names) = cert.alternatives {
        // Critical when the subject says nothing (section 4.2.1.6).
        let empty = cert.subject == der::sequence(&[]);
        list.push(der::extension(EXT_SUBJECT_ALT_NAME, empty, names));
    }
    list
}

/// The AlgorithmIdentifier of the CA's signatures.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, Error> {
    let known = key.algorithm();
    let (oid, null): (&[u8], bool) = if *known == rcgen::PKCS_ECDSA_P256_SHA256 {
        (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], false)
    } else if *known == rcgen::PKCS_ECDSA_P384_SHA384 {
        (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], false)
    } else if *known == rcgen::PKCS_ED25519 {
        (&[0x2b, 0x65, 0x70], false)
    } else if *known == rcgen::PKCS_RSA_SHA256 {
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11], true)
    } else {
        return Err(material("CA key")(&"is of a kind that cannot sign (hint: use ECDSA P-256)"));
    };
    let null: &[u8] = if null { &[0x05, 0x00] } else { &[] };
    Ok(der::sequence(&[&der::oid(oid), null]))
}
