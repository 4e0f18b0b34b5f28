//! The schedules of CronJobs: five fields or a descriptor, with the messages of the parser that Kubernetes uses.

use crate::status::go_quote;

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CronError(String);

/// A field: its bounds and the names that stand for numbers.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds {
        min: 1,
        max: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

/// Checks a schedule: minute, hour, day of month, month, day of week, or `@daily` and the like.
pub fn check_schedule(schedule: &str) -> Result<(), CronError> {
    if schedule.is_empty() {
        return Err(CronError("empty spec string".to_owned()));
    }
    let mut schedule = schedule;
    if schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=") {
        // The time zone is refused elsewhere; the rest still has to be a schedule.
        schedule = schedule.split_once(' ').map(|(_, rest)| rest.trim()).unwrap_or_default();
    }
    if schedule.starts_with('@') {
        return descriptor(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let found = fields.len();
        let list = fields.join(" ");
        return Err(CronError(format!("expected exactly 5 fields, found {found}: [{list}]")));
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        for part in field.split(',').filter(|part| !part.is_empty()) {
            range(part, bounds)?;
        }
    }
    Ok(())
}

fn descriptor(schedule: &str) -> Result<(), CronError> {
    let known = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if known.contains(&schedule) {
        return Ok(());
    }
    let Some(duration) = schedule.strip_prefix("@every ") else {
        return Err(CronError(format!("unrecognized descriptor: {schedule}")));
    };
    if is_duration(duration) {
        return Ok(());
    }
    let quoted = go_quote(duration);
    Err(CronError(format!("failed to parse duration {schedule}: time: invalid duration {quoted}")))
}

/// `1h30m`, as Go reads it.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if digits.len() == rest.len() {
            return false;
        }
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"].iter().find_map(|u| digits.strip_prefix(u));
        match unit {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

fn range(part: &str, bounds: &Bounds) -> Result<(), CronError> {
    let steps: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = steps.first().copied().unwrap_or_default().split('-').collect();
    let single = ends.len() == 1;
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?", ..] => (bounds.min, bounds.max),
        [one] => {
            let one = number_or_name(one, bounds)?;
            (one, one)
        }
        [first, last] => (number_or_name(first, bounds)?, number_or_name(last, bounds)?),
        _ => return Err(CronError(format!("too many hyphens: {part}"))),
    };
    let step = match steps.as_slice() {
        [_] => 1,
        [_, step] => {
            if single {
                end = bounds.max;
            }
            number(step)?
        }
        _ => return Err(CronError(format!("too many slashes: {part}"))),
    };
    let (min, max) = (bounds.min, bounds.max);
    if start < min {
        return Err(CronError(format!("beginning of range ({start}) below minimum ({min}): {part}")));
    }
    if end > max {
        return Err(CronError(format!("end of range ({end}) above maximum ({max}): {part}")));
    }
    if start > end {
        return Err(CronError(format!("beginning of range ({start}) beyond end of range ({end}): {part}")));
    }
    if step == 0 {
        return Err(CronError(format!("step of range should be a positive number: {part}")));
    }
    Ok(())
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u32, CronError> {
    let lower = text.to_lowercase();
    if let Some(index) = bounds.names.iter().position(|name| *name == lower) {
        return Ok(bounds.min + u32::try_from(index).unwrap_or_default());
    }
    number(text)
}

fn number(text: &str) -> Result<u32, CronError> {
    let wrong = |why: &str| {
        let quoted = go_quote(text);
        CronError(format!("failed to parse int from {text}: strconv.Atoi: parsing {quoted}: {why}"))
    };
    let value: i64 = match text.parse() {
        Ok(value) => value,
        Err(error) if matches!(error.kind(), std::num::IntErrorKind::PosOverflow) => {
            return Err(wrong("value out of range"));
        }
        Err(_) => return Err(wrong("invalid syntax")),
    };
    if value < 0 {
        return Err(CronError(format!("negative number ({value}) not allowed: {text}")));
    }
    Ok(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Areas of the world that the names of time zones begin with, and the names that stand alone.
const AREAS: &str = "Africa America Antarctica Arctic Asia Atlantic Australia Brazil Canada Chile Etc Europe Indian \
    Mexico Pacific US";
const ALONE: &str = "UTC GMT GMT0 GMT+0 GMT-0 UCT Zulu Universal Greenwich CET CST6CDT Cuba EET EST EST5EDT Egypt \
    Eire GB GB-Eire HST Hongkong Iceland Iran Israel Jamaica Japan Kwajalein Libya MET MST MST7MDT NZ NZ-CHAT Navajo \
    PRC PST8PDT Poland Portugal ROC ROK Singapore Turkey W-SU WET Factory Local local";

/// What is wrong with the name of a time zone. Names are checked by form and area: which cities an area has is not
/// known here.
pub(super) fn time_zone(zone: &str) -> Vec<String> {
    if zone.is_empty() {
        return vec!["timeZone must be nil or non-empty string".to_owned()];
    }
    let fits = |part: &str| {
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_+".contains(&c))
    };
    let known = match zone.split_once('/') {
        Some((area, _)) => AREAS.split_whitespace().any(|a| a == area),
        None => ALONE.split_whitespace().any(|a| a == zone),
    };
    if !zone.split('/').all(fits) || !known {
        return vec![format!("unknown time zone {zone}")];
    }
    if zone.eq_ignore_ascii_case("local") {
        let sentence = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return vec![sentence.to_owned()];
    }
    Vec::new()
}
