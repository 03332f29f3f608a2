//! What a benchmark found: the form that is printed, kept as JSON, drawn and compared.

use crate::error::BenchError;
use crate::machine::Machine;
use crate::stats::Summary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Grows when a reader of old files would misread new ones.
const SCHEMA: u32 = 1;

/// The percentiles that are printed and compared.
pub(crate) const PERCENTILES: [f64; 4] = [50.0, 90.0, 95.0, 99.0];

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Rates.
    Higher,
    /// Times and sizes.
    Lower,
    /// Facts of the run, such as how many requests there were.
    Neither,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Unique in its report; where vLLM's benchmark has the figure, by its name there.
    pub name: String,
    /// In words.
    pub label: String,
    /// The figure.
    pub value: f64,
    /// Its unit; empty for plain numbers.
    pub unit: String,
    /// Which direction is good.
    pub better: Better,
}

/// Many measurements of one thing; less is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Unique in its report, such as `ttft`.
    pub name: String,
    /// In words.
    pub label: String,
    /// The unit of all values.
    pub unit: String,
    /// The values.
    pub summary: Summary,
}

/// A line or a cloud of points in a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// Pairs of x and y.
    pub points: Vec<(f64, f64)>,
}

/// A drawing of the HTML page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Chart {
    /// Points over x, joined or not.
    Plot {
        /// What is seen.
        title: String,
        /// The axis below.
        x: String,
        /// The axis beside.
        y: String,
        /// Neighbours are joined.
        joined: bool,
        /// At most four.
        series: Vec<Series>,
        /// Horizontal lines, such as ceilings.
        limits: Vec<(String, f64)>,
    },
    /// Horizontal bars of parts.
    Bars {
        /// What is seen.
        title: String,
        /// The unit of all parts.
        unit: String,
        /// Label, then the parts by name.
        rows: Vec<(String, Vec<(String, f64)>)>,
    },
}

/// Everything of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    schema: u32,
    /// The subcommand, such as `serve`.
    pub benchmark: String,
    /// When it ended, UTC.
    pub date: String,
    /// Of `tyndall`.
    pub version: String,
    /// As typed.
    pub command: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// What was asked for, defaults filled in.
    pub settings: BTreeMap<String, String>,
    /// What the machine can do at most; empty where that plays no part.
    pub ceilings: Vec<Metric>,
    /// The figures, the most important first.
    pub metrics: Vec<Metric>,
    /// Latencies.
    pub distributions: Vec<Distribution>,
    /// For the page.
    pub charts: Vec<Chart>,
    /// What a reader must know to read the figures right.
    pub notes: Vec<String>,
    /// What must not be, of benchmarks that look for it; the command fails with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

