//! URLs, read as Go reads request URIs: absolute, or a path.

use crate::error::EvalError;

/// A URL in parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Url {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: String,
}

impl Url {
    /// Reads one.
    pub(crate) fn parse(text: &str) -> Result<Url, EvalError> {
        Url::read(text).map_err(|reason| {
            EvalError::new(format!("URL parse error during conversion from string: parse {text:?}: {reason}"))
        })
    }

    pub(crate) fn read(text: &str) -> Result<Url, String> {
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        let (scheme, rest) = scheme(text)?;
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !rest.starts_with('/') {
            return match scheme.is_empty() {
                // Opaque: `mailto:x`.
                false => Ok(Url { scheme, query: query.to_owned(), ..Url::default() }),
                true => Err("invalid URI for request".to_owned()),
            };
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(authority) if !scheme.is_empty() || !rest.starts_with("///") => {
                let end = authority.find('/').unwrap_or(authority.len());
                (authority[..end].to_owned(), &authority[end..])
            }
            _ => (String::new(), rest),
        };
        let host = host.rsplit_once('@').map_or(host.as_str(), |(_, host)| host).to_owned();
        check_host(&host)?;
        check_escapes(path)?;
        Ok(Url { scheme, host, path: escaped_path(path), query: query.to_owned() })
    }

    /// The host without its port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        let host = split_port(&self.host).0;
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port, empty when there is none.
    pub(crate) fn port(&self) -> &str {
        split_port(&self.host).1
    }

    /// The parameters of the query, each with its values, by name.
    pub(crate) fn parameters(&self) -> Vec<(String, Vec<String>)> {
        let mut parameters: Vec<(String, Vec<String>)> = Vec::new();
        for part in self.query.split('&').filter(|part| !part.is_empty() && !part.contains(';')) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (Some(name), Some(value)) = (unescape(name), unescape(value)) else { continue };
            match parameters.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(value),
                None => parameters.push((name, vec![value])),
            }
        }
        parameters
    }
}

fn scheme(text: &str) -> Result<(String, &str), String> {
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            b'0'..=b'9' | b'+' | b'-' | b'.' => break,
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn split_port(host: &str) -> (&str, &str) {
    let from = host.rfind(']').unwrap_or(0);
    match host[from..].rfind(':') {
        Some(colon) => (&host[..from + colon], &host[from + colon + 1..]),
        None => (host, ""),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    if let Some(rest) = host.strip_prefix('[') {
        let Some(end) = rest.rfind(']') else { return Err("missing ']' in host".to_owned()) };
        let port = &rest[end + 1..];
        return check_port(port);
    }
    if let Some(colon) = host.rfind(':') {
        check_port(&host[colon..])?;
    }
    if let Some(wrong) = host.chars().find(|c| " <>\"{}|\\^`".contains(*c)) {
        return Err(format!("invalid character {:?} in host name", wrong.to_string()));
    }
    check_escapes(host)
}

fn check_port(port: &str) -> Result<(), String> {
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err(format!("invalid port {port:?} after host")),
    }
}

fn check_escapes(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for at in (0..bytes.len()).filter(|at| bytes[*at] == b'%') {
        let escape = &bytes[at..bytes.len().min(at + 3)];
        if escape.len() < 3 || !escape[1..].iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("invalid URL escape {:?}", String::from_utf8_lossy(escape)));
        }
    }
    Ok(())
}

/// The path with what has to be escaped escaped.
fn escaped_path(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for b in path.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => escaped.push(char::from(b)),
            b if b"-_.~$&+,/:;=@%!'()*[]".contains(&b) => escaped.push(char::from(b)),
            b => escaped.push_str(&format!("%{b:02X}")),
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
                plain.push(u8::from_str_radix(digits, 16).ok()?);
                at += 2;
            }
            b'+' => plain.push(b' '),
            b => plain.push(b),
        }
        at += 1;
    }
    String::from_utf8(plain).ok()
}
