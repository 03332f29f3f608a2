//! `strftime_now` for templates that tell the model what day it is, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The present time in `format`.
pub(super) fn now(format: String) -> Result<String, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    at(&format, now.as_secs()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know {format:?}"))
    })
}

/// The time `unix_s` seconds after 1970 in `format`; absent for an unknown directive.
fn at(format: &str, unix_s: u64) -> Option<String> {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = civil(days);
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let before: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let day_of_year = before[month - 1] + day + u64::from(month > 2 && is_leap);
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let week_day = usize::try_from((days + 4) % 7).ok()?;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let mut directive = chars.next()?;
        let is_bare = directive == '-';
        if is_bare {
            directive = chars.next()?;
        }
        let pad = |value: u64| if is_bare { value.to_string() } else { format!("{value:02}") };
        let text = match directive {
            'Y' => year.to_string(),
            'y' => pad(year % 100),
            'm' => pad(month as u64),
            'd' => pad(day),
            'e' => format!("{day:2}"),
            'H' => pad(hour),
            'I' => pad(twelve),
            'M' => pad(minute),
            'S' => pad(second % 60),
            'j' if is_bare => day_of_year.to_string(),
            'j' => format!("{day_of_year:03}"),
            'p' => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
            'B' => MONTHS[month - 1].to_owned(),
            'b' | 'h' => MONTHS[month - 1][..3].to_owned(),
            'A' => DAYS[week_day].to_owned(),
            'a' => DAYS[week_day][..3].to_owned(),
            'w' => week_day.to_string(),
            'F' => at("%Y-%m-%d", unix_s)?,
            'T' => at("%H:%M:%S", unix_s)?,
            'D' => at("%m/%d/%y", unix_s)?,
            'R' => at("%H:%M", unix_s)?,
            's' => unix_s.to_string(),
            'Z' | 'z' => String::new(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        };
        out.push_str(&text);
    }
    Some(out)
}

/// Year, month from 1 and day from 1 of a day counted from 1970-01-01.
///
/// Counts in eras of 400 years that begin on the 1st of March, so leap days end a year.
fn civil(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, usize::try_from(month).unwrap_or(1), day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(unix_s: u64, format: &str, expected: Option<&str>) {
        assert_eq!(at(format, unix_s).as_deref(), expected, "{format} at {unix_s}");
    }

    #[test]
    fn times_are_written_like_pythons() {
        check(0, "%Y-%m-%d %H:%M:%S %A %j", Some("1970-01-01 00:00:00 Thursday 001"));
        check(951_827_696, "%d %B %Y, %a %I:%M %p", Some("29 February 2000, Tue 12:34 PM"));
        check(951_827_696, "%-d/%-m/%y %j %F %T", Some("29/2/00 060 2000-02-29 12:34:56"));
        check(4_102_444_799, "%b %e %Y 100%%", Some("Dec 31 2099 100%"));
        check(0, "%Q", None);
        check(0, "%", None);
    }
}
