//! The formats of texts and numbers that a schema may ask for; others are not checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;

use super::schema::Type;
use crate::validation::names;

/// A format that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 24 hexadecimal digits.
    BsonObjectId,
    /// A URI with a scheme, or a path.
    Uri,
    /// An address as in a mail's header.
    Email,
    /// A host name.
    Hostname,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// An address block.
    Cidr,
    /// A hardware address.
    Mac,
    /// A UUID; with the digit of its version when that matters.
    Uuid(Option<u8>),
    /// A book number of ten digits, or 13, or either.
    Isbn(Option<u8>),
    /// A credit card number.
    CreditCard,
    /// A U.S. social security number.
    Ssn,
    /// `#ffffff`.
    HexColor,
    /// `rgb(1,2,3)`.
    RgbColor,
    /// base64.
    Byte,
    /// Anything.
    Password,
    /// `2006-01-02`.
    Date,
    /// `22 ns`.
    Duration,
    /// RFC 3339.
    DateTime,
    /// A DNS label.
    ShortName,
    /// A DNS subdomain.
    LongName,
    /// 32 bits.
    Int32,
    /// 64 bits.
    Int64,
    /// Single precision.
    Float,
    /// Double precision.
    Double,
}

impl Format {
    /// The format of that name, for values of that type; dashes do not count.
    pub fn of(kind: Option<Type>, name: &str) -> Option<Format> {
        match kind {
            None | Some(Type::String) => Self::text(&name.replace('-', "")),
            Some(Type::Integer) => match name {
                "int32" => Some(Format::Int32),
                "int64" => Some(Format::Int64),
                _ => None,
            },
            Some(Type::Number) => match name {
                "float" => Some(Format::Float),
                "double" => Some(Format::Double),
                _ => None,
            },
            _ => None,
        }
    }

    fn text(name: &str) -> Option<Format> {
        Some(match name {
            "bsonobjectid" => Format::BsonObjectId,
            "uri" => Format::Uri,
            "email" => Format::Email,
            "hostname" => Format::Hostname,
            "ipv4" => Format::Ipv4,
            "ipv6" => Format::Ipv6,
            "cidr" => Format::Cidr,
            "mac" => Format::Mac,
            "uuid" => Format::Uuid(None),
            "uuid3" => Format::Uuid(Some(3)),
            "uuid4" => Format::Uuid(Some(4)),
            "uuid5" => Format::Uuid(Some(5)),
            "isbn" => Format::Isbn(None),
            "isbn10" => Format::Isbn(Some(10)),
            "isbn13" => Format::Isbn(Some(13)),
            "creditcard" => Format::CreditCard,
            "ssn" => Format::Ssn,
            "hexcolor" => Format::HexColor,
            "rgbcolor" => Format::RgbColor,
            "byte" => Format::Byte,
            "password" => Format::Password,
            "date" => Format::Date,
            "duration" => Format::Duration,
            "datetime" => Format::DateTime,
            "k8sshortname" => Format::ShortName,
            "k8slongname" => Format::LongName,
            _ => return None,
        })
    }

    /// Whether it is about texts.
    pub fn is_text(self) -> bool {
        !matches!(self, Format::Int32 | Format::Int64 | Format::Float | Format::Double)
    }

    /// Whether the text has this format.
    pub fn accepts(self, text: &str) -> bool {
        match self {
            Format::BsonObjectId => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
            Format::Uri => uri(text),
            Format::Email => email(text),
            Format::Hostname => hostname(text),
            Format::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Format::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Format::Cidr => cidr(text),
            Format::Mac => mac(text),
            Format::Uuid(version) => uuid(text, version),
            Format::Isbn(digits) => isbn(text, digits),
            Format::CreditCard => credit_card(text),
            Format::Ssn => matches(&SSN, text),
            Format::HexColor => matches(&HEX_COLOR, text),
            Format::RgbColor => matches(&RGB_COLOR, text),
            Format::Byte => STANDARD.decode(text).is_ok(),
            Format::Password => true,
            Format::Date => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
            Format::Duration => duration(text),
            Format::DateTime => date_time(text),
            Format::ShortName => names::dns1123_label(text).is_empty(),
            Format::LongName => names::dns1123_subdomain(text).is_empty(),
            Format::Int32 | Format::Int64 | Format::Float | Format::Double => true,
        }
    }
}

type Pattern = LazyLock<Option<Regex>>;

