//! The summary.

use super::{decision, rows, seconds};
use crate::Outcome;
use std::fmt::Write;

/// Deployments and decisions that are shown; all are in the JSON.
const MAX_SHOWN: usize = 30;

pub(super) fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    let totals = &outcome.totals;
    line(
        &mut text,
        format_args!(
            "{} of virtual time, {} requests, {} events, seed {}\n",
            seconds(outcome.duration_s),
            totals.sent,
            outcome.num_events,
            outcome.seed
        ),
    );
    let mut all = rows(outcome);
    let hidden = all.len().saturating_sub(MAX_SHOWN + 1);
    all.truncate(MAX_SHOWN + 1);
    text.push_str(&table(&all));
    if hidden > 0 {
        line(&mut text, format_args!("and {hidden} more"));
    }
    line(
        &mut text,
        format_args!(
            "\nretried {}, start failures {}, replicas lost {}, evictions {}",
            totals.retried, totals.start_failures, totals.died, totals.evicted
        ),
    );
    let decisions = outcome.deployments.iter().flat_map(|one| {
        one.decisions.iter().map(move |of| (of.time_ms, one.id.as_str(), decision(of)))
    });
    let mut decisions: Vec<_> = decisions.collect();
    decisions.sort_by_key(|(time_ms, ..)| *time_ms);
    let hidden = decisions.len().saturating_sub(MAX_SHOWN);
    let shown = decisions.into_iter().take(MAX_SHOWN);
    let shown = shown.map(|(_, id, [at, what, why])| vec![at, id.to_owned(), what, why]);
    let shown: Vec<Vec<String>> = shown.collect();
    if !shown.is_empty() {
        text.push_str("\ndecisions\n");
        text.push_str(&table(&shown));
    }
    if hidden > 0 {
        line(&mut text, format_args!("and {hidden} more"));
    }
    for anomaly in &outcome.anomalies {
        line(&mut text, format_args!("must not happen: {anomaly}"));
    }
    text
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("writing to a string");
}

/// Columns two spaces apart; all but the first are right-aligned in the width of their widest.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let cells: Vec<String> = cells.collect();
        line(&mut text, format_args!("{}", cells.join("  ").trim_end()));
    }
    text
}
