//! Resource quantities as integers: `100m`, `1.5Gi`, `2e3`.

use sampan_api::quantity::Quantity;

/// The value of a quantity in thousandths, rounded up, or `None` when it is not a quantity.
///
/// Values beyond what fits are clamped, as Kubernetes does when it asks a quantity for an `int64`.
pub fn milli(text: &str) -> Option<i64> {
    Some(Quantity::parse(text.trim()).ok()?.to_milli())
}

/// The value of a quantity in whole units, rounded up, or `None` when it is not a quantity.
pub fn value(text: &str) -> Option<i64> {
    Some(Quantity::parse(text.trim()).ok()?.to_units())
}

/// The value of a quantity as a floating point number, or `None` when it is not a quantity.
pub fn number(text: &str) -> Option<f64> {
    Some(Quantity::parse(text.trim()).ok()?.to_f64())
}

/// So many thousandths, as Kubernetes writes them.
pub fn of_milli(milli: i64) -> String {
    Quantity::from_milli(milli).canonical()
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
