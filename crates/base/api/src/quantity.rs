//! Resource quantities (`100m`, `1.5Gi`, `2e3`): exact parsing, the canonical form, comparison and arithmetic.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// The largest quantity, in whole units, as upstream caps it.
const MAX_UNITS: i128 = i64::MAX as i128;
const NANO: i128 = 1_000_000_000;
const MAX_NANOS: i128 = MAX_UNITS * NANO;

/// Why a text is no quantity. The messages are Kubernetes'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is none of those known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// In which family of suffixes a quantity was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// `m`, `k`, `M`, `G`...
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, `Gi`...
    BinarySi,
    /// `e3`, `E6`...
    DecimalExponent,
}

/// An amount of a resource, exact to a billionth, at most 2^63-1 units (larger ones are capped, smaller parts are
/// rounded away from zero, as upstream does).
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    form: Form,
}

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity { nanos: 0, form: Form::DecimalSi };

    /// So many whole units.
    pub fn from_units(units: i64) -> Quantity {
        Quantity { nanos: i128::from(units) * NANO, form: Form::DecimalSi }
    }

    /// So many thousandths: millicores of CPU.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nanos: i128::from(milli) * 1_000_000, form: Form::DecimalSi }
    }

    /// So many bytes, shown with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Quantity {
        Quantity { nanos: i128::from(bytes) * NANO, form: Form::BinarySi }
    }

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Quantity, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let (negative, digits) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            all => (false, all),
        };
        let whole_len = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        let (whole, rest) = digits.split_at(whole_len);
        let (fraction, suffix) = match rest {
            [b'.', rest @ ..] => rest.split_at(rest.iter().take_while(|b| b.is_ascii_digit()).count()),
            rest => (&[][..], rest),
        };
        if whole.is_empty() && fraction.is_empty() && !digits.is_empty() && digits[0] != b'.' {
            return Err(ParseError::Format);
        }
        check_suffix_letters(suffix)?;
        let (form, scale) = interpret(suffix).ok_or(ParseError::Suffix)?;
        let nanos = magnitude(whole, fraction, scale);
        let form = if form == Form::BinarySi && nanos < NANO { Form::DecimalSi } else { form };
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, form })
    }

    /// Reads a quantity out of a JSON value: text or number.
    pub fn from_value(value: &serde_json::Value) -> Option<Quantity> {
        match value {
            serde_json::Value::String(text) => Quantity::parse(text).ok(),
            serde_json::Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
            _ => None,
        }
    }

    /// In whole units, rounded up (away from zero): bytes of memory, counts.
    pub fn to_units(&self) -> i64 {
        clamp(ceil(self.nanos, NANO))
    }

    /// In bytes, rounded up: the same as [`Quantity::to_units`].
    pub fn to_bytes(&self) -> i64 {
        self.to_units()
    }

    /// In thousandths, rounded up and capped: millicores of CPU.
    pub fn to_milli(&self) -> i64 {
        clamp(ceil(self.nanos, 1_000_000))
    }

    /// In units, as a floating point number.
    pub fn to_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        i32::from(self.nanos > 0) - i32::from(self.nanos < 0)
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The family of suffixes in which it is shown.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The text in which Kubernetes keeps and shows it: `1500m`, `2Gi`, `1e3`.
    pub fn canonical(&self) -> String {
        if self.nanos == 0 {
            return "0".to_owned();
        }
        let small = self.nanos.abs() < 1024 * NANO;
        match self.form {
            Form::BinarySi if !small && self.is_whole() => binary(self.nanos / NANO),
            Form::DecimalExponent => {
                let (mantissa, exponent) = thousands(self.nanos);
                if exponent == 0 { mantissa.to_string() } else { format!("{mantissa}e{exponent}") }
            }
            _ => {
                let (mantissa, exponent) = thousands(self.nanos);
                format!("{mantissa}{}", decimal_suffix(exponent))
            }
        }
    }

    fn with(self, nanos: i128, other: Quantity) -> Quantity {
        let form = if self.nanos == 0 { other.form } else { self.form };
        Quantity { nanos: nanos.clamp(-MAX_NANOS, MAX_NANOS), form }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        self.with(self.nanos + other.nanos, other)
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self.with(self.nanos - other.nanos, other)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nanos: -self.nanos, form: self.form }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.canonical())
    }
}

impl std::str::FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Quantity::parse(text)
    }
}

/// How a suffix scales: by powers of ten, or of two.
enum Scale {
    Ten(i64),
    Two(u32),
}

/// A suffix is letters of the known ones, then perhaps a sign, then digits; anything else is no quantity at all.
fn check_suffix_letters(suffix: &[u8]) -> Result<(), ParseError> {
    let letters = suffix.iter().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let rest = match &suffix[letters..] {
        [b'+' | b'-', rest @ ..] => rest,
        rest => rest,
    };
    if rest.iter().all(u8::is_ascii_digit) { Ok(()) } else { Err(ParseError::Format) }
}

