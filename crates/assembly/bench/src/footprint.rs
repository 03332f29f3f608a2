//! `bench idle` and `bench memory`: what processes hold when nobody asks, and when many hold the
//! same model.

use crate::error::BenchError;
use crate::processes::{Memory, cpu_s, family, memory, role, total};
use crate::progress::Progress;
use crate::report::{Chart, Report};
use crate::serve::positive;
use crate::server::Server;
use crate::{Context, headers};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tyndall_types::ReplicaState;
use tyndall_types::protocol::DeploymentDetails;

/// Requests to one more replica, so that each has read all of its weights: routing is at random.
const REQUESTS_PER_REPLICA: usize = 8;

/// What `bench idle` is asked for.
#[derive(Debug, clap::Args)]
pub struct IdleArgs {
    /// What to run: demo, a directory, or a Hugging Face id
    #[arg(default_value = "demo")]
    pub model: String,
    /// Register so many applications of the model that sleep, each at its own route
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub deployments: Option<u32>,
    /// How long to watch
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = positive)]
    pub seconds: f64,
    /// How long to wait before, for what ends start-up
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = positive)]
    pub settle: f64,
    /// Further arguments of `tyndall run`
    #[arg(last = true, value_name = "RUN_ARGS")]
    pub run_args: Vec<String>,
}

/// What `bench memory` is asked for.
#[derive(Debug, clap::Args)]
pub struct MemoryArgs {
    /// What to run: demo, a directory, or a Hugging Face id
    #[arg(default_value = "demo")]
    pub model: String,
    /// Replicas of it
    #[arg(long, short = 'n', default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub replicas: u32,
    /// Further arguments of `tyndall run`
    #[arg(last = true, value_name = "RUN_ARGS")]
    pub run_args: Vec<String>,
}

/// Watches all processes of a server without replicas.
pub(crate) fn idle(args: &IdleArgs, context: &Context) -> Result<Report, BenchError> {
    if let Some(count) = args.deployments {
        return crate::deployments::run(args, count, context);
    }
    let mut report = Report::new("idle", &context.command);
    let server = Server::start(&context.executable, &args.model, &args.run_args)?;
    let runtime = runtime()?;
    let none = |details: &DeploymentDetails| details.replicas.is_empty();
    runtime.block_on(server.wait_for("no replica runs", none))?;
    let progress = Progress::spinner("watching");
    pause(&runtime, args.settle);
    let pids = family(server.pid());
    let used = || pids.iter().map(|&pid| cpu_s(pid)).sum::<Result<f64, _>>();
    let (before, start) = (used()?, Instant::now());
    pause(&runtime, args.seconds);
    let share = (used()? - before) / start.elapsed().as_secs_f64();
    drop(progress);
    let held = total(&pids)?;
    report.set("model", &args.model);
    report.set("seconds", args.seconds);
    report.fact("processes", "Processes at zero replicas", pids.len() as f64, "");
    report.cost("pss", "Memory, shared pages once (PSS)", held.pss as f64 / 1e6, "MB");
    report.cost("rss", "Memory, shared pages in each (RSS)", held.rss as f64 / 1e6, "MB");
    report.cost("pss_anon", "Of the PSS, own pages", held.pss_anon as f64 / 1e6, "MB");
    report.cost("cpu", "Processor time, of one core", share * 100.0, "%");
    let rows = pids.iter().map(|&pid| Ok((role(pid), parts(memory(pid)?))));
    report.charts.push(Chart::Bars {
        title: "Memory by process".to_owned(),
        unit: "MB".to_owned(),
        rows: rows.collect::<Result<_, BenchError>>()?,
    });
    Ok(report)
}

