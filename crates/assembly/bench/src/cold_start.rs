//! `bench cold-start`: a request at zero replicas, to its first token, phase by phase.

use crate::error::BenchError;
use crate::loading::Found;
use crate::progress::Progress;
use crate::report::{Chart, Distribution, Report};
use crate::server::Server;
use crate::stats::{Summary, median};
use crate::{Context, headers, roofline};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tyndall_model::PlanRequest;
use tyndall_transport::Client;
use tyndall_types::with_causes;

/// Between two looks at the metrics page, and how long to look.
const POLL: Duration = Duration::from_millis(5);
const LOOKS: usize = 2000;
/// Where the server counts the seconds of each phase.
const SECONDS: &str = "tyndall_cold_start_seconds_sum{";
const COUNTS: &str = "tyndall_cold_start_seconds_count{";
/// What the server's log says when the first token came.
const WOKE: &str = " woke in ";

/// What `bench cold-start` is asked for.
#[derive(Debug, clap::Args)]
pub struct ColdStartArgs {
    /// What to run: demo, a directory, or a Hugging Face id
    #[arg(default_value = "demo")]
    pub model: String,
    /// Wakes that are measured, after one that fills the page cache
    #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub num_wakes: u32,
    /// Further arguments of `tyndall run`
    #[arg(last = true, value_name = "RUN_ARGS")]
    pub run_args: Vec<String>,
}

/// Seconds by phase.
pub(crate) type Phases = BTreeMap<String, f64>;

/// What a server counted so far, by phase.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counted {
    pub(crate) seconds: Phases,
    counts: Phases,
}

/// Wakes the model again and again and reports.
pub(crate) fn run(args: &ColdStartArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("cold-start", &context.command);
    let weights = weights_bytes(&args.model, context)?;
    let ceilings = roofline::measure(&roofline::cpu(None)?, &roofline::quick())?;
    report.ceilings = roofline::metrics(&ceilings);
    let spawn_s = roofline::spawn_s(&context.executable)?;
    let mut arguments = args.run_args.clone();
    if !arguments.iter().any(|argument| argument.starts_with("--idle-timeout")) {
        arguments.extend(["--idle-timeout", "0"].map(str::to_owned));
    }
    let server = Server::start(&context.executable, &args.model, &arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| BenchError::of("failed to start a runtime", &error))?;
    let wakes = runtime.block_on(wakes(&server, args.num_wakes as usize))?;
    report.set("model", &args.model);
    report.set("num-wakes", args.num_wakes);
    report.set("page cache", "warm");
    let order = server.line_with(WOKE, 0).map(|(line, _)| order(&line)).unwrap_or_default();
    let floor = Floor { spawn_s, read_s: weights / ceilings.read_bytes_per_s, weights };
    fill(&mut report, &wakes, &order, &floor);
    Ok(report)
}

/// The bytes that a first token reads at least.
pub(crate) fn weights_bytes(target: &str, context: &Context) -> Result<f64, BenchError> {
    let found = Found::target(target, context)?;
    let request = PlanRequest {
        max_model_len: Some(1),
        memory_budget_bytes: None,
        available_bytes: u64::MAX / 4,
        max_num_seqs: 1,
        max_num_batched_tokens: 1,
        quantization: None,
    };
    let memory = found.plan(&request)?;
    Ok(crate::work::Work::of(&found.spec, &memory).weights_bytes)
}

/// One wake.
struct Wake {
    to_first_token_s: f64,
    phases: Phases,
}

async fn wakes(server: &Server, count: usize) -> Result<Vec<Wake>, BenchError> {
    let progress = Progress::of("wakes", count as u64);
    let client = server.url.client();
    let headers = headers::of(&server.url, &[])?;
    let mut wakes = Vec::new();
    let mut before = Counted::default();
    for wake in 0..=count {
        server.wait_for("no replica is left", |details| details.replicas.is_empty()).await?;
        let to_first_token_s = first_token(&client, &headers, &server.model).await?;
        let after = counted(server, &headers, &before).await?;
        let since = |(name, s): (&String, &f64)| {
            (name.clone(), s - before.seconds.get(name).copied().unwrap_or(0.0))
        };
        let phases = after.seconds.iter().map(since).collect();
        if wake > 0 {
            wakes.push(Wake { to_first_token_s, phases });
            progress.advance();
        }
        before = after;
    }
    Ok(wakes)
}

