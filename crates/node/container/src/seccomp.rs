//! System call filters, compiled here to classic BPF and handed to the kernel as bytes.
//!
//! The rules are those of Docker's default profile: a list of what is allowed, more of it with certain capabilities, a
//! few calls by their arguments, everything else `EPERM`. A filter is a binary search over ranges of call numbers, so
//! that the kernel's check at load time (it runs the filter once for each call number) and each run stay short.

mod compile;
mod profile;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;

/// Compiled filters by capability set; there are few sets in practice.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    known: Mutex<HashMap<u64, Arc<str>>>,
}

/// Most filters kept.
const MAX_KNOWN: usize = 64;

impl Filters {
    /// The default filter for these capabilities, as hex digits.
    pub(crate) fn default_for(&self, capabilities: u64) -> Result<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = known.get(&capabilities) {
            return Ok(filter.to_string());
        }
        let filter = hex(&compile::program(&profile::rules(capabilities)));
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(capabilities, Arc::from(filter.as_str()));
        Ok(filter)
    }
}

/// Bytes as hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// And back; `None` when it is not hex.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(*pair.first()?)? << 4) | digit(*pair.get(1)?)?)).collect()
}
