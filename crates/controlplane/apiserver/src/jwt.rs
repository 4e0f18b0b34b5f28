//! Service account tokens: signed and verified JSON web tokens (ES256).

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A bound on what is parsed as a token; ours are under 2 KiB.
const MAX_TOKEN: usize = 16 << 10;

/// DER that precedes the point in a SubjectPublicKeyInfo of a P-256 key.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The key pair that service account tokens are signed with.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    kid: String,
    random: SystemRandom,
}

/// Why a key or token was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PEM or key inside it cannot be used.
    #[error(
        "service account signing key: {0} (hint: it must be a PKCS#8 PEM of a P-256 key; remove the file to get a new one)"
    )]
    Key(String),
    /// The token is not a token, or not ours.
    #[error("{0}")]
    Token(&'static str),
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

    /// Reads a PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let text: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let der = STANDARD.decode(text).map_err(|e| Error::Key(format!("not base64: {e}")))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(|e| Error::Key(e.to_string()))?;
        let mut spki = SPKI_P256.to_vec();
        spki.extend_from_slice(pair.public_key().as_ref());
        let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(&spki));
        Ok(Self { pair, kid, random })
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, Error> {
        let header = json!({"alg": "ES256", "kid": self.kid});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = self
            .pair
            .sign(&self.random, token.as_bytes())
            .map_err(|_| Error::Key("signing failed".to_owned()))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// Checks the signature and returns the claims. Expiry, issuer and audience are the caller's.
    pub(crate) fn verify(&self, token: &str) -> Result<Value, Error> {
        if token.len() > MAX_TOKEN {
            return Err(Error::Token("token is too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Error::Token("not a token"))?;
        let (header, claims) = signed.split_once('.').ok_or(Error::Token("not a token"))?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Error::Token("not a token"));
        let header: Value =
            serde_json::from_slice(&decode(header)?).map_err(|_| Error::Token("token header is not JSON"))?;
        if header["alg"] != "ES256" {
            return Err(Error::Token("token is signed with another algorithm"));
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| Error::Token("token signature does not match"))?;
        serde_json::from_slice(&decode(claims)?).map_err(|_| Error::Token("token claims are not JSON"))
    }

    /// The public key as a JSON web key set.
    pub(crate) fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.kid, "alg": "ES256", "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_verifies_and_a_changed_one_does_not() {
        let key = SigningKey::from_pem(&SigningKey::generate_pem().unwrap()).unwrap();
        let token = key.sign(&json!({"sub": "x"})).unwrap();
        assert_eq!(key.verify(&token).unwrap()["sub"], "x");
        let mut parts: Vec<&str> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(r#"{"sub":"y"}"#);
        parts[1] = &forged;
        assert!(key.verify(&parts.join(".")).is_err());
        let other = SigningKey::from_pem(&SigningKey::generate_pem().unwrap()).unwrap();
        assert!(other.verify(&token).is_err());
        assert!(key.verify("").is_err());
        assert!(key.verify("a.b.c").is_err());
    }
}
