//! Reports and comparisons as text for a terminal.

use crate::report::{Distribution, Metric, PERCENTILES, Report};

/// The whole report.
#[must_use]
pub(crate) fn render(report: &Report) -> String {
    let mut text = format!(
        "tyndall {} bench {}, {}\n{}\n",
        report.version,
        report.benchmark,
        report.date,
        report.machine.describe()
    );
    if !report.settings.is_empty() {
        let settings: Vec<String> =
            report.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        text.push_str(&format!("{}\n", settings.join(" · ")));
    }
    for (title, metrics) in [("", &report.metrics), ("ceilings of this machine", &report.ceilings)]
    {
        if !metrics.is_empty() {
            text.push_str(&format!("\n{title}{}", if title.is_empty() { "" } else { "\n" }));
            text.push_str(&table(&metrics.iter().map(row).collect::<Vec<_>>(), &[1]));
        }
    }
    if !report.distributions.is_empty() {
        text.push('\n');
        text.push_str(&distributions(&report.distributions));
    }
    for note in &report.notes {
        text.push_str(&format!("\nnote: {note}"));
    }
    if !report.notes.is_empty() {
        text.push('\n');
    }
    for failure in &report.failures {
        text.push_str(&format!("\nfailed: {failure}\n"));
    }
    text
}

fn row(metric: &Metric) -> Vec<String> {
    vec![format!("  {}", metric.label), number(metric.value), metric.unit.clone()]
}

fn distributions(all: &[Distribution]) -> String {
    let mut head = vec!["  latency".to_owned(), "mean".to_owned()];
    head.extend(PERCENTILES.map(|percent| format!("p{percent}")));
    head.extend(["max", ""].map(str::to_owned));
    let mut rows = vec![head];
    for Distribution { label, unit, summary, .. } in all {
        let mut row = vec![format!("  {label}"), number(summary.mean)];
        row.extend(PERCENTILES.map(|percent| number(summary.at(percent))));
        row.extend([number(summary.max()), unit.clone()]);
        rows.push(row);
    }
    table(&rows, &[1, 2, 3, 4, 5, 6])
}

/// Three significant digits, and all digits before the point.
#[must_use]
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "-".to_owned(),
        _ if value.fract() == 0.0 && size < 1e15 => format!("{value:.0}"),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 1.0 => format!("{value:.2}"),
        _ => {
            let digits = (2.0 - size.log10().floor()).clamp(0.0, 9.0) as usize;
            let text = format!("{value:.digits$}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// Columns, two spaces apart, without trailing spaces; those listed are right-aligned.
#[must_use]
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if right.contains(&column) {
                line.push_str(&format!("{cell:>width$}  "));
            } else {
                line.push_str(&format!("{cell:<width$}  "));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (12_345.6, "12346"),
            (123.4, "123"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.1234, "0.123"),
            (0.000_123_4, "0.000123"),
            (0.5, "0.5"),
            (3.0, "3"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows =
            [["a", "long", "x"], ["bbb", "c", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows, &[]), "a    long  x\nbbb  c\n");
        assert_eq!(table(&rows, &[1]), "a    long  x\nbbb     c\n");
        assert_eq!(table(&[], &[]), "");
    }

    #[test]
    fn a_report_says_everything() {
        let mut report = Report::new("serve", &[]);
        report.set("seed", 7);
        report.rate("request_throughput", "Request throughput", 12.34, "req/s");
        report.latency("ttft", "Time to first token", [1.0, 3.0]);
        report.note("words were counted");
        report.forbid(0, "strays");
        report.forbid(2, "requests were lost");
        let text = render(&report);
        for part in
            ["bench serve", "seed 7", "Request throughput  12.3  req/s", "p99", "note: words"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with("\nfailed: 2 requests were lost\n"), "{text}");
    }
}
