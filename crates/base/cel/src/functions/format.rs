//! Named formats.

use std::sync::LazyLock;

use base64::Engine as _;
use regex::Regex;
use sampan_api::validation::names;

use super::url::Url;
use crate::value::time;

/// A format that text may have.
#[derive(Debug)]
pub struct Format {
    /// The name that expressions use.
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    /// Says what is wrong with a text.
    pub(crate) validate: fn(&str) -> Vec<String>,
    /// The length of the regular expression that stands for its cost.
    pub(crate) size: u64,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

const fn format(
    key: &'static str,
    name: &'static str,
    size: u64,
    validate: fn(&str) -> Vec<String>,
) -> Format {
    Format { key, name, validate, size }
}

static FORMATS: [Format; 13] = [
    format("dns1123Label", "DNS1123Label", 30, names::dns1123_label),
    format("dns1123Subdomain", "DNS1123Subdomain", 60, names::dns1123_subdomain),
    format("dns1035Label", "DNS1035Label", 30, dns1035_label),
    format("qualifiedName", "QualifiedName", 60, names::qualified),
    format("dns1123LabelPrefix", "DNS1123LabelPrefix", 30, |text| names::dns1123_label(&masked(text))),
    format("dns1123SubdomainPrefix", "DNS1123SubdomainPrefix", 60, |text| {
        names::dns1123_subdomain(&masked(text))
    }),
    format("dns1035LabelPrefix", "DNS1035LabelPrefix", 30, |text| dns1035_label(&masked(text))),
    format("labelValue", "LabelValue", 40, names::label_value),
    format("uri", "URI", 1103, uri),
    format("uuid", "uuid", 85, |text| wrong(UUID.is_match(text), "does not match the UUID format")),
    format("byte", "byte", 84, |text| wrong(base64(text), "invalid base64")),
    format("date", "date", 84, |text| wrong(date(text), "invalid date")),
    format("datetime", "datetime", 84, |text| {
        wrong(time::parse_timestamp(text).is_some(), "invalid datetime")
    }),
];

/// The format under a key.
pub(crate) fn named(key: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.key == key)
}

static UUID: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    Regex::new(pattern).unwrap_or_else(|_| unreachable!("the pattern is constant"))
});

fn wrong(right: bool, message: &str) -> Vec<String> {
    if right { Vec::new() } else { vec![message.to_owned()] }
}

/// A prefix may end in a dash, since something follows.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if text.len() > 1 => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

fn dns1035_label(text: &str) -> Vec<String> {
    const SENTENCE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                            alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
                            'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push("must be no more than 63 characters".to_owned());
    }
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let all = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !first || !all || text.ends_with('-') {
        out.push(SENTENCE.to_owned());
    }
    out
}

fn uri(text: &str) -> Vec<String> {
    Url::read(text).err().map(|reason| format!("parse {text:?}: {reason}")).into_iter().collect()
}

fn base64(text: &str) -> bool {
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

fn date(text: &str) -> bool {
    text.len() == 10 && time::parse_timestamp(&format!("{text}T00:00:00Z")).is_some()
}
