//! Values that are one thing in JSON and a message in protobuf: times, durations, numbers or texts.

use serde_json::Value;

use super::{
    Outcome,
    facts::Kind,
    wire::{Reader, Wire, nested, number, text},
};

/// Units of Go's durations, in nanoseconds; longer names first where one begins another.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Text that came over the wire.
pub(super) fn text_of(bytes: &[u8]) -> Outcome<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "a text is not UTF-8")
}

/// Seconds and nanoseconds; nothing at all is no time.
pub(super) fn read_time(kind: Kind, bytes: &[u8]) -> Outcome<Option<Value>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.next()? {
        match (field, wire) {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = i32::try_from(value).map_err(|_| "a time is out of range")?,
            _ => {}
        }
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| "a time is out of range")?;
    let text = if kind == Kind::Time {
        sampan_daemon::clock::rfc3339(at)
    } else {
        sampan_daemon::clock::rfc3339_micro(at)
    };
    Ok(Some(text.into()))
}

/// Appends a time; an empty one is none.
pub(super) fn write_time(out: &mut Vec<u8>, field: u32, kind: Kind, value: &str) -> Outcome<()> {
    if value.is_empty() {
        return Ok(());
    }
    let at: jiff::Timestamp = value.parse().map_err(|_| "a time is not RFC 3339")?;
    let nanos = if kind == Kind::Time { 0 } else { at.subsec_nanosecond() };
    let mut seconds = at.as_second();
    if nanos < 0 {
        // Nanoseconds count forward, whatever the sign of the seconds.
        seconds -= 1;
    }
    let nanos = if nanos < 0 { 1_000_000_000 + nanos } else { nanos };
    nested(out, field, |out| {
        number(out, 1, seconds.cast_unsigned());
        number(out, 2, u64::from(nanos.unsigned_abs()));
        Ok(())
    })
}

/// Nanoseconds, written as Go writes a duration.
pub(super) fn read_duration(bytes: &[u8]) -> Outcome<Value> {
    let mut nanos = 0;
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.next()? {
        if let (1, Wire::Varint(value)) = (field, wire) {
            nanos = value.cast_signed();
        }
    }
    Ok(go_duration(nanos).into())
}

/// `1h0m30.5s`, as Go writes it.
pub(crate) fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let all = nanos.unsigned_abs();
    let small = |unit: u64, name: &str| {
        let digits = match unit {
            1 => 0,
            1_000 => 3,
            1_000_000 => 6,
            _ => 9,
        };
        let mut text = (all % (60 * 1_000_000_000) / unit).to_string();
        let part = format!("{:0digits$}", all % unit);
        if digits > 0 && !all.is_multiple_of(unit) {
            text.push('.');
            text.push_str(part.trim_end_matches('0'));
        }
        text + name
    };
    if all == 0 {
        return "0s".to_owned();
    }
    if all < 1_000 {
        return sign.to_owned() + &small(1, "ns");
    }
    if all < 1_000_000 {
        return sign.to_owned() + &small(1_000, "\u{b5}s");
    }
    if all < 1_000_000_000 {
        return sign.to_owned() + &small(1_000_000, "ms");
    }
    let seconds = small(1_000_000_000, "s");
    let (hours, minutes) = (all / 3_600_000_000_000, all / 60_000_000_000 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
    }
}

/// Appends a duration.
pub(super) fn write_duration(out: &mut Vec<u8>, field: u32, value: &str) -> Outcome<()> {
    let nanos = parse_duration(value).ok_or("a duration is none")?;
    nested(out, field, |out| {
        number(out, 1, nanos.cast_unsigned());
        Ok(())
    })
}

/// Nanoseconds of a duration as Go writes it.
fn parse_duration(value: &str) -> Option<i64> {
    let (sign, mut rest) = value.strip_prefix('-').map_or((1, value), |rest| (-1, rest));
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        // "m" is minutes unless an "s" follows.
        let (name, unit) = UNITS.iter().find(|(name, _)| rest.starts_with(name))?;
        total += amount * unit;
        rest = &rest[name.len()..];
    }
    (total < 9.2e18 && !value.is_empty()).then(|| sign * total.round() as i64)
}

/// All texts of field 1.
pub(super) fn read_texts(bytes: &[u8]) -> Outcome<Vec<String>> {
    let mut out = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.next()? {
        if let (1, Wire::Bytes(text)) = (field, wire) {
            out.push(text_of(text)?);
        }
    }
    Ok(out)
}

/// A number or a text.
pub(super) fn read_int_or_string(bytes: &[u8]) -> Outcome<Value> {
    let (mut is_text, mut number, mut text) = (false, 0_i64, String::new());
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.next()? {
        match (field, wire) {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(bytes)) => text = text_of(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// Appends a number or a text: `number` when there is no `value`.
pub(super) fn write_int_or_string(out: &mut Vec<u8>, field: u32, value: Result<&str, u64>) -> Outcome<()> {
    nested(out, field, |out| {
        match value {
            Ok(value) => {
                number(out, 1, 1);
                text(out, 3, value);
            }
            Err(value) => {
                number(out, 1, 0);
                number(out, 2, value);
            }
        }
        Ok(())
    })
}

/// JSON inside.
pub(super) fn read_raw(bytes: &[u8]) -> Outcome<Value> {
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.next()? {
        if let (1, Wire::Bytes(bytes)) = (field, wire) {
            return serde_json::from_slice(bytes).map_err(|_| "an embedded object is not JSON");
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5\u{b5}s"),
            (2_000_000, "2ms"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_661_001_000_000, "1h1m1.001s"),
            (-90_000_000_000, "-1m30s"),
        ] {
            assert_eq!(go_duration(nanos), text);
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
        }
        assert_eq!(parse_duration("5m"), Some(300_000_000_000));
        assert_eq!(parse_duration("nonsense"), None);
        assert_eq!(parse_duration(""), None);
    }

    #[test]
    fn times_come_back() {
        for text in
            ["2026-11-22T10:00:00.000001Z", "1969-12-31T23:59:59.500000Z", "1970-01-01T00:00:00.000000Z"]
        {
            let mut out = Vec::new();
            write_time(&mut out, 1, Kind::MicroTime, text).unwrap();
            let Some((1, Wire::Bytes(inner))) = Reader(&out).next().unwrap() else { panic!("no field") };
            assert_eq!(read_time(Kind::MicroTime, inner).unwrap(), Some(text.into()));
        }
    }
}
