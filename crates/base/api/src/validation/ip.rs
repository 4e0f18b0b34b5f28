//! Addresses.

use std::net::IpAddr;

use crate::status::{FieldError, FieldPath};

use super::read::Errors;

/// Parses an address, also an old IPv4 one with leading zeros.
pub(super) fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let parts: Vec<&str> = text.split('.').collect();
    let decimal =
        |part: &&str| !part.is_empty() && part.len() <= 16 && part.bytes().all(|c| c.is_ascii_digit());
    if parts.len() != 4 || !parts.iter().all(decimal) {
        return None;
    }
    let plain: Vec<String> = parts
        .iter()
        .map(|p| p.trim_start_matches('0'))
        .map(|p| if p.is_empty() { "0" } else { p }.to_owned())
        .collect();
    plain.join(".").parse().ok()
}

/// The text has to be an address; says whether it is one.
pub(super) fn valid(out: &mut Errors, path: &FieldPath, text: &str) -> bool {
    let ok = parse(text).is_some();
    if !ok {
        out.push(FieldError::invalid(
            path,
            text,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
    ok
}

/// The network that a text says: its address, which may have bits beyond the length, and its length.
pub(super) fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/')?;
    let address = parse(address)?;
    if length.is_empty() || !length.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let length = length.parse().ok()?;
    (length <= bits(address)).then_some((address, length))
}

fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first address of a network.
fn masked((address, length): (IpAddr, u32)) -> IpAddr {
    match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4((four.to_bits() & mask).into())
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6((six.to_bits() & mask).into())
        }
    }
}

/// Whether the address is in the network.
pub(super) fn contains(network: (IpAddr, u32), address: IpAddr) -> bool {
    network.0.is_ipv4() == address.is_ipv4() && masked((address, network.1)) == masked(network)
}

/// The text has to be a network.
pub(super) fn valid_cidr(out: &mut Errors, path: &FieldPath, text: &str) {
    if network(text).is_none() {
        let sentence = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        out.push(FieldError::invalid(path, text, sentence));
    }
}

/// The text has to be a network as one writes it today.
pub(super) fn canonical_cidr(out: &mut Errors, path: &FieldPath, text: &str) {
    let before = out.len();
    valid_cidr(out, path, text);
    let Some(found) = network(text).filter(|_| out.len() == before) else { return };
    let (address, length) = text.split_once('/').unwrap_or_default();
    let sentence = if address.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0')) {
        "must not have leading 0s in IP or prefix length".to_owned()
    } else if is_mapped(found.0) {
        "must not have an IPv4-mapped IPv6 address".to_owned()
    } else if masked(found) != found.0 {
        "must not have bits set beyond the prefix length".to_owned()
    } else if text != format!("{}/{}", found.0, found.1) {
        format!("must be in canonical form (\"{}/{}\")", found.0, found.1)
    } else {
        return;
    };
    out.push(FieldError::invalid(path, text, sentence));
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some())
}

/// What keeps a text from being an address as one writes it today.
pub(super) fn canonical_errors(text: &str) -> Vec<String> {
    let Some(address) = parse(text) else {
        return vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()];
    };
    if text.parse::<IpAddr>().is_err() {
        vec!["must not have leading 0s".to_owned()]
    } else if is_mapped(address) {
        vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
    } else if text != address.to_string() {
        vec![format!("must be in canonical form (\"{address}\")")]
    } else {
        Vec::new()
    }
}

/// What is odd about an address that is accepted as it always was.
pub(crate) fn address_warning(path: &FieldPath, text: &str) -> Option<String> {
    let address = parse(text)?;
    if text.parse::<IpAddr>().is_err() || is_mapped(address) {
        let plain = address.to_canonical();
        return Some(format!("{path}: non-standard IP address \"{text}\" is invalid: use \"{plain}\""));
    }
    (address.is_ipv6() && address.to_string() != text).then(|| {
        format!("{path}: IPv6 address \"{text}\" should be in RFC 5952 canonical format (\"{address}\")")
    })
}

/// What is odd about a network that is accepted as it always was.
pub(crate) fn network_warnings(path: &FieldPath, text: &str) -> Vec<String> {
    let Some(found) = network(text) else { return Vec::new() };
    let (first, length) = (masked(found), found.1);
    let mut out = Vec::new();
    if first != found.0 {
        let single = format!("{}/{}", found.0, bits(found.0));
        out.push(format!(
            "{path}: CIDR value \"{text}\" is ambiguous in this context (should be \"{first}/{length}\" or \
             \"{single}\"?)"
        ));
    }
    let (address, digits) = text.split_once('/').unwrap_or_default();
    if address.parse::<IpAddr>().is_err()
        || (digits.len() > 1 && digits.starts_with('0'))
        || is_mapped(found.0)
    {
        out.push(format!("{path}: non-standard CIDR value \"{text}\" is invalid: use \"{first}/{length}\""));
    }
    if out.is_empty() && found.0.is_ipv6() && text != format!("{}/{length}", found.0) {
        let canonical = format!("{}/{length}", found.0);
        out.push(format!(
            "{path}: IPv6 CIDR value \"{text}\" should be in RFC 5952 canonical format (\"{canonical}\")"
        ));
    }
    out
}

/// An address that others can reach: no loopback, link-local or unspecified one.
pub(super) fn valid_endpoint(out: &mut Errors, path: &FieldPath, text: &str) {
    let Some(ip) = parse(text) else {
        out.push(FieldError::invalid(path, text, "must be a valid IP address"));
        return;
    };
    let ip = match ip {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    let (local, local_multicast) = match ip {
        IpAddr::V4(four) => (four.is_link_local(), four.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(six) => (six.segments()[0] & 0xffc0 == 0xfe80, six.segments()[0] & 0xff0f == 0xff02),
    };
    let mut say = |sentence: &str| out.push(FieldError::invalid(path, text, sentence));
    if ip.is_unspecified() {
        say(&format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        say("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if local {
        say("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if local_multicast {
        say("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}
