//! Content digests: `sha256:…` and `sha512:…`, computed as bytes come.

use std::{fmt, str::FromStr};

use ring::digest::{Context, SHA256, SHA512};

/// A content digest. Ordered by algorithm, then by bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// `sha256:` and 64 hex digits.
    Sha256([u8; 32]),
    /// `sha512:` and 128 hex digits; boxed because it is rare and long.
    Sha512(Box<[u8; 64]>),
}

/// How a digest is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// What everybody uses.
    #[default]
    Sha256,
    /// What some use.
    Sha512,
}

impl Algorithm {
    /// By its registered name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }
}

impl Digest {
    /// The SHA-256 digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::with(Algorithm::Sha256, bytes)
    }

    /// The digest of these bytes with an algorithm.
    #[must_use]
    pub fn with(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// How it was computed.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes.as_slice(),
        }
    }

    /// The algorithm's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
        }
    }

    /// The hex digits, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(self.bytes())
    }

    /// The tag under which clients without the referrers API keep what refers to this: 32 characters of the algorithm, 64
    /// of the digest (OCI Distribution 1.1, "Referrers Tag Schema").
    pub(crate) fn referrers_tag(&self) -> String {
        format!("{:.32}-{:.64}", self.name(), self.hex())
    }

    /// As a part of a binary key: one byte for the algorithm, then the digest.
    pub(crate) fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(65);
        key.push(match self {
            Self::Sha256(_) => 1,
            Self::Sha512(_) => 2,
        });
        key.extend_from_slice(self.bytes());
        key
    }

    /// The reverse of [`Digest::key`]: the digest at the beginning of `key`, and what follows.
    pub(crate) fn from_key(key: &[u8]) -> Option<(Self, &[u8])> {
        match key.split_first()? {
            (1, rest) => {
                let (bytes, rest) = rest.split_first_chunk::<32>()?;
                Some((Self::Sha256(*bytes), rest))
            }
            (2, rest) => {
                let (bytes, rest) = rest.split_first_chunk::<64>()?;
                Some((Self::Sha512(Box::new(*bytes)), rest))
            }
            _ => None,
        }
    }

    /// Which of `count` equal parts of all digests this one falls into.
    pub(crate) fn part(&self, count: usize) -> usize {
        let bytes = self.bytes();
        (usize::from(bytes[0]) << 8 | usize::from(bytes[1])) % count
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
    text
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (at, pair) in text.chunks_exact(2).enumerate() {
        out[at] = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            Some(("sha256", hex)) => unhex(hex).map(Self::Sha256).ok_or(()),
            Some(("sha512", hex)) => unhex(hex).map(|bytes| Self::Sha512(Box::new(bytes))).ok_or(()),
            _ => Err(()),
        }
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom("not a sha256 or sha512 digest"))
    }
}

/// Hashes bytes as they come.
#[derive(Clone)]
pub(crate) struct Hasher {
    context: Context,
    algorithm: Algorithm,
    bytes: u64,
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let context = Context::new(match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        });
        Self { context, algorithm, bytes: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn finish(self) -> Digest {
        let value = self.context.finish();
        let value = value.as_ref();
        match self.algorithm {
            Algorithm::Sha256 => {
                let mut bytes = [0; 32];
                bytes.copy_from_slice(value);
                Digest::Sha256(bytes)
            }
            Algorithm::Sha512 => {
                let mut bytes = Box::new([0; 64]);
                bytes.copy_from_slice(value);
                Digest::Sha512(bytes)
            }
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_printed_and_kept_in_keys() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(Digest::of(b"").referrers_tag(), empty.replace(':', "-"));
        assert_eq!(Digest::with(Algorithm::Sha512, b"").referrers_tag().len(), 71);
        let long = Digest::with(Algorithm::Sha512, b"abc");
        for digest in [Digest::of(b"x"), long] {
            assert_eq!(digest.to_string().parse(), Ok(digest.clone()));
            let mut key = digest.key();
            key.push(7);
            assert_eq!(Digest::from_key(&key), Some((digest, &[7][..])));
        }
        for bad in ["", "sha256:", "md5:00", "sha256:E3b0", "sha512:00", &empty[..70], &format!("{empty}0")] {
            assert_eq!(bad.parse::<Digest>(), Err(()), "{bad}");
        }
    }
}
