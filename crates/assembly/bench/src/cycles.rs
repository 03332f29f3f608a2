//! `bench cycles`: a model sleeps and wakes, again and again: what is lost, what is left, how soon it
//! sleeps, and what the control plane adds to a wake.

use crate::cold_start::{Counted, Phases, counted};
use crate::error::BenchError;
use crate::footprint::runtime;
use crate::processes::{Memory, family, marked, of_role, total};
use crate::progress::Progress;
use crate::report::Report;
use crate::scratch::Scratch;
use crate::serve::positive;
use crate::server::{APPLICATIONS, Launch, Server};
use crate::{Context, MAX_ANSWER, headers, html};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tyndall_transport::{Client, read_body};
use tyndall_types::protocol::{ColdStartPhases, InstanceDetails, ReplicaDetails};
use tyndall_types::with_causes;

/// Between two looks whether the model sleeps.
const POLL: Duration = Duration::from_millis(2);
/// How long it may take to fall asleep, and to answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// Failures that are told one by one.
const MAX_TOLD: usize = 10;

/// What `bench cycles` is asked for.
#[derive(Debug, clap::Args)]
pub struct CyclesArgs {
    /// What to run: demo, a directory, or a Hugging Face id
    #[arg(default_value = "demo")]
    pub model: String,
    /// Cycles that are measured, after one that fills the page cache
    #[arg(long, short = 'n', default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub num_cycles: u32,
    /// After how long without a request the model sleeps
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2, value_parser = positive)]
    pub idle_timeout: f64,
}

/// What was measured of one cycle, in milliseconds; what could not be seen is absent.
#[derive(Debug, Default)]
struct Cycle {
    /// The request, from end to end.
    e2el: f64,
    /// From sending it to the controller's decision to start a replica.
    decision: Option<f64>,
    /// What the proxy counts as the wake.
    wake: Option<f64>,
    /// Of it, what is neither the spawn nor the replica's own work.
    control: Option<f64>,
    /// Of that, from ready to the request in the engine.
    handover: Option<f64>,
    /// From its last byte to no replica, less the idle timeout.
    to_zero: f64,
}

/// Runs the cycles and reports.
pub(crate) fn run(args: &CyclesArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("cycles", &context.command);
    let scratch = Scratch::new(context)?;
    let base = scratch.path().join("run");
    std::fs::create_dir(&base)
        .map_err(|error| BenchError::of("failed to create a directory", &error))?;
    let server = Server::launch(&Launch {
        executable: context.executable.clone(),
        target: args.model.clone(),
        arguments: vec!["--idle-timeout".to_owned(), args.idle_timeout.to_string()],
        ports: (0, 0),
        runtime_base: Some(base.clone()),
    })?;
    let runtime = runtime()?;
    let mut sleeper = Sleeper::new(&server, args.idle_timeout)?;
    let found = runtime.block_on(sleeper.run(args.num_cycles as usize))?;
    drop(server);
    let num_left = marked(&base.display().to_string()).len();
    report.set("model", &args.model);
    report.set("num-cycles", args.num_cycles);
    report.set("idle-timeout", format!("{} s", args.idle_timeout));
    fill(&mut report, &found, num_left);
    Ok(report)
}

/// All that was found.
#[derive(Debug, Default)]
struct Found {
    cycles: Vec<Cycle>,
    /// Why requests had no right answer.
    lost: Vec<String>,
    /// Supervisor, controller and proxy.
    before: Memory,
    after: Memory,
}

/// A server whose model sleeps whenever it can.
struct Sleeper<'a> {
    server: &'a Server,
    client: Client,
    headers: HeaderMap,
    idle_timeout: Duration,
    /// The answer of the first cycle.
    expected: Option<String>,
    /// Phases that were counted so far.
    counted: Counted,
}

impl<'a> Sleeper<'a> {
    fn new(server: &'a Server, idle_timeout_s: f64) -> Result<Self, BenchError> {
        Ok(Self {
            server,
            client: server.url.client(),
            headers: headers::of(&server.url, &[])?,
            idle_timeout: Duration::from_secs_f64(idle_timeout_s.min(86_400.0)),
            expected: None,
            counted: Counted::default(),
        })
    }

