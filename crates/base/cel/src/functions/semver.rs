//! Semantic versions, read as strictly as upstream reads them.

use std::cmp::Ordering;

use crate::error::EvalError;

/// A version; build metadata does not count when two are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    /// Major, minor and patch.
    pub(crate) numbers: [u64; 3],
    pre: Vec<Identifier>,
    build: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Identifier {
    Number(u64),
    Text(String),
}

impl Semver {
    /// Reads `1.2.3-pre.1+build`.
    pub(crate) fn parse(text: &str) -> Result<Semver, EvalError> {
        if text.is_empty() {
            return Err(EvalError::new("Version string empty"));
        }
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(EvalError::new("No Major.Minor.Patch elements found"));
        };
        let (rest, build) = match rest.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (rest, None),
        };
        let (patch, pre) = match rest.split_once('-') {
            Some((patch, pre)) => (patch, Some(pre)),
            None => (rest, None),
        };
        let numbers = [number("Major", major)?, number("Minor", minor)?, number("Patch", patch)?];
        let pre = pre.map_or(Ok(Vec::new()), |pre| pre.split('.').map(identifier).collect())?;
        let build = build.map_or(Ok(Vec::new()), |build| build.split('.').map(metadata).collect())?;
        Ok(Semver { numbers, pre, build })
    }

    /// Reads what people write: `v1.2`, `01.2.3`.
    pub(crate) fn normalize(text: &str) -> Result<Semver, EvalError> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(without_zeros).collect();
        if parts.len() < 3 {
            if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
                return Err(EvalError::new("short version cannot contain PreRelease/Build meta data"));
            }
            parts.resize(3, "0".to_owned());
        }
        Semver::parse(&parts.join("."))
    }

    /// The order of precedence.
    pub(crate) fn compare(&self, other: &Semver) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let order = self.pre.iter().zip(&other.pre).map(|(a, b)| a.compare(b)).find(|o| o.is_ne());
                order.unwrap_or_else(|| self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}

impl Identifier {
    fn compare(&self, other: &Identifier) -> Ordering {
        match (self, other) {
            (Identifier::Number(a), Identifier::Number(b)) => a.cmp(b),
            (Identifier::Number(_), Identifier::Text(_)) => Ordering::Less,
            (Identifier::Text(_), Identifier::Number(_)) => Ordering::Greater,
            (Identifier::Text(a), Identifier::Text(b)) => a.cmp(b),
        }
    }
}

fn without_zeros(part: &str) -> String {
    if part.len() < 2 {
        return part.to_owned();
    }
    let trimmed = part.trim_start_matches('0');
    let digit = trimmed.bytes().next().is_some_and(|b| b.is_ascii_digit());
    if digit { trimmed.to_owned() } else { format!("0{trimmed}") }
}

fn number(what: &str, text: &str) -> Result<u64, EvalError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(EvalError::new(format!(
            "Invalid character(s) found in {} number {text:?}",
            what.to_lowercase()
        )));
    }
    if text.len() > 1 && text.starts_with('0') {
        let what = what.to_owned();
        return Err(EvalError::new(format!("{what} number must not contain leading zeroes {text:?}")));
    }
    text.parse().map_err(|_| EvalError::new(format!("{what} number {text:?} is out of range")))
}

fn allowed(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn identifier(text: &str) -> Result<Identifier, EvalError> {
    if text.is_empty() {
        return Err(EvalError::new("Prerelease is empty"));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            let message = format!("Numeric PreRelease version must not contain leading zeroes {text:?}");
            return Err(EvalError::new(message));
        }
        return text
            .parse()
            .map(Identifier::Number)
            .map_err(|_| EvalError::new("PreRelease is out of range"));
    }
    if !allowed(text) {
        return Err(EvalError::new(format!("Invalid character(s) found in prerelease {text:?}")));
    }
    Ok(Identifier::Text(text.to_owned()))
}

fn metadata(text: &str) -> Result<String, EvalError> {
    match text {
        "" => Err(EvalError::new("Build meta data is empty")),
        text if !allowed(text) => {
            Err(EvalError::new(format!("Invalid character(s) found in build meta data {text:?}")))
        }
        text => Ok(text.to_owned()),
    }
}