impl Report {
    /// An empty one of a benchmark.
    #[must_use]
    pub(crate) fn new(benchmark: &str, command: &[String]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            schema: SCHEMA,
            benchmark: benchmark.to_owned(),
            date: utc(now.as_secs()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.to_vec(),
            machine: Machine::detect(),
            settings: BTreeMap::new(),
            ceilings: Vec::new(),
            metrics: Vec::new(),
            distributions: Vec::new(),
            charts: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.insert(name.to_owned(), value.to_string());
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Says what must not be, where it is.
    pub(crate) fn forbid(&mut self, count: usize, what: &str) {
        if count > 0 {
            self.failures.push(format!("{count} {what}"));
        }
    }

    pub(crate) fn rate(&mut self, name: &str, label: &str, value: f64, unit: &str) {
        self.metrics.push(metric(name, label, value, unit, Better::Higher));
    }

    pub(crate) fn cost(&mut self, name: &str, label: &str, value: f64, unit: &str) {
        self.metrics.push(metric(name, label, value, unit, Better::Lower));
    }

    pub(crate) fn fact(&mut self, name: &str, label: &str, value: f64, unit: &str) {
        self.metrics.push(metric(name, label, value, unit, Better::Neither));
    }

    /// Adds latencies in milliseconds; nothing where there are none.
    pub(crate) fn latency(&mut self, name: &str, label: &str, ms: impl IntoIterator<Item = f64>) {
        if let Some(summary) = Summary::of(ms) {
            self.distributions.push(Distribution {
                name: name.to_owned(),
                label: label.to_owned(),
                unit: "ms".to_owned(),
                summary,
            });
        }
    }

    /// All figures, those of the distributions spelled as vLLM's benchmark does: `p99_ttft_ms`.
    #[must_use]
    pub fn figures(&self) -> Vec<Metric> {
        let mut all = self.metrics.clone();
        for Distribution { name, label, unit, summary } in &self.distributions {
            let mut add = |which: &str, words: &str, value: f64| {
                let name = format!("{which}_{name}_{unit}");
                all.push(metric(&name, &format!("{label}, {words}"), value, unit, Better::Lower));
            };
            add("mean", "mean", summary.mean);
            for percent in PERCENTILES {
                let which =
                    if percent == 50.0 { "median".to_owned() } else { format!("p{percent}") };
                add(&which, &which, summary.at(percent));
            }
        }
        all
    }

    /// Reads a file that [`Report::write_json`] wrote.
    ///
    /// # Errors
    /// There is no such file, or it holds something else.
    pub fn read_json(path: &Path) -> Result<Self, BenchError> {
        let shown = path.display();
        let text = std::fs::read(path).map_err(|error| {
            BenchError::of(&format!("failed to read {shown}"), &error)
                .with_cure("name files that `tyndall bench … --json FILE` wrote")
        })?;
        let report: Self = serde_json::from_slice(&text).map_err(|error| {
            BenchError::of(&format!("{shown} is no result of a benchmark"), &error)
                .with_cure("name files that `tyndall bench … --json FILE` wrote")
        })?;
        if report.schema != SCHEMA {
            let found = report.schema;
            return Err(BenchError::new(format!("{shown} has format {found}, not {SCHEMA}"))
                .with_cure("compare results of the same version of tyndall"));
        }
        Ok(report)
    }

    /// Writes everything as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<(), BenchError> {
        let mut text = serde_json::to_string_pretty(self).expect("a report has string keys only");
        text.push('\n');
        write(path, &text)
    }

    /// Writes the self-contained page.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_html(&self, path: &Path) -> Result<(), BenchError> {
        write(path, &crate::html::page(self))
    }
}

/// A figure.
pub(crate) fn metric(name: &str, label: &str, value: f64, unit: &str, better: Better) -> Metric {
    // JSON has no infinity; a rate over no time is no rate.
    let value = if value.is_finite() { value } else { 0.0 };
    Metric { name: name.to_owned(), label: label.to_owned(), value, unit: unit.to_owned(), better }
}

fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    std::fs::write(path, text).map_err(|error| {
        BenchError::of(&format!("failed to write {}", path.display()), &error)
            .with_cure("name a file in a directory that exists and may be written")
    })
}

/// `2026-01-31T12:00:00Z` of Unix seconds.
///
/// Source: Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn utc(unix_s: u64) -> String {
    let (days, s) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        for (unix_s, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(unix_s), expected);
        }
    }

    #[test]
    fn figures_have_vllms_names() {
        let mut report = Report::new("serve", &[]);
        report.rate("request_throughput", "Requests", f64::INFINITY, "req/s");
        report.latency("ttft", "Time to first token", [1.0, 2.0, 3.0]);
        report.latency("itl", "Inter-token latency", []);
        let names: Vec<String> = report.figures().into_iter().map(|m| m.name).collect();
        let expected = ["request_throughput", "mean_ttft_ms", "median_ttft_ms", "p90_ttft_ms"];
        assert_eq!(names[..4], expected);
        assert_eq!(names.len(), 6);
        let json = serde_json::to_string(&report).unwrap();
        // Reading may move the last bit of a number, never more.
        let read: Report = serde_json::from_str(&json).unwrap();
        for (found, expected) in std::iter::zip(read.figures(), report.figures()) {
            assert_eq!((&found.name, &found.unit), (&expected.name, &expected.unit));
            assert!((found.value - expected.value).abs() <= 1e-12 * expected.value.abs());
        }
        assert_eq!(read.machine, report.machine);
    }
}
