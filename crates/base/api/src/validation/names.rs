//! What names, labels and the like may look like. Each function returns the sentences that say what is wrong.

use crate::status::{FieldError, FieldPath};

/// Bytes of a DNS label or a label's value.
const LABEL_MAX: usize = 63;
/// Bytes of a DNS name.
const SUBDOMAIN_MAX: usize = 253;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const UNDERSCORED: &str = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// A sentence with examples and the expression, as Kubernetes composes it.
fn pattern(sentence: &str, expression: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{sentence} (regex used for validation is '{expression}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{sentence} (e.g. {}regex used for validation is '{expression}')", examples.join(" or "))
}

fn longest(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn longest_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Whether first and last byte fit one test and those between another.
fn shaped(text: &str, ends: impl Fn(u8) -> bool, middle: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => ends(*only),
        [first, inner @ .., last] => ends(*first) && ends(*last) && inner.iter().all(|c| middle(*c)),
    }
}

fn is_label(text: &str) -> bool {
    shaped(text, lower, |c| lower(c) || c == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// A DNS label that begins with a letter: names of custom kinds and versions.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > LABEL_MAX {
        out.push(longest(LABEL_MAX));
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        out.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    out
}

/// A DNS label: the names of containers, volumes, namespaces.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > LABEL_MAX {
        out.push(longest(LABEL_MAX));
    }
    if !is_label(text) {
        out.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                 start and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    out
}

/// A DNS name: the names of most kinds.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        out.push(longest(SUBDOMAIN_MAX));
    }
    if !is_subdomain(text) {
        out.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
             must start and end with an alphanumeric character",
            SUBDOMAIN,
            &["example.com"],
        ));
    }
    out
}

/// A DNS name whose first label is a star.
pub(crate) fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        out.push(longest(SUBDOMAIN_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        out.push(pattern(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
             consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    out
}

/// A DNS name that may have underscores: search domains.
pub(crate) fn dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    let label = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        shaped(part, lower, |c| lower(c) || c == b'-' || c == b'_')
    };
    let mut out = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        out.push(longest(SUBDOMAIN_MAX));
    }
    if !text.split('.').all(label) {
        out.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', \
             and must start and end with an alphanumeric character",
            UNDERSCORED,
            &["example.com"],
        ));
    }
    out
}

/// `prefix/name` or `name`: keys of labels and annotations, finalizers, resources.
pub fn qualified(text: &str) -> Vec<String> {
    let sentence = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                    alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let mut out = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(
                    dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|wrong| format!("prefix part {}", wrong.replace("253 characters", "253 bytes"))),
                );
            }
            *name
        }
        _ => {
            out.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern(sentence, KEY, &examples)
            ));
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        out.push(format!("name part {}", longest_bytes(LABEL_MAX)));
    }
    if !is_key(name) {
        out.push(format!("name part {}", pattern(sentence, KEY, &examples)));
    }
    out
}

fn is_key(text: &str) -> bool {
    shaped(text, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > LABEL_MAX {
        out.push(longest_bytes(LABEL_MAX));
    }
    if !text.is_empty() && !is_key(text) {
        out.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
             must start and end with an alphanumeric character",
            &format!("({KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

/// The name of a container's port.
pub(crate) fn port_name(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 15 {
        out.push(longest(15));
    }
    if text.is_empty() || !text.bytes().all(|c| lower(c) || c == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// The number of a port.
pub(crate) fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// The ID of a user or a group.
pub(crate) fn user_id(id: i64) -> Vec<String> {
    if (0..=i64::from(i32::MAX)).contains(&id) {
        Vec::new()
    } else {
        vec!["must be between 0 and 2147483647, inclusive".to_owned()]
    }
}

/// The name of an environment variable: since Kubernetes 1.34 all printable ASCII but `=`.
pub(crate) fn env_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=') {
        return Vec::new();
    }
    let sentence = "a valid environment variable name must consist only of printable ASCII characters other \
                    than '='";
    vec![sentence.to_owned()]
}

/// A key of a ConfigMap or a Secret, which becomes the name of a file.
pub(crate) fn config_key(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        out.push(longest(SUBDOMAIN_MAX));
    }
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)) {
        out.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => out.push("must not be '.'".to_owned()),
        ".." => out.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => out.push("must not start with '..'".to_owned()),
        _ => {}
    }
    out
}

/// The name of an HTTP header.
pub(crate) fn header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    let sentence = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern(sentence, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// `25%`.
pub(crate) fn percent(text: &str) -> Vec<String> {
    if percent_value(text).is_some() {
        return Vec::new();
    }
    let sentence = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![pattern(sentence, "[0-9]+%", &["1%", "93%"])]
}

/// The number before the percent sign; too large a one is the largest.
pub(crate) fn percent_value(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(i64::MAX))
}

/// A part of a path in the API: what no name may be.
pub(crate) fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    let mut out = Vec::new();
    for illegal in ["/", "%"] {
        if text.contains(illegal) {
            out.push(format!("may not contain '{illegal}'"));
        }
    }
    out
}

/// The reason of a condition: one word, or several joined by `,` or `:`.
pub(crate) fn condition_reason(text: &str) -> Vec<String> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let fits = match text.as_bytes() {
        [first, .., last] => first.is_ascii_alphabetic() && word(*last),
        [only] => only.is_ascii_alphabetic(),
        [] => false,
    };
    if fits && text.bytes().all(|c| word(c) || matches!(c, b',' | b':')) {
        return Vec::new();
    }
    vec![pattern(
        "a condition reason must start with alphabetic character, optionally followed by a string of \
         alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
        "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
        &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
    )]
}

/// `domain/path`: the names of controllers and signers.
pub(super) fn domain_prefixed_path(out: &mut Vec<FieldError>, path: &FieldPath, text: &str) {
    if text.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    let Some((host, rest)) = text.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        let sentence = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        out.push(FieldError::invalid(path, text, sentence));
        return;
    };
    out.extend(dns1123_subdomain(host).into_iter().map(|wrong| FieldError::invalid(path, host, wrong)));
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"/%-._~!$&'()*+,;=:".contains(&c);
    if !rest.bytes().all(fits) {
        let sentence = pattern("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
        out.push(FieldError::invalid(path, rest, sentence));
    }
}

/// A generated name's base may end in a hyphen: one more character follows.
pub(crate) fn mask_prefix(base: &str) -> String {
    match base.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => base.to_owned(),
    }
}
