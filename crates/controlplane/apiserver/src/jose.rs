//! JSON web tokens and keys (RFC 7515, 7517, 7518), as far as bearer tokens need them: the compact form with one
//! signature, on ring. `jsonwebtoken` was looked at: its ring backend ended with version 9, and 10 brings either a
//! second cryptography library or a slower one for what are these 200 lines.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Value, json};
use x509_parser::{prelude::FromDer, public_key, x509::SubjectPublicKeyInfo};

/// Bytes of a token that are looked at; ours are under 2 KiB.
const MAX_TOKEN: usize = 16 << 10;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A token taken apart; nothing in it is to be believed before [`PublicKey::verify`].
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    pub(crate) algorithm: Algorithm,
    /// The id of the key, when the token says one.
    pub(crate) kid: Option<String>,
    pub(crate) claims: Value,
    /// What the signature covers.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart; nothing when it is not one of ours to look at.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        // An extension that must be understood is none that we know.
        if header.get("crit").is_some() {
            return None;
        }
        Some(Self {
            algorithm: Algorithm::parse(header["alg"].as_str()?)?,
            kid: header["kid"].as_str().filter(|kid| !kid.is_empty()).map(str::to_owned),
            claims: serde_json::from_slice(&decode(claims)?).ok().filter(Value::is_object)?,
            signature: decode(signature)?,
            signed,
        })
    }
}

/// A key that signatures are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublicKey {
    /// Modulus and exponent, big-endian.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    /// An uncompressed point.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo.
    pub(crate) fn from_spki(der: &[u8]) -> Option<Self> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        match info.parsed().ok()? {
            public_key::PublicKey::RSA(key) => {
                Some(Self::Rsa { n: trimmed(key.modulus), e: trimmed(key.exponent) })
            }
            public_key::PublicKey::EC(point) => match point.data().len() {
                65 => Some(Self::P256(point.data().to_vec())),
                97 => Some(Self::P384(point.data().to_vec())),
                _ => None,
            },
            public_key::PublicKey::Unknown(bytes) if bytes.len() == 32 => Some(Self::Ed25519(bytes.to_vec())),
            _ => None,
        }
    }

    /// From a JSON web key; nothing when it is not for signatures, or of a kind that is not known.
    pub(crate) fn from_jwk(jwk: &Value) -> Option<Self> {
        if jwk["use"].as_str().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str()?.trim_end_matches('=')).ok();
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [&[4], &x[..], &y[..]].concat())
        };
        match (jwk["kty"].as_str()?, jwk["crv"].as_str().unwrap_or_default()) {
            ("RSA", _) => Some(Self::Rsa { n: trimmed(&bytes("n")?), e: trimmed(&bytes("e")?) }),
            ("EC", "P-256") => Some(Self::P256(point(32)?)),
            ("EC", "P-384") => Some(Self::P384(point(48)?)),
            ("OKP", "Ed25519") => Some(Self::Ed25519(bytes("x").filter(|x| x.len() == 32)?)),
            _ => None,
        }
    }

    /// The key as a JSON web key.
    pub(crate) fn to_jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |point: &[u8], curve: &str, algorithm: &str| {
            let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len() / 2);
            json!({"use": "sig", "kty": "EC", "kid": kid, "crv": curve, "alg": algorithm, "x": text(x), "y": text(y)})
        };
        match self {
            Self::Rsa { n, e } => {
                json!({"use": "sig", "kty": "RSA", "kid": kid, "alg": "RS256", "n": text(n), "e": text(e)})
            }
            Self::P256(point) => ec(point, "P-256", "ES256"),
            Self::P384(point) => ec(point, "P-384", "ES384"),
            Self::Ed25519(x) => {
                json!({"use": "sig", "kty": "OKP", "kid": kid, "alg": "EdDSA", "crv": "Ed25519", "x": text(x)})
            }
        }
    }

    /// Whether the signature is this key's, made with this algorithm.
    pub(crate) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        use Algorithm as A;
        match (self, algorithm) {
            (Self::Rsa { n, e }, _) => {
                let parameters = match algorithm {
                    A::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    A::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    A::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    A::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    A::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    A::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    A::Es256 | A::Es384 | A::EdDsa => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            (Self::P256(point), A::Es256) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signature).is_ok()
            }
            (Self::P384(point), A::Es384) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point);
                key.verify(message, signature).is_ok()
            }
            (Self::Ed25519(key), A::EdDsa) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// Without leading zeros, which ring does not take.
fn trimmed(bytes: &[u8]) -> Vec<u8> {
    bytes[bytes.iter().take_while(|byte| **byte == 0).count()..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_token_is_told_so() {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = |header: &str, claims: &str| format!("{}.{}.{}", part(header), part(claims), part("s"));
        assert!(Unverified::parse(&token(r#"{"alg":"ES256"}"#, "{}")).is_some());
        for bad in [
            token(r#"{"alg":"none"}"#, "{}"),
            token(r#"{"alg":"HS256"}"#, "{}"),
            token(r#"{"alg":"ES256","crit":["b64"]}"#, "{}"),
            token(r#"{"alg":"ES256"}"#, "[]"),
            token("{}", "{}"),
            "a.b.c".to_owned(),
            "..".to_owned(),
            String::new(),
            format!("{}{}", token(r#"{"alg":"ES256"}"#, "{}"), "A".repeat(MAX_TOKEN)),
        ] {
            assert!(Unverified::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn nothing_that_is_sent_makes_it_panic() {
        let token = format!(
            "{}.{}.{}",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"x"}"#),
            URL_SAFE_NO_PAD.encode(r#"{"iss":"a","aud":["b"],"exp":1e300}"#),
            URL_SAFE_NO_PAD.encode([7; 64]),
        );
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "n": "AQAB", "e": "AQAB"});
        for _ in 0..20_000 {
            let mut bytes = token.clone().into_bytes();
            for _ in 0..rand::random_range(1..4) {
                let at = rand::random_range(0..bytes.len());
                bytes[at] = rand::random_range(0x20..0x7f);
            }
            let Ok(text) = String::from_utf8(bytes) else { continue };
            if let Some(parsed) = Unverified::parse(&text) {
                for key in [
                    PublicKey::Rsa { n: vec![1; rand::random_range(0..300)], e: vec![1, 0, 1] },
                    PublicKey::P256(vec![4; rand::random_range(0..70)]),
                    PublicKey::Ed25519(vec![4; rand::random_range(0..40)]),
                ] {
                    assert!(!key.verify(parsed.algorithm, parsed.signed.as_bytes(), &parsed.signature));
                }
            }
        }
        for kind in ["RSA", "EC", "OKP", "oct", ""] {
            for curve in ["P-256", "P-384", "Ed25519", "P-521"] {
                let mut jwk = jwk.clone();
                jwk["kty"] = kind.into();
                jwk["crv"] = curve.into();
                let _ = PublicKey::from_jwk(&jwk);
            }
        }
        for length in 0..100 {
            let _ = PublicKey::from_spki(&vec![0x30; length]);
        }
    }
}
