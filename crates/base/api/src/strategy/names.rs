//! Generated names.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Letters and digits that spell no words and are hard to confuse: the ones Kubernetes uses.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// How many characters are added.
const SUFFIX: usize = 5;

/// The longest name of most kinds.
const LONGEST: usize = 63;

/// A name from `metadata.generateName`: the base, cut so that all is at most 63 bytes, and five random characters.
pub fn generate_name(base: &str) -> String {
    let mut end = base.len().min(LONGEST - SUFFIX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    name.push_str(&random_suffix());
    name
}

/// Five random characters of the alphabet.
pub(super) fn random_suffix() -> String {
    // Each RandomState has keys of its own, seeded by the operating system: enough for names, not for secrets.
    let mut bits = RandomState::new().build_hasher().finish();
    let mut out = String::with_capacity(SUFFIX);
    for _ in 0..SUFFIX {
        let index = usize::try_from(bits % 27).unwrap_or_default();
        out.push(char::from(ALPHABET[index]));
        bits /= 27;
    }
    out
}
