//! `bench idle --deployments N`: what many deployments cost that nobody asks.

use crate::error::BenchError;
use crate::footprint::{IdleArgs, parts, pause, runtime};
use crate::processes::{cpu_s, family, marked, memory, role, total};
use crate::progress::Progress;
use crate::report::{Chart, Report};
use crate::scratch::Scratch;
use crate::server::{APPLICATIONS, Launch, SUBMISSIONS, Server};
use crate::{Context, headers};
use http::Method;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tyndall_types::ApplicationStatus;
use tyndall_types::protocol::InstanceDetails;

/// How long all of them may take to be there.
const DEADLINE: Duration = Duration::from_secs(1800);
/// Between two looks, at least; a look that takes long is followed by a longer pause.
const POLL: Duration = Duration::from_millis(20);
const PAUSE_PER_LOOK: u32 = 4;
/// Each question is asked so many times.
const LOOKS: usize = 5;

/// Registers that many applications with one config file and watches the server.
pub(crate) fn run(args: &IdleArgs, count: u32, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("idle", &context.command);
    let scratch = Scratch::new(context)?;
    let base = scratch.path().join("run");
    std::fs::create_dir(&base)
        .map_err(|error| BenchError::of("failed to create a directory", &error))?;
    // The one before the others: it is in their file too, so that it stays.
    let file = scratch.write("serve.json", &config(&args.model, 1).to_string())?;
    let state = scratch.path().join("state").display().to_string();
    let mut arguments = vec!["--state-dir".to_owned(), state];
    arguments.extend(args.run_args.iter().cloned());
    let server = Server::launch(&Launch {
        executable: context.executable.clone(),
        target: file.display().to_string(),
        arguments,
        ports: (0, 0),
        runtime_base: Some(base.clone()),
    })?;
    let runtime = runtime()?;
    pause(&runtime, args.settle);
    let pids = family(server.pid());
    let before = total(&pids)?;
    report.set("model", &args.model);
    report.set("deployments", count);
    report.set("seconds", args.seconds);
    register(&mut report, &runtime, &server, args, count)?;
    questions(&mut report, &runtime, &server, context)?;
    watch(&mut report, &runtime, args, &pids)?;
    let held = total(&pids)?;
    let added = f64::from(count.saturating_sub(1).max(1));
    let per = |after: u64, before: u64| (after as f64 - before as f64) / added;
    // Pages of the binary are shared with whoever else runs it, which says nothing of deployments.
    let per_deployment = per(held.pss_anon, before.pss_anon);
    let label = "Own pages of one deployment more (PSS)";
    report.cost("pss_per_deployment", label, per_deployment, "bytes");
    report.cost("pss", "Memory, shared pages once (PSS)", held.pss as f64 / 1e6, "MB");
    report.cost("rss", "Memory, shared pages in each (RSS)", held.rss as f64 / 1e6, "MB");
    report.cost("pss_anon", "Of the PSS, own pages", held.pss_anon as f64 / 1e6, "MB");
    let mut rows = Vec::new();
    for &pid in &pids {
        let (role, held) = (role(pid), memory(pid)?);
        let label = format!("  {role} (PSS)");
        report.cost(&format!("pss_{role}"), &label, held.pss as f64 / 1e6, "MB");
        rows.push((role, parts(held)));
    }
    let (title, unit) = ("Memory by process".to_owned(), "MB".to_owned());
    report.charts.push(Chart::Bars { title, unit, rows });
    drop(server);
    let num_left = marked(&base.display().to_string()).len();
    report.forbid(num_left, "processes were left");
    Ok(report)
}

/// Applications of one model that sleep, each at its own route.
fn config(model: &str, count: u32) -> Value {
    let one = |index: u32| {
        let name = format!("m{index:04}");
        json!({
            "name": name, "route_prefix": format!("/{name}"), "model": model,
            "deployment_config": {"autoscaling_config": {"min_replicas": 0, "max_replicas": 1}},
        })
    };
    json!({"applications": (0..count).map(one).collect::<Vec<_>>()})
}

