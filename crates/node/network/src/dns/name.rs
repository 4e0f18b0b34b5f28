//! Domain names as they are on the wire, in lower case: length and bytes of each label, then a zero.

use std::{fmt, net::Ipv4Addr};

/// The longest name on the wire.
pub const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

/// A complete name in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The root.
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// From `a.b.c`, with or without a dot at the end. `None` when a label is empty or something is too long.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Some(Self::root());
        }
        text.rsplit('.').try_fold(Self::root(), |name, label| name.child(label))
    }

    /// From the wire form without compression; any case.
    pub fn from_wire(bytes: &[u8]) -> Self {
        // The lengths are below 64 and so not letters: all bytes may be treated alike.
        Self(bytes.to_ascii_lowercase().into())
    }

    /// A name one label below this one.
    pub fn child(&self, label: &str) -> Option<Self> {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=MAX_LABEL).contains(&usize::from(*n)))?;
        let total = self.0.len() + label.len() + 1;
        if total > MAX_NAME || label.contains('.') {
            return None;
        }
        let mut bytes = Vec::with_capacity(total);
        bytes.push(length);
        bytes.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        bytes.extend_from_slice(&self.0);
        Some(Self(bytes.into()))
    }

    /// The wire form.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The name without its first label; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let length = usize::from(*self.0.first()?);
        if length == 0 { None } else { Some(Self(self.0.get(length + 1..)?.into())) }
    }

    /// The labels from the left.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let length = usize::from(*rest.first()?);
            let label = rest.get(1..=length).filter(|label| !label.is_empty())?;
            rest = &rest[length + 1..];
            Some(label)
        })
    }

    /// The labels in front of `zone`, when this name is in it.
    pub fn below<'a>(&'a self, zone: &Self) -> Option<Vec<&'a [u8]>> {
        let all: Vec<_> = self.labels().collect();
        let front = all.len().checked_sub(zone.labels().count())?;
        let same = all[front..].iter().copied().eq(zone.labels());
        same.then(|| all[..front].to_vec())
    }

    /// The name under which an address is looked up: `4.3.2.1.in-addr.arpa`.
    pub fn reverse(ip: Ipv4Addr) -> Option<Self> {
        let [a, b, c, d] = ip.octets();
        Self::parse(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"))
    }

    /// The address of which this is the reverse name. `partial` octets that are missing count as zero and are told by
    /// the prefix length.
    pub fn reversed(&self) -> Option<(Ipv4Addr, u8)> {
        let arpa = Self::parse("in-addr.arpa")?;
        let labels = self.below(&arpa)?;
        if labels.is_empty() || labels.len() > 4 {
            return None;
        }
        let mut octets = [0; 4];
        for (octet, label) in octets.iter_mut().zip(labels.iter().rev()) {
            let text = std::str::from_utf8(label).ok()?;
            *octet = text.parse().ok().filter(|n: &u8| n.to_string() == text)?;
        }
        Some((octets.into(), u8::try_from(labels.len() * 8).ok()?))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.labels() {
            write!(f, "{}.", label.escape_ascii())?;
        }
        if self.0.len() == 1 { f.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_parts() {
        let name = Name::parse("Web.Default.svc.cluster.local.").unwrap();
        assert_eq!(name.to_string(), "web.default.svc.cluster.local.");
        assert_eq!(name, Name::from_wire(b"\x03WEB\x07default\x03svc\x07cluster\x05local\0"));
        let zone = Name::parse("cluster.local").unwrap();
        assert_eq!(name.below(&zone).unwrap(), [&b"web"[..], b"default", b"svc"]);
        assert!(zone.below(&name).is_none());
        assert!(Name::parse("xcluster.local").unwrap().below(&zone).is_none());
        assert_eq!(zone.parent().unwrap().parent().unwrap(), Name::root());
        assert!(Name::parse("a..b").is_none());
        assert!(Name::parse(&"a".repeat(64)).is_none());
        assert!(Name::parse(&"abcdefg.".repeat(40)).is_none());
        let ip = Ipv4Addr::new(10, 43, 0, 7);
        assert_eq!(Name::reverse(ip).unwrap().reversed(), Some((ip, 32)));
        assert_eq!(
            Name::parse("43.10.in-addr.arpa").unwrap().reversed(),
            Some((Ipv4Addr::new(10, 43, 0, 0), 16))
        );
        assert_eq!(Name::parse("043.10.in-addr.arpa").unwrap().reversed(), None);
    }
}