static SSN: Pattern = LazyLock::new(|| Regex::new(r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$").ok());
static HEX_COLOR: Pattern = LazyLock::new(|| Regex::new(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$").ok());
static RGB_COLOR: Pattern = LazyLock::new(|| {
    let part = r"\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*";
    Regex::new(&format!(r"^rgb\({part},{part},{part}\)$")).ok()
});
static CARD: Pattern = LazyLock::new(|| {
    let kinds = "4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}\
                 |3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11}";
    Regex::new(&format!("^(?:{kinds})$")).ok()
});
static SPAN: Pattern = LazyLock::new(|| {
    Regex::new(r"^([0-9]+)\s*(?:(ns|nano|nanosecond|nanoseconds)|(us|µs|micro|microsecond|microseconds)|(ms|milli|millisecond|milliseconds)|(s|sec|second|seconds)|(m|min|minute|minutes)|(h|hr|hour|hours)|(d|day|days)|(w|wk|week|weeks))$").ok()
});

fn matches(pattern: &Pattern, text: &str) -> bool {
    pattern.as_ref().is_some_and(|p| p.is_match(text))
}

/// As Go's `url.ParseRequestURI`: absolute, or a path.
fn uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f || b == b' ') {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, _)) = text.split_once(':') else { return false };
    let mut letters = scheme.bytes();
    letters.next().is_some_and(|b| b.is_ascii_alphabetic())
        && letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// A plain address, or a name with the address in angle brackets.
fn email(text: &str) -> bool {
    let address = match (text.rfind('<'), text.ends_with('>')) {
        (Some(at), true) => &text[at + 1..text.len() - 1],
        _ => text.trim(),
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| !c.is_whitespace() && !c.is_control() && !"()<>[]:;@\\,\"".contains(c))
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    (quoted || local.split('.').all(atom)) && domain.split('.').all(atom)
}

fn hostname(text: &str) -> bool {
    let label = |part: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        (1..=63).contains(&part.len())
            && edge(part.as_bytes().first())
            && edge(part.as_bytes().last())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 255 && text.split('.').all(label)
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let digits = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
    match (address.parse::<IpAddr>(), bits.parse::<u16>()) {
        (Ok(IpAddr::V4(_)), Ok(bits)) => digits && bits <= 32,
        (Ok(IpAddr::V6(_)), Ok(bits)) => digits && bits <= 128,
        _ => false,
    }
}

/// 6, 8 or 20 bytes, with colons, dashes or dots between.
fn mac(text: &str) -> bool {
    let (separator, size) = match text.as_bytes().get(2) {
        Some(b':') => (':', 2),
        Some(b'-') => ('-', 2),
        _ => ('.', 4),
    };
    let parts: Vec<&str> = text.split(separator).collect();
    let hex = |part: &&str| part.len() == size && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts.iter().all(hex) && matches!(parts.len() * size / 2, 6 | 8 | 20)
}

fn uuid(text: &str, version: Option<u8>) -> bool {
    let mut rest = text;
    let mut digits = String::with_capacity(32);
    for size in [8, 4, 4, 4, 12] {
        if !digits.is_empty() {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some(part) = rest.get(..size) else { return false };
        digits.push_str(part);
        rest = &rest[size..];
    }
    let bytes = digits.as_bytes();
    let right = match version {
        None => true,
        Some(3) => bytes[12] == b'3',
        Some(n) => {
            bytes[12] == b'0' + n && matches!(bytes[16].to_ascii_lowercase(), b'8' | b'9' | b'a' | b'b')
        }
    };
    rest.is_empty() && bytes.iter().all(u8::is_ascii_hexdigit) && right
}

fn isbn(text: &str, digits: Option<u8>) -> bool {
    let plain: Vec<u8> = text.bytes().filter(|b| !matches!(b, b' ' | b'-')).collect();
    let number = |b: u8| u32::from(b - b'0');
    let ten = || {
        plain.len() == 10
            && plain[..9].iter().all(u8::is_ascii_digit)
            && (plain[9].is_ascii_digit() || plain[9] == b'X')
            && {
                let sum: u32 = (1..).zip(&plain[..9]).map(|(i, b)| i * number(*b)).sum();
                let last = if plain[9] == b'X' { 10 } else { number(plain[9]) };
                (sum + 10 * last).is_multiple_of(11)
            }
    };
    let thirteen = || {
        plain.len() == 13
            && plain.iter().all(u8::is_ascii_digit)
            && plain.iter().zip([1, 3].iter().cycle()).map(|(b, w)| number(*b) * w).sum::<u32>() % 10 == 0
    };
    match digits {
        Some(10) => ten(),
        Some(_) => thirteen(),
        None => ten() || thirteen(),
    }
}

fn credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if !matches(&CARD, &digits) {
        return false;
    }
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let n = u32::from(b - b'0') * if i % 2 == 1 { 2 } else { 1 };
            if n > 9 { n - 9 } else { n }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// As Go's `time.ParseDuration`, or a number and a unit in words.
fn duration(text: &str) -> bool {
    if matches(&SPAN, text) {
        return true;
    }
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        if number.matches('.').count() > 1 || !number.bytes().any(|b| b.is_ascii_digit()) {
            return false;
        }
        let units = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
        let Some(unit) = units.iter().find(|u| {
            after
                .strip_prefix(**u)
                .is_some_and(|r| r.is_empty() || r.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
        }) else {
            return false;
        };
        rest = &after[unit.len()..];
    }
    true
}

fn date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 20
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes[10], b'T' | b't')
        && bytes[13] == b':'
        && bytes[16] == b':';
    shape && text.to_ascii_uppercase().parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_what_they_should() {
        for (name, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "01:23:45:67:89:ab", "01:23:45"),
            ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99"),
            ("uuid4", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-1ef8-bb6d-6bb9bd380a11"),
            ("isbn", "978-0321751041", "978-0321751042"),
            ("isbn10", "0321751043", "0321751044"),
            ("date-time", "2014-12-15T19:30:20.000Z", "2014-12-15"),
            ("date", "2006-01-02", "2006-13-02"),
            ("duration", "1h30m", "1x"),
            ("duration", "22 ns", "22 parsecs"),
            ("byte", "aGVsbG8=", "!"),
            ("email", "a@example.com", "a"),
            ("uri", "http://example.com/a", "example com"),
            ("hostname", "a.example.com", "-a"),
            ("hexcolor", "#FFFFFF", "#FF"),
            ("rgbcolor", "rgb(255,255,255)", "rgb(256,1,1)"),
            ("ssn", "111-22-3333", "1"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("k8s-short-name", "abc", "A.b"),
        ] {
            let format = Format::of(Some(Type::String), name).unwrap();
            assert!(format.accepts(good), "{name} {good}");
            assert!(!format.accepts(bad), "{name} {bad}");
        }
        assert_eq!(Format::of(Some(Type::String), "int32"), None);
        assert_eq!(Format::of(Some(Type::Integer), "int32"), Some(Format::Int32));
    }
}
