//! The one clock: wall time for what people read, in the two forms that the Kubernetes API prints.

use jiff::{Timestamp, Unit};

/// The current wall time.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// `metav1.Time`: RFC 3339 in UTC with whole seconds, `2006-01-02T15:04:05Z`.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// `metav1.MicroTime`: RFC 3339 in UTC with exactly six fractional digits, `2006-01-02T15:04:05.000000Z`.
#[must_use]
pub fn rfc3339_micro(at: Timestamp) -> String {
    let at = at.round(Unit::Microsecond).unwrap_or(at);
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_fixed_precision() {
        let at: Timestamp = "2026-11-22T09:00:01.250Z".parse().unwrap();
        assert_eq!(rfc3339(at), "2026-11-22T09:00:01Z");
        assert_eq!(rfc3339_micro(at), "2026-11-22T09:00:01.250000Z");
        let whole: Timestamp = "2026-11-22T09:00:01Z".parse().unwrap();
        assert_eq!(rfc3339_micro(whole), "2026-11-22T09:00:01.000000Z");
    }
}
