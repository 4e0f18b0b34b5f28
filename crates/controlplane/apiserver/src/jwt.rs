//! Service account tokens: signed with one key (ES256 or RS256), verified with that and those before it.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::jose::{PublicKey, Unverified};

/// DER that precedes the point in a SubjectPublicKeyInfo of a P-256 key.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// AlgorithmIdentifier of an RSA key.
const RSA: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// The keys of service account tokens. Signs with the first; all verify. May be replaced while in use.
pub struct SigningKey {
    keys: RwLock<Arc<Keys>>,
    /// Counts replacements.
    generation: AtomicU64,
}

struct Keys {
    signer: Pair,
    /// By key id; the signer's is the first.
    verifiers: Vec<(String, PublicKey)>,
    random: SystemRandom,
}

enum Pair {
    Ec(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

/// Why a key was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PEM or key inside it cannot be used.
    #[error(
        "service account signing key: {0} (hint: it must be a PEM of a P-256 key in PKCS#8, or of an RSA key of 2048 bits or more; remove the file to get a new one)"
    )]
    Key(String),
}

impl SigningKey {
    /// Makes a new key as PKCS#8 PEM, for the caller to keep.
    pub fn generate_pem() -> Result<String, Error> {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| Error::Key("the system gave no randomness".to_owned()))?;
        let text = STANDARD.encode(der.as_ref());
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Ok(pem)
    }

    /// From PEM blocks: the first is the private key to sign with; further ones, private or public, only verify.
    ///
    /// # Errors
    /// No private key first, or a block that is no key that is known.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        Ok(Self { keys: RwLock::new(Arc::new(Keys::parse(pem)?)), generation: AtomicU64::new(0) })
    }

    /// From now on these keys hold; tokens signed with one that is not among them are refused.
    ///
    /// # Errors
    /// As [`SigningKey::from_pem`]; the keys before stay.
    pub fn replace(&self, pem: &str) -> Result<(), Error> {
        let keys = Arc::new(Keys::parse(pem)?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Changes when the keys do: what was verified before is to be verified again.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, Error> {
        let keys = self.keys();
        let kid = keys.verifiers.first().map(|(kid, _)| kid.as_str()).unwrap_or_default();
        let algorithm = if matches!(keys.signer, Pair::Ec(_)) { "ES256" } else { "RS256" };
        let header = json!({"alg": algorithm, "kid": kid});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let failed = |_| Error::Key("signing failed".to_owned());
        let signature = match &keys.signer {
            Pair::Ec(pair) => pair.sign(&keys.random, token.as_bytes()).map_err(failed)?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &keys.random, token.as_bytes(), &mut signature)
                    .map_err(failed)?;
                signature
            }
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Signs any claims, for tests of what others once signed.
    #[doc(hidden)]
    #[must_use]
    pub fn sign_for_tests(&self, claims: &Value) -> String {
        self.sign(claims).unwrap_or_default()
    }

    /// Checks the signature. Expiry, issuer and audience are the caller's.
    pub(crate) fn verify(&self, token: &Unverified<'_>) -> Result<(), String> {
        let keys = self.keys();
        let mut tried = false;
        for (kid, key) in &keys.verifiers {
            if token.kid.as_ref().is_some_and(|wanted| wanted != kid) {
                continue;
            }
            tried = true;
            if key.verify(token.algorithm, token.signed.as_bytes(), &token.signature) {
                return Ok(());
            }
        }
        Err(if tried {
            "go-jose/go-jose: error in cryptographic primitive".to_owned()
        } else {
            "invalid signature, no keys found".to_owned()
        })
    }

    /// The public keys as a JSON web key set.
    #[must_use]
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.keys().verifiers.iter().map(|(kid, key)| key.to_jwk(kid)).collect();
        json!({ "keys": keys })
    }

    /// The algorithms of the public keys.
    pub(crate) fn algorithms(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = Vec::new();
        for (_, key) in &self.keys().verifiers {
            let name = match key {
                PublicKey::Rsa { .. } => "RS256",
                PublicKey::P256(_) => "ES256",
                PublicKey::P384(_) => "ES384",
                PublicKey::Ed25519(_) => "EdDSA",
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

impl Keys {
    fn parse(pem: &str) -> Result<Self, Error> {
        let mut signer = None;
        let mut verifiers: Vec<(String, PublicKey)> = Vec::new();
        for (label, der) in blocks(pem)? {
            let spki = if label == "PUBLIC KEY" {
                if signer.is_none() {
                    return Err(Error::Key("the first key must be private".to_owned()));
                }
                der
            } else {
                let (pair, spki) = pair(&label, &der)?;
                signer.get_or_insert(pair);
                spki
            };
            let key = PublicKey::from_spki(&spki);
            let key = key.ok_or_else(|| Error::Key(format!("a {label} is of a kind that is not known")))?;
            let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(&spki));
            if !verifiers.iter().any(|(known, _)| *known == kid) {
                verifiers.push((kid, key));
            }
        }
        let signer = signer.ok_or_else(|| Error::Key("there is no PEM block".to_owned()))?;
        Ok(Self { signer, verifiers, random: SystemRandom::new() })
    }
}

/// A key pair, and its public key as SubjectPublicKeyInfo.
fn pair(label: &str, der: &[u8]) -> Result<(Pair, Vec<u8>), Error> {
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new());
    let rsa = |pair: RsaKeyPair| {
        let spki = [&RSA[..], &bit_string(pair.public_key().as_ref())].concat();
        (Pair::Rsa(Box::new(pair)), tlv(0x30, &spki))
    };
    match label {
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).map(rsa).map_err(|e| Error::Key(e.to_string())),
        "PRIVATE KEY" => match ec {
            Ok(pair) => {
                let spki = [&SPKI_P256[..], pair.public_key().as_ref()].concat();
                Ok((Pair::Ec(Box::new(pair)), spki))
            }
            Err(error) => RsaKeyPair::from_pkcs8(der).map(rsa).map_err(|_| Error::Key(error.to_string())),
        },
        other => Err(Error::Key(format!("a PEM block is a {other}"))),
    }
}

/// The blocks of a PEM text, each with its label.
fn blocks(pem: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in pem.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            open = Some((label.to_owned(), String::new()));
        } else if line.starts_with("-----END ") {
            let Some((label, text)) = open.take() else { continue };
            let der = STANDARD.decode(text).map_err(|e| Error::Key(format!("not base64: {e}")))?;
            found.push((label, der));
        } else if let Some((_, text)) = &mut open {
            text.push_str(line);
        }
    }
    Ok(found)
}

