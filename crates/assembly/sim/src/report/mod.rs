//! An outcome for people and for programs.

mod html;
mod svg;
mod text;

use crate::Outcome;
use crate::outcome::Decision;

impl Outcome {
    /// A summary for a terminal.
    #[must_use]
    pub fn to_text(&self) -> String {
        text::summary(self)
    }

    /// Everything, as one JSON document.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("keys are strings");
        json.push('\n');
        json
    }

    /// One page with plots and tables that needs nothing else, light or dark as its reader.
    #[must_use]
    pub fn to_html(&self) -> String {
        html::page(self)
    }
}

/// Three significant digits, and all digits before the point.
fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "-".to_owned(),
        _ if value.fract() == 0.0 || size >= 100.0 => format!("{value:.0}"),
        _ => {
            let digits = (2.0 - size.log10().floor()).clamp(0.0, 9.0) as usize;
            let text = format!("{value:.digits$}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

fn seconds(s: f64) -> String {
    match s {
        _ if s < 1.0 => format!("{} ms", number(s * 1000.0)),
        _ if s < 120.0 => format!("{} s", number(s)),
        _ if s < 7200.0 => format!("{:.0} min", s / 60.0),
        _ => format!("{:.1} h", s / 3600.0),
    }
}

fn decision(decision: &Decision) -> [String; 3] {
    let Decision { time_ms, from, to, why } = decision;
    [format!("{:.3} s", *time_ms as f64 / 1000.0), format!("{from} → {to}"), (*why).to_owned()]
}

/// Rows of what is said of deployments: the head first, then all together, then each.
fn rows(outcome: &Outcome) -> Vec<Vec<String>> {
    let head = [
        "deployment",
        "sent",
        "answered",
        "refused",
        "late",
        "interrupted",
        "cut",
        "lost",
        "p50",
        "p99",
        "max",
        "replicas",
        "started",
        "woken",
        "decisions",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in &outcome.deployments {
        let totals = &one.totals;
        let mean = one.replica_seconds / outcome.duration_s.max(f64::MIN_POSITIVE);
        let mut row = vec![one.id.clone()];
        row.extend(counts(totals));
        let latency = one.latency.map(|l| [l.p50_s, l.p99_s, l.max_s].map(seconds).to_vec());
        row.extend(latency.unwrap_or_else(|| vec!["-".to_owned(); 3]));
        row.push(format!("{} (max {})", number(mean), one.max_replicas));
        row.extend([totals.started, totals.woken].map(|n| n.to_string()));
        row.push(one.decisions.len().to_string());
        rows.push(row);
    }
    rows
}

fn counts(totals: &crate::Totals) -> [String; 7] {
    [
        totals.sent,
        totals.answered,
        totals.refused_full + totals.refused_late + totals.refused_unavailable,
        totals.late,
        totals.interrupted + totals.given_up,
        totals.cut,
        totals.lost,
    ]
    .map(|n| n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_times_their_unit() {
        for (value, expected) in
            [(0.0, "0"), (1234.6, "1235"), (12.34, "12.3"), (7.5, "7.5"), (0.01234, "0.0123")]
        {
            assert_eq!(number(value), expected);
        }
        for (s, expected) in
            [(0.0123, "12.3 ms"), (90.0, "90 s"), (600.0, "10 min"), (9e3, "2.5 h")]
        {
            assert_eq!(seconds(s), expected);
        }
    }
}