fn interpret(suffix: &[u8]) -> Option<(Form, Scale)> {
    Some(match suffix {
        b"n" => (Form::DecimalSi, Scale::Ten(-9)),
        b"u" => (Form::DecimalSi, Scale::Ten(-6)),
        b"m" => (Form::DecimalSi, Scale::Ten(-3)),
        b"" => (Form::DecimalSi, Scale::Ten(0)),
        b"k" => (Form::DecimalSi, Scale::Ten(3)),
        b"M" => (Form::DecimalSi, Scale::Ten(6)),
        b"G" => (Form::DecimalSi, Scale::Ten(9)),
        b"T" => (Form::DecimalSi, Scale::Ten(12)),
        b"P" => (Form::DecimalSi, Scale::Ten(15)),
        b"E" => (Form::DecimalSi, Scale::Ten(18)),
        b"Ki" => (Form::BinarySi, Scale::Two(10)),
        b"Mi" => (Form::BinarySi, Scale::Two(20)),
        b"Gi" => (Form::BinarySi, Scale::Two(30)),
        b"Ti" => (Form::BinarySi, Scale::Two(40)),
        b"Pi" => (Form::BinarySi, Scale::Two(50)),
        b"Ei" => (Form::BinarySi, Scale::Two(60)),
        [b'e' | b'E', exponent @ ..] => {
            let exponent = std::str::from_utf8(exponent).ok()?.parse::<i64>().ok()?;
            (Form::DecimalExponent, Scale::Ten(exponent))
        }
        _ => return None,
    })
}

/// `whole.fraction` scaled, in billionths: rounded up, capped. Past the 38th digit (the 20th under a binary suffix)
/// digits only count as more than nothing, which is below what can be held.
fn magnitude(whole: &[u8], fraction: &[u8], scale: Scale) -> i128 {
    let (ten, two) = match scale {
        Scale::Ten(ten) => (ten, 0),
        Scale::Two(two) => (0, two),
    };
    let kept = if two == 0 { 38 } else { 20 };
    let mut digits = whole.iter().chain(fraction).map(|b| u128::from(b - b'0')).skip_while(|d| *d == 0);
    let number = digits.by_ref().take(kept).fold(0_u128, |sum, digit| sum * 10 + digit);
    if number == 0 {
        return 0;
    }
    let (dropped, more) = digits.fold((0_i64, false), |(count, more), d| (count + 1, more || d != 0));
    let fraction_len = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let exponent = ten.saturating_sub(fraction_len).saturating_add(9).saturating_add(dropped);
    let power = u32::try_from(exponent.unsigned_abs()).ok().and_then(|e| 10_u128.checked_pow(e));
    let scaled = number << two;
    let nanos = match (exponent >= 0, power) {
        (true, Some(power)) => scaled.saturating_mul(power),
        (true, None) => u128::MAX,
        (false, Some(power)) => {
            let whole = scaled / power;
            whole + u128::from(more || scaled % power != 0)
        }
        (false, None) => 1,
    };
    i128::try_from(nanos).unwrap_or(MAX_NANOS).min(MAX_NANOS)
}

/// Divides, rounding away from zero.
fn ceil(value: i128, by: i128) -> i128 {
    value / by + i128::from(value % by != 0) * value.signum()
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Takes out factors of a thousand: mantissa and power of ten.
fn thousands(nanos: i128) -> (i128, i32) {
    let (mut mantissa, mut exponent) = (nanos, -9);
    while mantissa % 1000 == 0 && exponent < 18 {
        mantissa /= 1000;
        exponent += 3;
    }
    (mantissa, exponent)
}

fn decimal_suffix(exponent: i32) -> &'static str {
    match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => "",
    }
}

fn binary(units: i128) -> String {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let (mut mantissa, mut power) = (units, 0);
    while mantissa % 1024 == 0 && power + 1 < SUFFIXES.len() {
        mantissa /= 1024;
        power += 1;
    }
    format!("{mantissa}{}", SUFFIXES[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).unwrap().canonical()
    }

    #[test]
    fn canonical_forms_are_those_of_kubernetes() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("0Gi", "0"),
            ("0.0", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("1000k", "1M"),
            ("1e3", "1e3"),
            ("1E6", "1e6"),
            ("1e2", "100"),
            ("12e-1", "1200e-3"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("100u", "100u"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-1.5", "-1500m"),
            ("+2", "2"),
            ("1.", "1"),
            (".5", "500m"),
            ("1E", "1E"),
            ("7Ei", "7Ei"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("00012", "12"),
            ("0.000000000001", "1n"),
            ("2048Ki", "2Mi"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn bad_ones_are_refused_with_upstreams_words() {
        for text in ["", " 1", "1 ", "abc", "1.2.3", "--1", "1x", "1Gi5x", "0x10", "1e3.5"] {
            assert_eq!(Quantity::parse(text).map(|q| q.canonical()), Err(ParseError::Format), "{text}");
        }
        for text in ["1KK", "1mm", "1i", "1Gm", "1GiMi", "1ee3", "1e", "1e99999999999999999999"] {
            assert_eq!(Quantity::parse(text).map(|q| q.canonical()), Err(ParseError::Suffix), "{text}");
        }
    }

    #[test]
    fn absurd_ones_are_capped_not_fatal() {
        assert_eq!(canonical(&"9".repeat(5000)), "9223372036854775807");
        assert_eq!(canonical(&format!("0.{}1", "0".repeat(5000))), "1n");
        assert_eq!(canonical("1e9223372036854775807").len(), "9223372036854775807".len());
        assert_eq!(canonical("1e-9223372036854775808"), "1e-9");
    }

    #[test]
    fn arithmetic_and_units() {
        let q = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(q("1").to_milli(), 1000);
        assert_eq!(q("1100m").to_units(), 2);
        assert_eq!(q("-1100m").to_units(), -2);
        assert_eq!(q("1Gi").to_bytes(), 1 << 30);
        assert_eq!((q("500m") + q("1.5")).canonical(), "2");
        assert_eq!((q("1Gi") - q("512Mi")).canonical(), "512Mi");
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1"));
        let mut sum = Quantity::ZERO;
        sum += q("100Mi");
        sum += q("28Mi");
        assert_eq!(sum.canonical(), "128Mi");
    }
}
