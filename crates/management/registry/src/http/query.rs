//! Queries and paths with percent signs.

/// The parameters of a query.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// More parameters are not looked at.
const MOST: usize = 64;

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').take(MOST).filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| decode(&text.replace('+', "%20")).unwrap_or_default();
            (plain(name), plain(value))
        });
        Self(pairs.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = name.to_owned();
        self.0.iter().filter(move |(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// `n`, at most `most`; `most` when it is not given.
    pub(crate) fn page(&self, most: usize) -> Result<usize, ()> {
        self.get("n").map_or(Ok(most), |n| n.parse::<usize>().map(|n| n.min(most)).map_err(|_| ()))
    }
}

/// Percent-decoded; nothing when that is no text.
pub(crate) fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let (bytes, mut out) = (text.as_bytes(), Vec::with_capacity(text.len()));
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// Percent-encoded for a query.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("n=5&last=a%2Fb&scope=x+y&scope=z&bad=%zz&&flag");
        assert_eq!(query.get("last"), Some("a/b"));
        assert_eq!(query.all("scope").collect::<Vec<_>>(), ["x y", "z"]);
        assert_eq!((query.get("bad"), query.get("flag"), query.get("none")), (Some(""), Some(""), None));
        assert_eq!(
            (query.page(3), Query::parse("n=x").page(3), Query::default().page(9)),
            (Ok(3), Err(()), Ok(9))
        );
        assert_eq!((decode("%2"), decode("%ff"), decode("a%3Ab")), (None, None, Some("a:b".into())));
        assert_eq!(encode("a b/c:d"), "a%20b/c%3Ad");
    }
}
