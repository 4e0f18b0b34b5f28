//! Parts of points and spans of time.

use jiff::{Timestamp, tz::Offset};

use super::{Context, Implementation};
use crate::{
    error::EvalError,
    eval::no_overload,
    value::{Value, time::SECOND},
};

type Result<T> = std::result::Result<T, EvalError>;

pub(super) fn find(name: &str) -> Option<Implementation> {
    use jiff::civil::DateTime;
    Some(match name {
        "getFullYear" => |_, args| of_timestamp(&args, |at: DateTime| i64::from(at.year())),
        "getMonth" => |_, args| of_timestamp(&args, |at: DateTime| i64::from(at.month()) - 1),
        "getDayOfYear" => |_, args| of_timestamp(&args, |at: DateTime| i64::from(at.day_of_year()) - 1),
        "getDayOfMonth" => |_, args| of_timestamp(&args, |at: DateTime| i64::from(at.day()) - 1),
        "getDate" => |_, args| of_timestamp(&args, |at: DateTime| i64::from(at.day())),
        "getDayOfWeek" => {
            |_, args| of_timestamp(&args, |at: DateTime| i64::from(at.weekday().to_sunday_zero_offset()))
        }
        "getHours" => |_, args| either(&args, |at| i64::from(at.hour()), 3600 * SECOND),
        "getMinutes" => |_, args| either(&args, |at| i64::from(at.minute()), 60 * SECOND),
        "getSeconds" => |_, args| either(&args, |at| i64::from(at.second()), SECOND),
        "getMilliseconds" => milliseconds,
        _ => return None,
    })
}

fn of_timestamp<'a>(args: &[Value<'_>], part: fn(jiff::civil::DateTime) -> i64) -> Result<Value<'a>> {
    let (at, zone) = match args {
        [Value::Timestamp(at)] => (at, None),
        [Value::Timestamp(at), Value::String(zone)] => (at, Some(&**zone)),
        _ => return Err(no_overload()),
    };
    Ok(Value::Int(part(local(*at, zone)?)))
}

fn either<'a>(args: &[Value<'_>], part: fn(jiff::civil::DateTime) -> i64, unit: i64) -> Result<Value<'a>> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        args => of_timestamp(args, part),
    }
}

fn milliseconds<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    either(&args, |at| i64::from(at.millisecond()), SECOND / 1000)
}

/// The time on the clocks of a zone: an offset (`-08:00`), `UTC`, or a name that this machine knows.
fn local(at: Timestamp, zone: Option<&str>) -> Result<jiff::civil::DateTime> {
    let unknown = |zone: &str| EvalError::new(format!("unknown time zone {zone}"));
    let zone = match zone {
        None | Some("" | "UTC" | "Z") => return Ok(Offset::UTC.to_datetime(at)),
        Some(zone) => zone,
    };
    let (sign, rest) = match zone.as_bytes()[0] {
        b'-' => (-1, &zone[1..]),
        b'+' => (1, &zone[1..]),
        _ => (1, zone),
    };
    if let Some((hours, minutes)) = rest.split_once(':') {
        let (Ok(hours), Ok(minutes)) = (hours.parse::<u8>(), minutes.parse::<u8>()) else {
            return Err(unknown(zone));
        };
        let seconds = sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60);
        return Offset::from_seconds(seconds).map(|o| o.to_datetime(at)).map_err(|_| unknown(zone));
    }
    let zone = jiff::tz::TimeZone::get(zone).map_err(|_| unknown(zone))?;
    Ok(zone.to_datetime(at))
}
