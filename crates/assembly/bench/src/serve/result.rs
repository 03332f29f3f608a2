//! From outcomes to figures. Definitions are those of vLLM's benchmark:
//!
//! - TTFT: sending to the first token. E2EL: sending to the last token.
//! - TPOT: `(E2EL - TTFT) / (output tokens - 1)`, of requests with more than one token.
//! - ITL: each gap between pieces of one stream, whatever number of tokens a piece has.
//! - Throughputs: totals of the requests that succeeded, over the run's wall time.
//! - A stream whose tokens have no text is timed by its other chunks; one chunk alone has no TPOT.
//! - Goodput: requests that meet every target, over the run's wall time.

use super::client::{Answered, Api, Outcome};
use crate::goodput::{Latencies, Target};
use crate::html::shares;
use crate::report::{Chart, Report, Series};
use std::collections::BTreeMap;

/// Points of a cloud: more make the page slow and say nothing new.
const MAX_POINTS: usize = 1500;

/// A request that succeeded, in figures.
#[derive(Debug, Clone, PartialEq)]
struct Figures {
    latencies: Latencies,
    input_tokens: u32,
    output_tokens: u32,
}

/// How output tokens were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Counted {
    Usage,
    Asked,
    Pieces,
    Words,
}

fn figures(outcome: &Outcome, answered: &Answered, is_whole: bool) -> (Figures, Counted) {
    let first = answered.tokens_at_s.first().copied().unwrap_or(outcome.ended_at_s);
    let last = answered.tokens_at_s.last().copied().unwrap_or(outcome.ended_at_s);
    let (output_tokens, counted) = match (answered.usage.completion_tokens, answered.num_words) {
        (Some(tokens), _) => (tokens, Counted::Usage),
        (None, Some(_)) if is_whole => (outcome.output_len, Counted::Asked),
        (None, Some(words)) => (words, Counted::Words),
        (None, None) => (answered.tokens_at_s.len() as u32, Counted::Pieces),
    };
    let decode_ms = (last - first) * 1e3;
    let gaps = f64::from(output_tokens.saturating_sub(1));
    // A silent stream's only chunk says nothing of the time between its tokens.
    let has_gaps = !answered.is_silent || answered.tokens_at_s.len() > 1;
    let is_stream = answered.num_words.is_none();
    let latencies = Latencies {
        ttft_ms: (first - outcome.sent_at_s) * 1e3,
        tpot_ms: (is_stream && has_gaps && gaps > 0.0).then(|| decode_ms / gaps),
        e2e_ms: (last - outcome.sent_at_s) * 1e3,
    };
    let input_tokens = answered.usage.prompt_tokens.unwrap_or(outcome.prompt_len);
    (Figures { latencies, input_tokens, output_tokens }, counted)
}

/// Fills the report. `ignores_eos` of `/generate` means that every token asked for was made.
pub(crate) fn fill(report: &mut Report, outcomes: &[Outcome], targets: &[Target], api: Api) {
    let is_whole = report.settings.get("ignore-eos").is_some_and(|value| value == "true");
    let good: Vec<(&Outcome, &Answered)> =
        outcomes.iter().filter_map(|o| Some((o, o.result.as_ref().ok()?))).collect();
    let (all, counted): (Vec<Figures>, Vec<Counted>) =
        good.iter().map(|(outcome, answered)| figures(outcome, answered, is_whole)).unzip();
    throughput(report, outcomes, &all, targets);
    let tokens_at_s: Vec<f64> =
        good.iter().flat_map(|(_, answered)| answered.tokens_at_s.iter().copied()).collect();
    if api != Api::Generate {
        report.rate(
            "max_output_tokens_per_s",
            "Output in the best second",
            per_second(&tokens_at_s).into_iter().map(|(_, rate)| rate).fold(0.0, f64::max),
            "pieces/s",
        );
        let ttft = all.iter().map(|f| f.latencies.ttft_ms);
        report.latency("ttft", "Time to first token (TTFT)", ttft);
        let tpot = all.iter().filter_map(|f| f.latencies.tpot_ms);
        report.latency("tpot", "Time per output token (TPOT)", tpot);
        let gaps = good.iter().flat_map(|(_, answered)| answered.tokens_at_s.windows(2));
        report.latency(
            "itl",
            "Inter-token latency (ITL)",
            gaps.map(|pair| (pair[1] - pair[0]) * 1e3),
        );
    }
    report.latency("e2el", "End-to-end latency (E2EL)", all.iter().map(|f| f.latencies.e2e_ms));
    counting(report, counted.into_iter().max(), &good);
    errors(report, outcomes);
    charts(report, &good, &all, &tokens_at_s, api);
}