/// Seconds from sending a request for one token to its first event; the rest is read and dropped. With
/// more tokens a text that begins with a part of a character would come after the next step.
async fn first_token(client: &Client, headers: &HeaderMap, model: &str) -> Result<f64, BenchError> {
    let body = json!({"model": model, "prompt": "Hello there", "temperature": 0, "max_tokens": 1,
        "ignore_eos": true, "stream": true});
    let mut request = Request::new(Bytes::from(body.to_string()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/v1/completions");
    *request.headers_mut() = headers.clone();
    let json = header::HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::CONTENT_TYPE, json);
    let failed = |reason: String| {
        BenchError::new(format!("the server did not answer: {reason}"))
            .with_cure("see what `tyndall run` says of the same model")
    };
    let start = Instant::now();
    let response = client.send(request).await;
    let response = response.map_err(|error| failed(with_causes(error.to_string(), &error)))?;
    let status = response.status();
    let mut body = response.into_body();
    let mut first_s = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failed(error.to_string()))?;
        if frame.data_ref().is_some_and(|data| data.starts_with(b"data:")) {
            first_s.get_or_insert_with(|| start.elapsed().as_secs_f64());
        }
    }
    first_s
        .filter(|_| status.is_success())
        .ok_or_else(|| failed(format!("status {}, no token", status.as_u16())))
}

/// What was counted of each phase so far, once all of them were counted again since `before`, and
/// nothing more comes.
pub(crate) async fn counted(
    server: &Server,
    headers: &HeaderMap,
    before: &Counted,
) -> Result<Counted, BenchError> {
    let mut last = before.clone();
    for _ in 0..LOOKS {
        let page = crate::fetch(&server.url, "/metrics", headers).await;
        let page = page.map_err(|error| BenchError::new(format!("no metrics: {error}")))?;
        let page = String::from_utf8_lossy(&page);
        let now = Counted { seconds: phases(&page, SECONDS), counts: phases(&page, COUNTS) };
        // Two reports come: ready, and with the first token the last phase.
        let is_counted = |(name, count): (&String, &f64)| Some(count) > before.counts.get(name);
        if now.counts.len() > 1 && now.counts.iter().all(is_counted) && now == last {
            return Ok(now);
        }
        last = now;
        tokio::time::sleep(POLL).await;
    }
    Err(BenchError::new("the server did not count the phases of a wake")
        .with_cure("is the server of another version?"))
}

/// A series by phase of a metrics page, whatever the phases are called.
fn phases(page: &str, series: &str) -> Phases {
    let mut phases = Phases::new();
    for line in page.lines().filter_map(|line| line.strip_prefix(series)) {
        let Some((labels, value)) = line.rsplit_once("} ") else { continue };
        let name = labels.split("phase=\"").nth(1).and_then(|rest| rest.split('"').next());
        if let (Some(name), Ok(value)) = (name, value.trim().parse::<f64>()) {
            *phases.entry(name.to_owned()).or_default() += value;
        }
    }
    phases
}

/// The phases in their order, out of `m woke in 84 ms: spawn 12 · config 1`.
fn order(line: &str) -> Vec<String> {
    let phases = line.split_once(WOKE).and_then(|(_, rest)| rest.split_once(": "));
    let phases = phases.map(|(_, phases)| phases).unwrap_or_default();
    phases.split('·').filter_map(|p| Some(p.trim().rsplit_once(' ')?.0.to_owned())).collect()
}

/// What a wake takes at least.
struct Floor {
    spawn_s: f64,
    read_s: f64,
    weights: f64,
}

