//! As much DER as a certificate needs (X.690, RFC 5280).

use jiff::Timestamp;

pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// Tag, length, content.
pub(super) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            // At most eight.
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(8));
            out.extend_from_slice(bytes);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, parts)
}

/// An object identifier from its content bytes.
pub(super) fn oid(content: &[u8]) -> Vec<u8> {
    tlv(0x06, &[content])
}

/// A positive INTEGER from big-endian bytes.
pub(super) fn integer(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    match bytes.first() {
        None => tlv(0x02, &[&[0]]),
        Some(first) if first & 0x80 != 0 => tlv(0x02, &[&[0], bytes]),
        Some(_) => tlv(0x02, &[bytes]),
    }
}

/// A BIT STRING of whole bytes.
pub(super) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes])
}

/// A BIT STRING of named bits (bit 0 is the first); trailing zeros are left out.
pub(super) fn named_bits(set: u16) -> Vec<u8> {
    let mut bytes = [0_u8; 2];
    let mut last = None;
    for bit in 0..16_usize {
        if set & (1 << bit) != 0 {
            bytes[bit / 8] |= 0x80 >> (bit % 8);
            last = Some(bit);
        }
    }
    match last {
        None => tlv(BIT_STRING, &[&[0]]),
        Some(last) => {
            let unused = u8::try_from(7 - last % 8).unwrap_or_default();
            tlv(BIT_STRING, &[&[unused], &bytes[..=last / 8]])
        }
    }
}

/// UTCTime up to 2049, GeneralizedTime from then on (RFC 5280, section 4.1.2.5).
pub(super) fn time(at: Timestamp) -> Vec<u8> {
    let year = at.strftime("%Y").to_string();
    if year.as_str() < "2050" {
        tlv(0x17, &[at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes()])
    } else {
        tlv(0x18, &[at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes()])
    }
}

/// One attribute of a name, alone in its set.
pub(super) fn attribute(kind: &[u8], value: &str) -> Vec<u8> {
    tlv(SET, &[&sequence(&[&oid(kind), &tlv(UTF8_STRING, &[value.as_bytes()])])])
}

/// An extension of a certificate.
pub(super) fn extension(kind: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    sequence(&[&oid(kind), critical, &tlv(OCTET_STRING, &[value])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_numbers_and_bits_are_minimal() {
        assert_eq!(tlv(4, &[&[1, 2]]), [4, 2, 1, 2]);
        assert_eq!(tlv(4, &[&[0; 200]])[..3], [4, 0x81, 200]);
        assert_eq!(tlv(4, &[&[0; 300]])[..4], [4, 0x82, 1, 44]);
        assert_eq!(integer(&[0, 0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(named_bits(0b101), [3, 2, 5, 0b1010_0000]);
        assert_eq!(named_bits(1 << 8), [3, 3, 7, 0, 0x80]);
    }

    #[test]
    fn times_change_their_form_in_2050() {
        let at = |text: &str| time(text.parse().unwrap());
        assert_eq!(at("2049-12-31T23:59:59Z"), [&[0x17, 13], &b"491231235959Z"[..]].concat());
        assert_eq!(at("2050-01-01T00:00:00Z"), [&[0x18, 15], &b"20500101000000Z"[..]].concat());
    }
}