/// Tag, length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => out.extend([0x82, length[6], length[7]]),
    }
    out.extend_from_slice(content);
    out
}

fn bit_string(content: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], content].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RSA keys take long to make; this one is for tests only.
    pub(super) const RSA_PEM: &str = include_str!("../tests/support/rsa.pem");

    fn check(key: &SigningKey, token: &str) -> Option<Value> {
        let token = Unverified::parse(token)?;
        key.verify(&token).ok()?;
        Some(token.claims)
    }

    #[test]
    fn a_token_verifies_and_a_changed_one_does_not() {
        for pem in [&SigningKey::generate_pem().unwrap(), RSA_PEM] {
            let key = SigningKey::from_pem(pem).unwrap();
            let token = key.sign(&json!({"sub": "x"})).unwrap();
            assert_eq!(check(&key, &token).unwrap()["sub"], "x");
            let mut parts: Vec<&str> = token.split('.').collect();
            let forged = URL_SAFE_NO_PAD.encode(r#"{"sub":"y"}"#);
            parts[1] = &forged;
            assert!(check(&key, &parts.join(".")).is_none());
            let other = SigningKey::from_pem(&SigningKey::generate_pem().unwrap()).unwrap();
            assert!(check(&other, &token).is_none());
            let jwk = key.jwks();
            let published = PublicKey::from_jwk(&jwk["keys"][0]).unwrap();
            let token = Unverified::parse(&token).unwrap();
            assert!(published.verify(token.algorithm, token.signed.as_bytes(), &token.signature));
        }
    }

    #[test]
    fn a_new_key_signs_and_the_one_before_still_verifies() {
        let (one, two) = (SigningKey::generate_pem().unwrap(), SigningKey::generate_pem().unwrap());
        let key = SigningKey::from_pem(&one).unwrap();
        let old = key.sign(&json!({"sub": "x"})).unwrap();
        key.replace(&format!("{two}{one}{RSA_PEM}")).unwrap();
        assert_eq!(key.jwks()["keys"].as_array().unwrap().len(), 3);
        assert_eq!(key.algorithms(), ["ES256", "RS256"]);
        let new = key.sign(&json!({"sub": "x"})).unwrap();
        assert!(check(&key, &old).is_some() && check(&key, &new).is_some());
        key.replace(&two).unwrap();
        assert!(check(&key, &old).is_none() && check(&key, &new).is_some());
        assert!(key.replace("nonsense").is_err());
        assert!(check(&key, &new).is_some());
    }
}