fn fill(report: &mut Report, wakes: &[Wake], order: &[String], floor: &Floor) {
    let mut names: Vec<String> = order.to_vec();
    for wake in wakes {
        names.extend(wake.phases.keys().filter(|name| !order.contains(name)).cloned());
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));

    let mut totals: Vec<f64> = wakes.iter().map(|wake| wake.to_first_token_s).collect();
    let median_s = median(&mut totals);
    let floor_s = floor.spawn_s + floor.read_s;
    report.cost("cold_start", "Request to first token, median", median_s * 1e3, "ms");
    report.fact("floor", "Floor: spawn and one read of the weights", floor_s * 1e3, "ms");
    report.cost("cold_start_ratio", "Cold start over the floor", median_s / floor_s, "x");
    report.cost("spawn", "Start and end of a process", floor.spawn_s * 1e3, "ms");
    report.fact("read_weights", "One read of the weights", floor.read_s * 1e3, "ms");
    report.fact("weights", "Weights", floor.weights / 1e6, "MB");
    report.latency("cold_start", "Request to first token", totals.iter().map(|s| s * 1e3));
    let of = |wake: &Wake, name: &String| wake.phases.get(name).copied().unwrap_or(0.0) * 1e3;
    for name in &names {
        let summary = Summary::of(wakes.iter().map(|wake| of(wake, name)));
        report.distributions.extend(summary.map(|summary| Distribution {
            name: format!("phase_{name}"),
            label: format!("  {name}"),
            unit: "ms".to_owned(),
            summary,
        }));
    }
    let rest =
        |wake: &Wake| (wake.to_first_token_s - wake.phases.values().sum::<f64>()).max(0.0) * 1e3;
    report.latency("phase_outside", "  outside of the replica's phases", wakes.iter().map(rest));
    let row = |(index, wake): (usize, &Wake)| {
        let mut parts: Vec<(String, f64)> =
            names.iter().map(|name| (name.clone(), of(wake, name))).collect();
        parts.push(("outside".to_owned(), rest(wake)));
        (format!("wake {}", index + 1), parts)
    };
    let mut rows: Vec<(String, Vec<(String, f64)>)> =
        wakes.iter().enumerate().take(20).map(row).collect();
    let parts = vec![
        ("spawn".to_owned(), floor.spawn_s * 1e3),
        ("one read of the weights".to_owned(), floor.read_s * 1e3),
    ];
    rows.push(("floor".to_owned(), parts));
    let (title, unit) = ("Each wake by phase".to_owned(), "ms".to_owned());
    report.charts.push(Chart::Bars { title, unit, rows });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_whatever_they_are_called() {
        let page = "# TYPE x histogram\n\
            tyndall_cold_start_seconds_sum{deployment=\"a\",phase=\"spawn\"} 0.25\n\
            tyndall_cold_start_seconds_sum{phase=\"new one\",deployment=\"a\"} 1e-3\n\
            tyndall_cold_start_seconds_count{phase=\"spawn\"} 3\n\
            tyndall_cold_start_seconds_sum{deployment=\"b\",phase=\"spawn\"} 0.25\n";
        let expected = [("spawn".to_owned(), 0.5), ("new one".to_owned(), 0.001)];
        assert_eq!(phases(page, SECONDS), Phases::from(expected));
        assert_eq!(phases(page, COUNTS), Phases::from([("spawn".to_owned(), 3.0)]));
        let line = "12:00 INFO demo woke in 84 ms: spawn 12 · first_step 1 · weights 71";
        assert_eq!(order(line), ["spawn", "first_step", "weights"]);
        assert!(order("nothing").is_empty());
    }

    #[test]
    fn what_no_phase_covers_is_shown() {
        let wake = |s: f64| Wake {
            to_first_token_s: s,
            phases: Phases::from([("b".to_owned(), 0.1), ("a".to_owned(), 0.2)]),
        };
        let mut report = Report::new("cold-start", &[]);
        let floor = Floor { spawn_s: 0.1, read_s: 0.1, weights: 1e6 };
        fill(&mut report, &[wake(0.4), wake(0.6)], &["b".to_owned()], &floor);
        let names: Vec<&str> = report.distributions.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["cold_start", "phase_b", "phase_a", "phase_outside"]);
        let outside = &report.distributions[3].summary;
        assert!((outside.mean - 200.0).abs() < 1e-6);
        let ratio = report.metrics.iter().find(|m| m.name == "cold_start_ratio").unwrap();
        assert!((ratio.value - 2.5).abs() < 1e-6);
    }
}
