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

/// The text has to be a network.
pub(super) fn valid_cidr(out: &mut Errors, path: &FieldPath, text: &str) {
    let ok = text.split_once('/').is_some_and(|(ip, length)| {
        let longest = match parse(ip) {
            Some(IpAddr::V4(_)) => 32,
            Some(IpAddr::V6(_)) => 128,
            None => return false,
        };
        !length.is_empty()
            && length.bytes().all(|c| c.is_ascii_digit())
            && length.parse::<u32>().is_ok_and(|n| n <= longest)
    });
    if !ok {
        let sentence = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        out.push(FieldError::invalid(path, text, sentence));
    }
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