    async fn run(&mut self, count: usize) -> Result<Found, BenchError> {
        let progress = Progress::of("cycles", count as u64);
        let mut found = Found::default();
        self.cycle().await?.map_err(|reason| {
            BenchError::new(format!("the server did not answer: {reason}"))
                .with_cure("see what `tyndall run` says of the same model")
        })?;
        found.before = total(&family(self.server.pid()))?;
        for _ in 0..count {
            match self.cycle().await? {
                Ok(cycle) => found.cycles.push(cycle),
                Err(reason) => found.lost.push(reason),
            }
            progress.advance();
        }
        found.after = total(&family(self.server.pid()))?;
        Ok(found)
    }

    /// One request and its sleep; the inner error is a lost request.
    async fn cycle(&mut self) -> Result<Result<Cycle, String>, BenchError> {
        let sent_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = Instant::now();
        let answered = tokio::time::timeout(DEADLINE, self.ask()).await;
        let end = Instant::now();
        let answered = answered.unwrap_or_else(|_| Err("no answer".to_owned()));
        let replica = self.replicas().await.into_iter().flatten().next();
        let asleep = self.asleep(end).await?;
        let timing = match answered {
            Ok(timing) => timing,
            Err(reason) => {
                self.counted = Counted::default();
                return Ok(Err(reason));
            }
        };
        let after = counted(self.server, &self.headers, &self.counted).await?;
        let before = std::mem::replace(&mut self.counted, after);
        let ready_ms: f64 = self
            .counted
            .seconds
            .iter()
            .filter(|(name, _)| {
                ![ColdStartPhases::HANDOVER, ColdStartPhases::FIRST_STEP].contains(&name.as_str())
            })
            .map(|(name, s)| (s - before.seconds.get(name).copied().unwrap_or(0.0)) * 1e3)
            .sum();
        let wake = timing.get("wake").copied().filter(|ms| *ms > 0.0);
        let decided_at_ms = replica.map(|replica| replica.start_time_s * 1e3);
        Ok(Ok(Cycle {
            e2el: (end - start).as_secs_f64() * 1e3,
            decision: decided_at_ms.map(|at| at - sent_at.as_secs_f64() * 1e3),
            wake,
            control: wake.map(|ms| (ms - ready_ms).max(0.0)),
            handover: timing.get("wake.handover").copied(),
            to_zero: (asleep - end).as_secs_f64() * 1e3 - self.idle_timeout.as_secs_f64() * 1e3,
        }))
    }

