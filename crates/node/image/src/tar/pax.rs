//! PAX extended header records.

use super::TarError;

/// Records of one extended header, in order.
pub(crate) type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Parse `length key=value\n` records; values may hold any byte.
pub(crate) fn parse(mut data: &[u8]) -> Result<Records, TarError> {
    let bad = || TarError::Bad("malformed PAX header".into());
    let mut records = Vec::new();
    while !data.is_empty() && data[0] != 0 {
        let space = data.iter().take(20).position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize =
            std::str::from_utf8(&data[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        data = &data[length..];
    }
    Ok(records)
}

/// Append one record, whose length counts its own digits.
pub(crate) fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let base = key.len() + value.len() + 3;
    let mut length = base + digits(base);
    if base + digits(length) > length {
        length = base + digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// `seconds[.fraction]`, possibly negative.
pub(crate) fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut nanos = 0u32;
    for place in 0..9 {
        nanos = nanos * 10 + fraction.as_bytes().get(place).map_or(0, |digit| u32::from(digit - b'0'));
    }
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds - 1, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let mut out = Vec::new();
        let long = vec![b'x'; 995];
        let records: Records = vec![
            (b"path".to_vec(), b"a\nb=c".to_vec()),
            (b"k".to_vec(), long),
            (b"SCHILY.xattr.u".to_vec(), vec![0, 10, 255]),
        ];
        for (key, value) in &records {
            push(&mut out, key, value);
        }
        assert_eq!(parse(&out).unwrap(), records);
        for bad in ["5 a=b", "0 a=b\n", "99 a=b\n", "x a=b\n", "6 abc\n", "999999999999999999999 a=b\n"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"7"), Some((7, 0)));
        assert_eq!(time(b"7.x"), None);
    }
}