/// Holds replicas of one model beside each other.
pub(crate) fn replicas(args: &MemoryArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("memory", &context.command);
    let count = args.replicas.to_string();
    let mut arguments = args.run_args.clone();
    arguments.extend(["--min-replicas", &count, "--max-replicas", &count].map(str::to_owned));
    let server = Server::start(&context.executable, &args.model, &arguments)?;
    let runtime = runtime()?;
    let progress = Progress::spinner("replicas start");
    let is_full = |details: &DeploymentDetails| {
        let running = details.replicas.iter().filter(|r| r.state == ReplicaState::Running);
        running.count() == args.replicas as usize
    };
    let details = runtime.block_on(server.wait_for("all replicas run", is_full))?;
    runtime.block_on(ask_all(&server, args.replicas as usize))?;
    drop(progress);
    let pids: Vec<u32> = details.replicas.iter().filter_map(|replica| replica.pid).collect();
    let each: Vec<Memory> = pids.iter().map(|&pid| memory(pid)).collect::<Result<_, _>>()?;
    let held = each.iter().fold(Memory::default(), |sum, one| sum + *one);
    report.set("model", &args.model);
    report.set("replicas", args.replicas);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    report.cost("pss", "All replicas, shared pages once (PSS)", mb(held.pss), "MB");
    report.cost("rss", "All replicas, shared pages in each (RSS)", mb(held.rss), "MB");
    report.cost("pss_file", "Of the PSS, files: weights and binary", mb(held.pss_file), "MB");
    report.cost("pss_anon", "Of the PSS, own pages", mb(held.pss_anon), "MB");
    let mean_anon = mb(held.pss_anon) / pids.len().max(1) as f64;
    report.cost("replica_anon", "Own pages of one replica", mean_anon, "MB");
    let shared = held.rss as f64 / held.pss.max(1) as f64;
    report.rate("sharing", "RSS over PSS", shared, "x");
    let weights = crate::cold_start::weights_bytes(&args.model, context)? / 1e6;
    report.fact("weights", "One copy of the weights", weights, "MB");
    let copies = weights * f64::from(args.replicas);
    report.fact("copies", "As many copies as there are replicas", copies, "MB");
    let rows = each.iter().enumerate();
    let rows = rows.map(|(index, held)| (format!("replica {}", index + 1), parts(*held)));
    report.charts.push(Chart::Bars {
        title: "Memory by replica, shared pages divided among them".to_owned(),
        unit: "MB".to_owned(),
        rows: rows.collect(),
    });
    Ok(report)
}

/// Requests side by side.
async fn ask_all(server: &Server, replicas: usize) -> Result<(), BenchError> {
    let headers = headers::of(&server.url, &[])?;
    let body = json!({"model": server.model, "prompt": "Hello there", "max_tokens": 2});
    let body = body.to_string();
    for _ in 0..replicas * REQUESTS_PER_REPLICA {
        let answer = crate::post(&server.url, "/v1/completions", &headers, &body).await;
        answer.map_err(|error| BenchError::new(format!("the server did not answer: {error}")))?;
    }
    Ok(())
}

pub(crate) fn parts(held: Memory) -> Vec<(String, f64)> {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let other = held.pss.saturating_sub(held.pss_file + held.pss_anon);
    vec![
        ("files".to_owned(), mb(held.pss_file)),
        ("own pages".to_owned(), mb(held.pss_anon)),
        ("shared memory".to_owned(), mb(other)),
    ]
}

pub(crate) fn runtime() -> Result<Runtime, BenchError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| BenchError::of("failed to start a runtime", &error))
}

/// Lets time pass, which is what is measured here.
pub(crate) fn pause(runtime: &Runtime, seconds: f64) {
    let time = Duration::from_secs_f64(seconds.min(86_400.0));
    // A timer is made inside of its runtime.
    runtime.block_on(async { tokio::time::sleep(time).await });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_and_parts_add_up() {
        pause(&runtime().unwrap(), 0.001);
        let held =
            Memory { rss: 9_000_000, pss: 6_000_000, pss_file: 3_000_000, pss_anon: 2_000_000 };
        let sum: f64 = parts(held).iter().map(|part| part.1).sum();
        assert!((sum - 6.0).abs() < 1e-9);
    }
}
