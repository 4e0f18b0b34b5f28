//! Resource quantities as integers: `100m`, `1.5Gi`, `2e3`.

/// The value of a quantity in thousandths, rounded up, or `None` when it is not a quantity.
///
/// Values beyond what fits are clamped, as Kubernetes does when it asks a quantity for an `int64`.
pub fn milli(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// The value of a quantity in whole units, rounded up, or `None` when it is not a quantity.
pub fn value(text: &str) -> Option<i64> {
    scaled(text, 1)
}

fn scaled(text: &str, scale: i128) -> Option<i64> {
    let text = text.trim();
    let split = text
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '-' || *c == '+'))))
        .map_or(text.len(), |(i, _)| i);
    let (number, suffix) = text.split_at(split);
    let (mantissa, decimals) = mantissa(number)?;
    let (numerator, denominator) = factor(suffix)?;
    let top = mantissa.checked_mul(numerator)?.checked_mul(scale)?;
    let bottom = denominator.checked_mul(10_i128.checked_pow(decimals)?)?;
    let rounded = top.div_euclid(bottom) + i128::from(top.rem_euclid(bottom) != 0);
    Some(i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX }))
}

/// Digits as an integer and the number of them behind the point.
fn mantissa(number: &str) -> Option<(i128, u32)> {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || digits.len() > 30 {
        return None;
    }
    let joined: String = [whole, fraction].concat();
    let value: i128 = if joined.is_empty() { 0 } else { joined.parse().ok()? };
    Some((sign * value, u32::try_from(fraction.len()).ok()?))
}

/// A suffix as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10_i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, size) } else { (size, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_every_notation() {
        for (text, want_milli, want) in [
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            ("1Ki", 1_024_000, 1024),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("2e3", 2_000_000, 2000),
            ("2E", 2_000_000_000_000_000_000_i64.saturating_mul(1000), 2_000_000_000_000_000_000),
            ("1n", 1, 1),
            ("-1", -1000, -1),
            (".5", 500, 1),
        ] {
            assert_eq!(milli(text), Some(want_milli), "{text}");
            assert_eq!(value(text), Some(want), "{text}");
        }
        for text in ["", "m", "1x", "1e", "--1", "1.2.3"] {
            assert_eq!(value(text), None, "{text:?}");
        }
    }
}