fn register(
    report: &mut Report,
    runtime: &Runtime,
    server: &Server,
    args: &IdleArgs,
    count: u32,
) -> Result<(), BenchError> {
    let text = config(&args.model, count).to_string();
    let bytes = text.len() as f64;
    let start = Instant::now();
    let sent = runtime.block_on(server.admin().tell_text(Method::PUT, SUBMISSIONS, text));
    sent.map_err(|error| BenchError::of("the config file was not accepted", &error))?;
    report.cost(
        "accepted",
        "Config file sent to accepted",
        start.elapsed().as_secs_f64() * 1e3,
        "ms",
    );
    report.fact("config", "Config file", bytes / 1e6, "MB");
    let progress = Progress::of("running", u64::from(count));
    loop {
        let look = Instant::now();
        let states = runtime.block_on(states(server));
        let num_running =
            states.iter().filter(|state| **state == ApplicationStatus::Running).count();
        progress.set(num_running as u64);
        if num_running == count as usize {
            break;
        }
        if states.contains(&ApplicationStatus::DeployFailed) {
            return Err(BenchError::new("an application was not deployed")
                .with_cure("see what `tyndall run` says of the same model"));
        }
        if start.elapsed() > DEADLINE {
            let waited_s = DEADLINE.as_secs();
            return Err(BenchError::new(format!(
                "{num_running} of {count} applications run after {waited_s} s"
            )));
        }
        let wait = POLL.max(look.elapsed() * PAUSE_PER_LOOK);
        pause(runtime, wait.as_secs_f64());
    }
    let all_s = start.elapsed().as_secs_f64();
    report.cost("all_running", "Config file sent to all RUNNING", all_s, "s");
    report.rate("deploy_throughput", "Applications deployed", f64::from(count) / all_s, "1/s");
    Ok(())
}

/// How each application is doing; nothing where the admin API does not answer.
async fn states(server: &Server) -> Vec<ApplicationStatus> {
    let details: Result<InstanceDetails, _> = server.admin().get(APPLICATIONS).await;
    let applications = details.map(|details| details.applications).unwrap_or_default();
    applications.into_values().map(|application| application.status).collect()
}

/// How long it takes to be told of all of them.
fn questions(
    report: &mut Report,
    runtime: &Runtime,
    server: &Server,
    context: &Context,
) -> Result<(), BenchError> {
    let headers = headers::of(&server.admin_url, &[])?;
    let (mut asked_ms, mut shown_ms, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..LOOKS {
        let start = Instant::now();
        let answer = runtime.block_on(crate::fetch(&server.admin_url, APPLICATIONS, &headers));
        let answer = answer.map_err(|why| BenchError::new(format!("no details: {why}")))?;
        asked_ms.push(start.elapsed().as_secs_f64() * 1e3);
        bytes = answer.len();
        let start = Instant::now();
        let status = Command::new(&context.executable)
            .args(["status", "--address", &server.admin_url.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        let status = status.map_err(|error| BenchError::of("failed to run status", &error))?;
        if !status.success() {
            return Err(BenchError::new(format!("tyndall status ended with {status}")));
        }
        shown_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    report.fact("details", "All that the admin API says", bytes as f64 / 1e6, "MB");
    report.latency("details", "GET /api/tyndall/applications/", asked_ms);
    report.latency("status", "tyndall status", shown_ms);
    Ok(())
}

/// Processor time while nobody asks.
fn watch(
    report: &mut Report,
    runtime: &Runtime,
    args: &IdleArgs,
    pids: &[u32],
) -> Result<(), BenchError> {
    let progress = Progress::spinner("watching");
    pause(runtime, args.settle);
    let used = || pids.iter().map(|&pid| cpu_s(pid)).sum::<Result<f64, _>>();
    let (before, start) = (used()?, Instant::now());
    pause(runtime, args.seconds);
    let share = (used()? - before) / start.elapsed().as_secs_f64();
    drop(progress);
    report.cost("cpu", "Processor time, of one core", share * 100.0, "%");
    report.fact("processes", "Processes at zero replicas", pids.len() as f64, "");
    Ok(())
}