    /// Sends the request; where its time went.
    async fn ask(&mut self) -> Result<Phases, String> {
        let body = json!({"model": self.server.model, "prompt": "Hello there", "temperature": 0,
            "max_tokens": 4, "ignore_eos": true});
        let mut request = Request::new(Bytes::from(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/v1/completions");
        *request.headers_mut() = self.headers.clone();
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        let response = self.client.send(request).await;
        let (head, body) = response.map_err(|e| with_causes(e.to_string(), &e))?.into_parts();
        let body = read_body(body, MAX_ANSWER).await;
        let body = body.map_err(|error| with_causes(error.to_string(), &error))?;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = json["choices"][0]["text"].as_str().filter(|_| head.status == StatusCode::OK);
        let Some(text) = text else {
            let said: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            return Err(format!("status {}: {said}", head.status.as_u16()));
        };
        let expected = self.expected.get_or_insert_with(|| text.to_owned());
        if text != expected {
            return Err(format!("the answer is {text:?}, not {expected:?}"));
        }
        let timing = head.headers.get("server-timing").and_then(|value| value.to_str().ok());
        Ok(durations(timing.unwrap_or_default()))
    }

    /// The replicas that the admin API shows; none where it does not answer.
    async fn replicas(&self) -> Option<Vec<ReplicaDetails>> {
        let details: InstanceDetails = self.server.admin().get(APPLICATIONS).await.ok()?;
        let all = details.applications.into_values().flat_map(|app| app.deployments.into_values());
        Some(all.flat_map(|deployment| deployment.replicas).collect())
    }

    /// Waits until no replica is left, neither there nor among the processes; when that was seen.
    async fn asleep(&self, since: Instant) -> Result<Instant, BenchError> {
        let wait = self.idle_timeout.saturating_sub(since.elapsed());
        tokio::time::sleep(wait).await;
        loop {
            let is_none = self.replicas().await.is_some_and(|replicas| replicas.is_empty());
            if is_none && of_role(self.server.pid(), "replica").is_empty() {
                return Ok(Instant::now());
            }
            if since.elapsed() > self.idle_timeout + DEADLINE {
                let waited_s = DEADLINE.as_secs();
                return Err(BenchError::new(format!(
                    "a replica is left {waited_s} s after the idle timeout"
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Milliseconds by name, of `a;dur=1.5, b;dur=2`.
fn durations(timing: &str) -> Phases {
    let one = |metric: &str| {
        let (name, ms) = metric.trim().split_once(";dur=")?;
        Some((name.to_owned(), ms.parse().ok()?))
    };
    timing.split(',').filter_map(one).collect()
}

fn fill(report: &mut Report, found: &Found, num_left: usize) {
    let Found { cycles, lost, before, after } = found;
    report.fact("cycles", "Cycles", cycles.len() as f64, "");
    report.cost("lost", "Requests that were lost", lost.len() as f64, "");
    report.cost("strays", "Processes that were left", num_left as f64, "");
    let mb = |bytes: u64| bytes as f64 / 1e6;
    for (name, label, held) in [("before", "before", before), ("after", "after", after)] {
        let pss = format!("Supervisor, controller, proxy, {label} (PSS)");
        report.cost(&format!("pss_{name}"), &pss, mb(held.pss), "MB");
        report.cost(&format!("rss_{name}"), &format!("  {label} (RSS)"), mb(held.rss), "MB");
        report.cost(
            &format!("anon_{name}"),
            &format!("  {label}, own pages"),
            mb(held.pss_anon),
            "MB",
        );
    }
    let growth_kb = (after.pss_anon as f64 - before.pss_anon as f64) / 1e3;
    let per_cycle = growth_kb / cycles.len().max(1) as f64;
    report.cost("growth", "Growth of own pages per cycle", per_cycle, "kB");
    report.latency(
        "to_zero",
        "Last byte to no replica, less the timeout",
        cycles.iter().map(|c| c.to_zero),
    );
    report.latency("e2el", "Request, end to end", cycles.iter().map(|c| c.e2el));
    report.latency("wake", "  wake", cycles.iter().filter_map(|c| c.wake));
    let control = "    control: neither spawn nor the replica's work";
    report.latency("control", control, cycles.iter().filter_map(|c| c.control));
    let handover = "      ready to request in the engine";
    report.latency("handover", handover, cycles.iter().filter_map(|c| c.handover));
    let decision = "Request sent to the decision to start a replica";
    report.latency("decision", decision, cycles.iter().filter_map(|c| c.decision));
    report.charts.push(html::shares("Wake", &report.distributions, &["e2el", "wake"]));
    for reason in lost.iter().take(MAX_TOLD) {
        report.note(format!("lost: {reason}"));
    }
    report.forbid(lost.len(), "requests were lost");
    report.forbid(num_left, "processes were left");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_read() {
        let timing = durations("queue;dur=0.0, wake;dur=80.5, wake.spawn;dur=14.0, x, y;dur=z");
        let expected = [("queue", 0.0), ("wake", 80.5), ("wake.spawn", 14.0)];
        assert_eq!(timing, expected.map(|(name, ms)| (name.to_owned(), ms)).into());
    }

    #[test]
    fn what_is_lost_or_left_is_a_failure() {
        let mut report = Report::new("cycles", &[]);
        let lost = vec!["no answer".to_owned()];
        fill(&mut report, &Found { lost, ..Found::default() }, 2);
        assert_eq!(report.failures, ["1 requests were lost", "2 processes were left"]);
        assert_eq!(report.notes, ["lost: no answer"]);
    }
}
