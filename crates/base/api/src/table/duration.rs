//! Ages in two or three significant figures: `2m5s`, `47h`, `3d4h`.

use jiff::Timestamp;

/// Whole seconds in the words that kubectl uses for ages.
pub fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    // Clocks of two machines may differ by a second or two.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match seconds.max(0) {
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

/// How long ago the RFC 3339 time was; none when it is no time.
pub(super) fn since(time: &str, now: Timestamp) -> Option<String> {
    between(time.parse().ok()?, now)
}

/// The time from one moment to another.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Option<String> {
    let milliseconds = to.as_millisecond().checked_sub(from.as_millisecond())?;
    Some(human(milliseconds / 1000))
}
