//! `tyndall rollback`, `events` and `logs`: what was, and the way back to it.

use crate::args::{EventsArgs, LogsArgs, RollbackArgs};
use crate::commands::admin::{APPLICATIONS, Admin};
use crate::failure::Failure;
use crate::output::{look_later, print};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tyndall_bench::table;
use tyndall_config::Environment;
use tyndall_controller::StoredEvent;
use tyndall_types::ApplicationName;

/// What people look at changes no faster.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

pub(crate) fn rollback(args: &RollbackArgs, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(&args.admin, env)?;
    let name = ApplicationName::new(&args.name).map_err(|error| Failure::of(&error))?;
    if args.list {
        let path = format!("{APPLICATIONS}{name}/versions");
        let versions: Vec<Value> = admin.ask(|client| async move { client.get(&path).await })?;
        return print(&table_of_versions(&versions));
    }
    let path = format!("{APPLICATIONS}{name}/rollback");
    let body = json!({"version": args.to});
    let answer: Value =
        admin.ask(|client| async move { client.call(Method::POST, &path, &body).await })?;
    print(&format!("{name} goes back to version {}\n", answer["version"]))
}

fn table_of_versions(versions: &[Value]) -> String {
    let head = ["VERSION", "DEPLOYED", "SERVED", ""].map(str::to_owned).to_vec();
    let row = |version: &Value| {
        let at_ms = version["deployed_at_s"].as_f64().unwrap_or_default() * 1000.0;
        let served = if version["is_proven"] == true { "yes" } else { "no" };
        let note = version["note"].as_str().unwrap_or_default().to_owned();
        vec![version["version"].to_string(), time(at_ms as i64), served.to_owned(), note]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(versions.iter().map(row)).collect();
    table(&rows, &[])
}

pub(crate) fn events(args: &EventsArgs, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(&args.admin, env)?;
    let mut after = 0;
    loop {
        let mut path = format!("/api/tyndall/events?after={after}&limit={}", args.limit);
        if let Some(name) = &args.application {
            let name = ApplicationName::new(name).map_err(|error| Failure::of(&error))?;
            path.push_str(&format!("&application={name}"));
        }
        let events: Vec<StoredEvent> =
            admin.ask(|client| async move { client.get(&path).await })?;
        after = events.last().map_or(after, |event| event.id);
        let lines: String = events.iter().map(line).collect();
        print(&lines)?;
        if !args.follow {
            return Ok(());
        }
        look_later(LOOK_PERIOD);
    }
}

fn line(event: &StoredEvent) -> String {
    let StoredEvent { application, deployment, kind, message, at_ms, .. } = event;
    let whose = match deployment.as_str() {
        "" => application.clone(),
        deployment if deployment == application => application.clone(),
        deployment => format!("{application}#{deployment}"),
    };
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    format!("{} {whose} {kind}{message}\n", time(*at_ms))
}

pub(crate) fn logs(args: &LogsArgs, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(&args.admin, env)?;
    let mut offset: Option<u64> = None;
    loop {
        let mut path = format!("/api/tyndall/logs?lines={}", args.lines);
        if let Some(offset) = offset {
            path.push_str(&format!("&offset={offset}"));
        }
        let answer: Value = admin.ask(|client| async move { client.get(&path).await })?;
        let text = answer["text"].as_str().unwrap_or_default();
        let wanted = |line: &&str| args.filter.as_ref().is_none_or(|part| line.contains(part));
        let lines: String = text.lines().filter(wanted).map(|line| format!("{line}\n")).collect();
        print(&lines)?;
        offset = answer["offset"].as_u64();
        if !args.follow {
            return Ok(());
        }
        look_later(LOOK_PERIOD);
    }
}

/// A time in UTC.
fn time(at_ms: i64) -> String {
    let days = at_ms.div_euclid(86_400_000);
    let ms = at_ms.rem_euclid(86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The date of a day since 1970, in the proleptic Gregorian calendar: eras of 400 years that begin
/// in March, so that the leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_ERA: i64 = 146_097;
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(DAYS_OF_ERA), days.rem_euclid(DAYS_OF_ERA));
    let leaps = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_709_210_096_789), "2024-02-29T12:34:56.789Z");
        assert_eq!(time(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