fn throughput(report: &mut Report, outcomes: &[Outcome], all: &[Figures], targets: &[Target]) {
    let from = outcomes.iter().map(|o| o.sent_at_s).fold(f64::INFINITY, f64::min);
    let until = outcomes.iter().map(|o| o.ended_at_s).fold(0.0, f64::max);
    let duration_s = (until - from).max(1e-9);
    let per_s = |total: f64| total / duration_s;
    let output: f64 = all.iter().map(|f| f64::from(f.output_tokens)).sum();
    let input: f64 = all.iter().map(|f| f64::from(f.input_tokens)).sum();
    report.rate("output_throughput", "Output tokens", per_s(output), "tok/s");
    report.rate("total_token_throughput", "All tokens", per_s(input + output), "tok/s");
    report.rate("request_throughput", "Requests", per_s(all.len() as f64), "req/s");
    if !targets.is_empty() {
        let met = all.iter().filter(|f| f.latencies.meets(targets)).count();
        report.rate("request_goodput", "Goodput", per_s(met as f64), "req/s");
    }
    report.fact("completed", "Requests that succeeded", all.len() as f64, "");
    report.cost("failed", "Requests that failed", (outcomes.len() - all.len()) as f64, "");
    report.fact("duration", "Duration", duration_s, "s");
    report.fact("total_input_tokens", "Prompt tokens", input, "");
    report.fact("total_output_tokens", "Output tokens in all", output, "");
    report.fact("max_concurrent_requests", "Most requests at a time", most_at_a_time(outcomes), "");
}

/// Sweeps over beginnings and ends.
fn most_at_a_time(outcomes: &[Outcome]) -> f64 {
    let changes = outcomes.iter().flat_map(|o| [(o.sent_at_s, 1i64), (o.ended_at_s, -1)]);
    let mut changes: Vec<(f64, i64)> = changes.collect();
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut now, mut most) = (0, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    most as f64
}

/// Pieces in each second of the run.
fn per_second(at_s: &[f64]) -> Vec<(f64, f64)> {
    let mut seconds: BTreeMap<u64, f64> = BTreeMap::new();
    for at in at_s {
        *seconds.entry(*at as u64).or_default() += 1.0;
    }
    let Some((&last, _)) = seconds.last_key_value() else { return Vec::new() };
    (0..=last).map(|s| (s as f64, seconds.get(&s).copied().unwrap_or(0.0))).collect()
}

fn counting(report: &mut Report, counted: Option<Counted>, good: &[(&Outcome, &Answered)]) {
    match counted {
        Some(Counted::Pieces) => report.note(
            "the server states no usage: output tokens are pieces of the streams, which may have \
             several tokens each",
        ),
        Some(Counted::Words) => report.note(
            "the server states no usage: output tokens are words; --ignore-eos makes their number \
             known",
        ),
        Some(Counted::Asked) => {
            report.note("the server states no usage: output tokens are those asked for");
        }
        Some(Counted::Usage) | None => {}
    }
    if good.iter().any(|(_, answered)| answered.usage.prompt_tokens.is_none()) {
        report.note("the server states no usage: prompt tokens are words");
    }
    let silent = good.iter().filter(|(_, answered)| answered.is_silent).count();
    if silent > 0 {
        report.note(format!(
            "{silent} streams had tokens but no text: they are timed by their other chunks"
        ));
    }
}

fn errors(report: &mut Report, outcomes: &[Outcome]) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()) {
        *reasons.entry(reason).or_default() += 1;
    }
    let (num_reasons, mut reasons) = (reasons.len(), reasons.into_iter().collect::<Vec<_>>());
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (reason, count) in reasons.into_iter().take(10) {
        report.note(format!("{count} requests failed: {reason}"));
    }
    if num_reasons > 10 {
        report.note(format!("and for {} other reasons", num_reasons - 10));
    }
}

