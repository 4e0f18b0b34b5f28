//! Names of repositories, tags and projects, as the distribution specification has them.

use crate::{digest::Digest, error::ApiError};

/// Longest repository name.
const MAX_NAME: usize = 255;
/// Longest tag.
const MAX_TAG: usize = 128;
/// The project of repositories without one in their name (`busybox`).
pub const DEFAULT_PROJECT: &str = "library";

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` for each part between slashes.
pub(crate) fn is_repository(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('/').all(is_component)
}

fn is_component(part: &str) -> bool {
    let bytes = part.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes
        .split(|byte| alphanumeric(byte))
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub(crate) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// The project that a repository belongs to.
pub(crate) fn project_of(repository: &str) -> &str {
    repository.split_once('/').map_or(DEFAULT_PROJECT, |(project, _)| project)
}

/// A name of a project, user or robot: one part of a repository's name.
pub(crate) fn check_simple(what: &str, name: &str) -> Result<(), ApiError> {
    if name.len() <= 64 && is_component(name) {
        return Ok(());
    }
    let message = format!(
        "{what} name {name:?} is not allowed (hint: at most 64 lower-case letters and digits, with single . _ - between)"
    );
    Err(ApiError::bad_request(message))
}

/// What a manifest is asked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    Tag(String),
    Digest(Digest),
}

impl Selector {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        if text.contains(':') {
            return text.parse().map(Self::Digest).map_err(|()| ApiError::digest_invalid(text));
        }
        if is_tag(text) {
            return Ok(Self::Tag(text.to_owned()));
        }
        Err(ApiError::manifest_invalid(format!("{text:.160?} is neither a tag nor a digest")))
    }
}

/// True when `text` matches `pattern`: `*` is any run of characters but `/`, `**` any run, `?` one character.
/// Linear in the product of both lengths, whatever the pattern.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // `row[i]`: the pattern up to here matches the first i characters.
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let mut next = vec![false; text.len() + 1];
        if pattern[at] == '*' {
            let deep = pattern.get(at + 1) == Some(&'*');
            for i in 0..=text.len() {
                next[i] = row[i] || (i > 0 && next[i - 1] && (deep || text[i - 1] != '/'));
            }
            at += if deep { 2 } else { 1 };
        } else {
            for i in 1..=text.len() {
                let same = pattern[at] == text[i - 1] || (pattern[at] == '?' && text[i - 1] != '/');
                next[i] = row[i - 1] && same;
            }
            at += 1;
        }
        row = next;
    }
    row[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        for good in ["a", "a/b", "library/busy-box", "a__b/c.d", "a---b", "0/1/2"] {
            assert!(is_repository(good), "{good}");
        }
        let long = "a".repeat(256);
        for bad in
            ["", "/", "a/", "/a", "A", "a..b", "a/../b", "a_-b", "a___b", "-a", "a.", "ä", "a b", &long]
        {
            assert!(!is_repository(bad), "{bad}");
        }
        for good in ["v1", "_", "A.b-c", "1.0"] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a b", &"a".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text) in [
            ("v*", "v1.2"),
            ("*", "x"),
            ("**", "a/b"),
            ("a/**/c", "a/b/d/c"),
            ("?", "x"),
            ("a*b*c", "axxbyyc"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("v*", "w"), ("*", "a/b"), ("", "x"), ("a?c", "a/c"), ("a*b", "ac")] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
        // No exponential time.
        assert!(!glob(&"*a".repeat(40), &"a".repeat(39)));
    }
}
