//! Points and spans of time, as Go writes and reads them.

use jiff::Timestamp;

/// Nanoseconds of a second.
pub(crate) const SECOND: i64 = 1_000_000_000;
/// Unix seconds of 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Reads a duration: `1h30m`, `-1.5s`, `100ms`, `0`.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
        let (unit, tail) = tail.split_at(unit_len);
        total = total.checked_add(part(number, unit)?)?;
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn part(number: &str, unit: &str) -> Option<i128> {
    let scale: i128 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 20 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(15)];
    let digits: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let divisor = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(scale)?.checked_add(digits * scale / divisor)
}

/// The text of a duration in seconds, as CEL converts it to a string.
pub(crate) fn show_duration(nanos: i64) -> String {
    let seconds = nanos as f64 / SECOND as f64;
    format!("{seconds}s")
}

/// Reads an RFC 3339 date and time within CEL's range.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 20
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && bytes[10] == b'T'
        && bytes[13] == b':'
        && bytes[16] == b':'
        && bytes[..4].iter().all(u8::is_ascii_digit);
    if !shape {
        return None;
    }
    text.parse::<Timestamp>().ok().filter(in_range)
}

/// Whether expressions may hold it.
pub(crate) fn in_range(at: &Timestamp) -> bool {
    RANGE.contains(&at.as_second())
}

/// A point in time out of seconds since 1970.
pub(crate) fn from_seconds(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(seconds).ok().filter(in_range)
}

/// RFC 3339, with as many digits of the second as it has.
pub(crate) fn show_timestamp(at: &Timestamp) -> String {
    at.to_string()
}

/// The point in time, moved.
pub(crate) fn shift(at: Timestamp, nanos: i128) -> Option<Timestamp> {
    let moved = at.as_nanosecond().checked_add(nanos)?;
    Timestamp::from_nanosecond(moved).ok().filter(in_range)
}