fn charts(
    report: &mut Report,
    good: &[(&Outcome, &Answered)],
    all: &[Figures],
    tokens_at_s: &[f64],
    api: Api,
) {
    let mut charts = vec![shares("Whole requests", &report.distributions, &["ttft", "e2el"])];
    if api != Api::Generate {
        charts.push(shares("Tokens", &report.distributions, &["tpot", "itl"]));
        charts.push(Chart::Plot {
            title: "Output over time".to_owned(),
            x: "seconds into the run".to_owned(),
            y: "pieces per second".to_owned(),
            joined: true,
            series: vec![Series { name: "output".to_owned(), points: per_second(tokens_at_s) }],
            limits: Vec::new(),
        });
    }
    let step = good.len().div_ceil(MAX_POINTS).max(1);
    let cloud = |name: &str, of: fn(&Latencies) -> f64| Series {
        name: name.to_owned(),
        points: good
            .iter()
            .zip(all)
            .step_by(step)
            .map(|((outcome, _), figures)| (outcome.sent_at_s, of(&figures.latencies)))
            .collect(),
    };
    let mut series = vec![cloud("E2EL", |l| l.e2e_ms)];
    if api != Api::Generate {
        series.insert(0, cloud("TTFT", |l| l.ttft_ms));
    }
    charts.push(Chart::Plot {
        title: "Each request".to_owned(),
        x: "sent, seconds into the run".to_owned(),
        y: "milliseconds".to_owned(),
        joined: false,
        series,
        limits: Vec::new(),
    });
    report.charts = charts;
}

#[cfg(test)]
mod tests {
    use super::super::client::Usage;
    use super::*;

    fn outcome(sent: f64, tokens_at_s: &[f64], completion_tokens: Option<u32>) -> Outcome {
        Outcome {
            sent_at_s: sent,
            ended_at_s: tokens_at_s.last().copied().unwrap_or(sent) + 0.5,
            prompt_len: 10,
            output_len: 4,
            result: Ok(Answered {
                tokens_at_s: tokens_at_s.to_vec(),
                is_silent: false,
                usage: Usage { prompt_tokens: Some(12), completion_tokens },
                num_words: None,
            }),
        }
    }

    fn value(report: &Report, name: &str) -> f64 {
        let figures = report.figures();
        let found = figures.iter().find(|metric| metric.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).value
    }

    #[test]
    fn definitions_are_vllms() {
        let failed = Outcome { result: Err("lost".to_owned()), ..outcome(0.0, &[], None) };
        let outcomes =
            [outcome(0.0, &[1.0, 1.5, 3.0], Some(5)), outcome(2.0, &[2.1], Some(1)), failed];
        let mut report = Report::new("serve", &[]);
        let targets = ["ttft:500".parse().unwrap()];
        fill(&mut report, &outcomes, &targets, Api::Completions);
        // From 0 to half a second after the last token at 3.
        for (name, expected) in [
            ("duration", 3.5),
            ("completed", 2.0),
            ("failed", 1.0),
            ("output_throughput", 6.0 / 3.5),
            ("total_token_throughput", 30.0 / 3.5),
            ("request_goodput", 1.0 / 3.5),
            ("max_concurrent_requests", 2.0),
            ("max_output_tokens_per_s", 2.0),
            ("mean_ttft_ms", 550.0),
            // Two seconds for four gaps; the other request has one token.
            ("mean_tpot_ms", 500.0),
            ("mean_itl_ms", 1000.0),
            ("mean_e2el_ms", 1550.0),
        ] {
            assert!((value(&report, name) - expected).abs() < 1e-6, "{name}");
        }
        assert_eq!(report.notes, ["1 requests failed: lost"]);
        assert_eq!(report.charts.len(), 4);
    }

    #[test]
    fn what_was_counted_is_said() {
        let mut pieces = outcome(0.0, &[1.0, 2.0], None);
        let mut report = Report::new("serve", &[]);
        fill(&mut report, &[pieces.clone()], &[], Api::Completions);
        assert!((value(&report, "total_output_tokens") - 2.0).abs() < 1e-9);
        assert!(report.notes[0].contains("pieces"), "{:?}", report.notes);

        pieces.result = pieces.result.map(|answered| Answered {
            num_words: Some(3),
            usage: Usage::default(),
            ..answered
        });
        for (ignores, expected, word) in [("true", 4.0, "asked for"), ("false", 3.0, "words")] {
            let mut report = Report::new("serve", &[]);
            report.set("ignore-eos", ignores);
            fill(&mut report, &[pieces.clone()], &[], Api::Generate);
            assert!((value(&report, "total_output_tokens") - expected).abs() < 1e-9);
            assert!(report.notes[0].contains(word), "{:?}", report.notes);
            assert!(report.distributions.iter().all(|d| d.name == "e2el"));
        }
    }
}
