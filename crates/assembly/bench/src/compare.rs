//! `bench compare`: one result over another, figure by figure.

use crate::error::BenchError;
use crate::report::{Better, Metric, Report};
use crate::text::{number, table};

/// Compares two results of the same benchmark; ratios are `b` over `a`.
///
/// # Errors
/// They are of different benchmarks, or have no figure in common.
pub(crate) fn compare(a: &Report, b: &Report) -> Result<String, BenchError> {
    if a.benchmark != b.benchmark {
        let (a, b) = (&a.benchmark, &b.benchmark);
        return Err(BenchError::new(format!("one is of `bench {a}`, the other of `bench {b}`"))
            .with_cure("compare two results of one benchmark"));
    }
    let others = b.figures();
    let mut rows = vec![["  figure", "A", "B", "", "B / A", ""].map(str::to_owned).to_vec()];
    for metric in a.figures() {
        let other = others.iter().find(|other| other.name == metric.name);
        rows.extend(other.map(|other| row(&metric, other)));
    }
    if rows.len() == 1 {
        return Err(BenchError::new("the results have no figure in common")
            .with_cure("run both with the same flags"));
    }
    let mut text = format!("bench {}: A {}, B {}\n", a.benchmark, a.date, b.date);
    for warning in warnings(a, b) {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text.push('\n');
    text.push_str(&table(&rows, &[1, 2, 4]));
    Ok(text)
}

fn row(a: &Metric, b: &Metric) -> Vec<String> {
    let ratio = (a.value != 0.0).then(|| b.value / a.value);
    vec![
        format!("  {}", a.name),
        number(a.value),
        number(b.value),
        a.unit.clone(),
        ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")),
        verdict(a.better, ratio),
    ]
}

/// How B does, in words; differences below a thousandth are none.
fn verdict(better: Better, ratio: Option<f64>) -> String {
    let word = match (better, ratio) {
        (Better::Neither, _) | (_, None) => return String::new(),
        (_, Some(ratio)) if (ratio - 1.0).abs() < 5e-4 => "same",
        (Better::Higher, Some(ratio)) => {
            if ratio > 1.0 {
                "better"
            } else {
                "worse"
            }
        }
        (Better::Lower, Some(ratio)) => {
            if ratio < 1.0 {
                "better"
            } else {
                "worse"
            }
        }
    };
    let direction = if better == Better::Higher { "higher" } else { "lower" };
    format!("{word} ({direction} is better)")
}

/// What makes the two hard to compare.
fn warnings(a: &Report, b: &Report) -> Vec<String> {
    let mut found: Vec<String> = a.machine.differences(&b.machine);
    found = found.into_iter().map(|what| format!("machines differ in {what}")).collect();
    if a.version != b.version {
        found.push(format!("versions differ: {} against {}", a.version, b.version));
    }
    let names = a.settings.keys().chain(b.settings.keys().filter(|k| !a.settings.contains_key(*k)));
    for name in names {
        let value = |report: &Report| {
            report.settings.get(name).cloned().unwrap_or_else(|| "nothing".to_owned())
        };
        let (a, b) = (value(a), value(b));
        if a != b {
            found.push(format!("flags differ in {name}: {a} against {b}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(throughput: f64, ttft: f64) -> Report {
        let mut report = Report::new("serve", &[]);
        report.set("concurrency", 8);
        report.rate("output_throughput", "Output tokens", throughput, "tok/s");
        report.fact("completed", "Requests", 10.0, "");
        report.latency("ttft", "Time to first token", [ttft]);
        report
    }

    #[test]
    fn ratios_know_which_direction_is_better() {
        let text = compare(&report(100.0, 10.0), &report(150.0, 20.0)).unwrap();
        let line = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name));
            line.unwrap_or_else(|| panic!("{name} is not in:\n{text}")).to_owned()
        };
        assert!(line("output_throughput").ends_with("1.500  better (higher is better)"));
        assert!(line("p99_ttft_ms").ends_with("2.000  worse (lower is better)"));
        assert!(line("completed").ends_with("1.000"));
        assert!(!text.contains("warning"), "{text}");
        let same = compare(&report(1.0, 1.0), &report(1.0, 1.0)).unwrap();
        assert!(same.contains("same (higher is better)"), "{same}");
    }

    #[test]
    fn what_differs_is_warned_about() {
        let (a, mut b) = (report(1.0, 1.0), report(1.0, 0.0));
        b.machine.cores += 1;
        b.set("concurrency", 9);
        b.set("rate", 4);
        let text = compare(&a, &b).unwrap();
        for part in
            ["machines differ in cores", "concurrency: 8 against 9", "rate: nothing against"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(compare(&b, &a).unwrap().contains("-"), "no ratio to zero");
        b.benchmark = "http".into();
        assert!(compare(&a, &b).unwrap_err().cure().is_some());
    }
}
