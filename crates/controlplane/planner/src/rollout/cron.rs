//! Cron schedules: five fields, names, steps, and the `@daily` words, in a time zone.

use k8s_openapi::jiff::civil::{Date, DateTime};
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{Timestamp, ToSpan};

/// A parsed schedule. Each field is a bit set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Day of month or day of week is `*`: then the other alone decides, else either of them.
    any_day: bool,
    every: Option<i64>,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// How many missed times are counted before giving up.
const TOO_MANY: usize = 100;

impl Schedule {
    /// Parses a schedule; the error says which field is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(period) = text.strip_prefix("@every ") {
            return Self::every(period);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {text:?}", fields.len()));
        };
        let star = |field: &str| field.starts_with('*') || field.starts_with('?');
        let mut weekdays_set = set(weekdays, 0, 7, &WEEKDAYS, 0)?;
        // 7 is Sunday as well.
        weekdays_set = (weekdays_set | (weekdays_set >> 7)) & 0x7f;
        Ok(Self {
            minutes: set(minutes, 0, 59, &[], 0)?,
            hours: set(hours, 0, 23, &[], 0)?,
            days: set(days, 1, 31, &[], 0)?,
            months: set(months, 1, 12, &MONTHS, 1)?,
            weekdays: weekdays_set,
            any_day: star(days) || star(weekdays),
            every: None,
        })
    }

    fn every(period: &str) -> Result<Self, String> {
        let wrong = || format!("not a period: {period:?} (hint: like 90s, 5m or 1h30m)");
        let (mut total, mut number) = (0.0_f64, String::new());
        let mut letters = period.trim().chars().peekable();
        while let Some(letter) = letters.next() {
            let unit = match letter {
                'h' => 3600.0,
                'm' if letters.next_if_eq(&'s').is_some() => 0.001,
                'm' => 60.0,
                's' => 1.0,
                digit if digit.is_ascii_digit() || digit == '.' => {
                    number.push(digit);
                    continue;
                }
                _ => return Err(wrong()),
            };
            let count: f64 = number.parse().map_err(|_| wrong())?;
            total += count * unit;
            number.clear();
        }
        if total <= 0.0 || total > 1e10 || !number.is_empty() {
            return Err(wrong());
        }
        // Whole seconds, at least one.
        let total = (total as i64).max(1);
        Ok(Self { minutes: 0, hours: 0, days: 0, months: 0, weekdays: 0, any_day: true, every: Some(total) })
    }

    /// The first time after `after`; `None` when there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Some(seconds) = self.every {
            return after
                .checked_add(seconds.seconds())
                .ok()
                .and_then(|t| Timestamp::from_second(t.as_second()).ok());
        }
        let start = zone.to_datetime(after);
        let mut date = start.date();
        let last_year = date.year().checked_add(5)?;
        let mut from = (start.hour(), start.minute());
        while date.year() <= last_year {
            if self.has_day(date) {
                let found = if turns_clocks(date, zone) {
                    self.on_odd_day(date, after, zone)
                } else {
                    let mut exact = self.times(date, from).filter_map(|at| zone.to_timestamp(at).ok());
                    exact.find(|at| *at > after)
                };
                if found.is_some() {
                    return found;
                }
            }
            from = (0, 0);
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// On a day when clocks are turned: a time that they jump over does not exist, and one that comes twice counts
    /// twice.
    fn on_odd_day(&self, date: Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let both = self.times(date, (0, 0)).flat_map(|at| {
            let ambiguous = zone.to_ambiguous_timestamp(at);
            let exact = [ambiguous.earlier().ok(), zone.to_ambiguous_timestamp(at).later().ok()];
            exact.into_iter().flatten().filter(move |exact| zone.to_datetime(*exact) == at)
        });
        both.filter(|at| *at > after).min()
    }

    /// The last time after `after` and not after `now`, and how many there were; `None` when there was none.
    /// Of very many only the count "more than a hundred" is exact enough: then the last is looked for near now.
    pub fn latest(&self, after: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<(Timestamp, usize)> {
        let mut latest = None;
        let mut at = after;
        for count in 1..=TOO_MANY {
            match self.next(at, zone).filter(|next| *next <= now) {
                None => return latest,
                Some(next) => {
                    latest = Some((next, count));
                    at = next;
                }
            }
        }
        // Halve the way to now until few are left.
        let (mut low, mut high) = (at.as_second(), now.as_second());
        while low < high {
            let middle = low + (high - low + 1) / 2;
            let start = Timestamp::from_second(middle - 1).ok()?;
            if self.next(start, zone).is_some_and(|next| next <= now) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        let start = Timestamp::from_second(low - 1).ok()?;
        self.next(start, zone).map(|last| (last, TOO_MANY + 1))
    }

    fn has_day(&self, date: Date) -> bool {
        let has = |set: u64, value: i8| set & (1 << value) != 0;
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.any_day { day && weekday } else { day || weekday }
    }

    fn times(&self, date: Date, from: (i8, i8)) -> impl Iterator<Item = DateTime> + '_ {
        let hours = (0..24_i8).filter(move |h| self.hours & (1 << h) != 0 && *h >= from.0);
        hours.flat_map(move |hour| {
            let minutes = (0..60_i8).filter(move |m| self.minutes & (1 << m) != 0);
            minutes.filter(move |m| (hour, *m) >= from).map(move |minute| date.at(hour, minute, 0, 0))
        })
    }
}

/// Whether the day is not as long as others.
fn turns_clocks(date: Date, zone: &TimeZone) -> bool {
    let offset = |date: Date| {
        let midnight = zone.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
        Some(zone.to_offset(midnight))
    };
    date.tomorrow().ok().is_none_or(|next| offset(date) != offset(next))
}

/// One field: a list of `*`, values, ranges, each with an optional step.
fn set(field: &str, low: u32, high: u32, names: &[&str], first: u32) -> Result<u64, String> {
    let mut bits = 0_u64;
    for part in field.split(',') {
        let wrong = || format!("not understood: {part:?} in field {field:?}");
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                (range, Some(step.parse::<u32>().ok().filter(|s| *s > 0).ok_or_else(wrong)?))
            }
            None => (part, None),
        };
        let value = |text: &str| -> Result<u32, String> {
            let lower = text.to_ascii_lowercase();
            let named = names.iter().position(|n| *n == lower).and_then(|at| u32::try_from(at).ok());
            let value = named.map(|at| at + first).or_else(|| text.parse().ok()).ok_or_else(wrong)?;
            if (low..=high).contains(&value) { Ok(value) } else { Err(wrong()) }
        };
        let (from, to) = match range {
            "*" | "?" => (low, high.min(if names.len() == 7 { 6 } else { high })),
            _ => match range.split_once('-') {
                Some((from, to)) => (value(from)?, value(to)?),
                // `5/15` goes on to the end.
                None => (value(range)?, if step.is_some() { high } else { value(range)? }),
            },
        };
        if from > to {
            return Err(wrong());
        }
        (from..=to).step_by(step.unwrap_or(1) as usize).for_each(|v| bits |= 1 << v);
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = if zone.is_empty() { TimeZone::UTC } else { TimeZone::posix(zone).unwrap() };
        let schedule = Schedule::parse(schedule).unwrap();
        schedule.next(after.parse().unwrap(), &zone).map(|t| t.to_string()).unwrap_or_default()
    }

    #[test]
    fn next_times() {
        for (schedule, after, want) in [
            ("*/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"),
            ("0 9-17/4 * * mon-fri", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@hourly", "2026-01-01T23:59:59Z", "2026-01-02T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
            ("@every 1.5h", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
            ("@every 100ms", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", ""),
        ] {
            assert_eq!(next(schedule, after, ""), want, "{schedule}");
        }
        // Central Europe: 02:30 does not exist on 29 March 2026; 09:00 is 08:00 UTC in winter.
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00Z", berlin), "2026-03-30T00:30:00Z");
        assert_eq!(next("0 9 * * *", "2026-01-01T08:00:00Z", berlin), "2026-01-02T08:00:00Z");
        // Whatever runs each quarter of an hour runs through both changes: 25 October 2026 has two hours from two to three.
        for (day, quarters) in [("2026-03-28T23:00:00Z", 92), ("2026-10-24T22:00:00Z", 100)] {
            let mut at = day.parse::<Timestamp>().unwrap();
            let zone = TimeZone::posix(berlin).unwrap();
            let schedule = Schedule::parse("*/15 * * * *").unwrap();
            for _ in 0..quarters {
                let next = schedule.next(at, &zone).unwrap();
                assert_eq!(next.duration_since(at).as_secs(), 900, "after {at}");
                at = next;
            }
            assert_eq!(zone.to_datetime(at).hour(), 0);
        }
        let twice = "30 2 * * *";
        assert_eq!(next(twice, "2026-10-24T22:00:00Z", berlin), "2026-10-25T00:30:00Z");
        assert_eq!(next(twice, "2026-10-25T00:30:00Z", berlin), "2026-10-25T01:30:00Z");
        assert_eq!(next(twice, "2026-10-25T01:30:00Z", berlin), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* * * * xyz",
            "5-1 * * * *",
            "*/0 * * * *",
            "@every 5",
            "* * 0 * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_latest_of_few_and_of_many() {
        let schedule = Schedule::parse("*/5 * * * *").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let utc = TimeZone::UTC;
        let start = at("2026-01-01T00:00:00Z");
        assert_eq!(schedule.latest(start, at("2026-01-01T00:04:00Z"), &utc), None);
        assert_eq!(
            schedule.latest(start, at("2026-01-01T00:11:00Z"), &utc),
            Some((at("2026-01-01T00:10:00Z"), 2))
        );
        let month = schedule.latest(start, at("2026-02-01T00:03:00Z"), &utc);
        assert_eq!(month, Some((at("2026-02-01T00:00:00Z"), TOO_MANY + 1)));
    }
}
