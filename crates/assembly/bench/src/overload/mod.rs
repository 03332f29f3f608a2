//! `bench overload`: what is left of a deployment's throughput when more is asked than it can do.
//!
//! First clients that wait for each other's answers (closed loop) find the peak; then requests come
//! at multiples of it, whatever becomes of those before (open loop), each with a deadline after
//! which its client goes away. Goodput is what is answered with 200 by then.

mod load;
mod tally;
mod target;
mod wire;

use crate::error::BenchError;
use crate::processes::{Memory, cpu_s, memory, of_role};
use crate::progress::Progress;
use crate::random::Random;
use crate::report::{Chart, Report, Series};
use crate::scratch::Scratch;
use crate::serve::positive;
use crate::server::{Launch, Server};
use crate::text::number;
use crate::{Context, html};
use load::{Asker, closed, open};
use std::sync::Arc;
use std::time::Duration;
use tally::Tally;
use target::Target;

/// How long the first request may wait for its replica.
const START_DEADLINE: Duration = Duration::from_secs(300);
/// Between two looks at the proxy's memory.
const LOOK: Duration = Duration::from_millis(200);
/// From the end of all connections to the last of them.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// The begin of a phase that is not measured, at most.
const MAX_WARMUP_S: f64 = 1.0;
/// Reasons of lost requests that are told.
const MAX_TOLD: usize = 10;

/// What `bench overload` is asked for.
#[derive(Debug, clap::Args)]
pub struct OverloadArgs {
    /// What to run: demo, a directory, a Hugging Face id, or a deployment program
    #[arg(default_value = "demo")]
    pub target: String,
    /// Multiples of the peak at which requests come
    #[arg(long, value_delimiter = ',', default_value = "1,2,5,10", value_parser = positive)]
    pub factors: Vec<f64>,
    /// How long each of them lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive)]
    pub seconds: f64,
    /// Clients of the closed loop; the best of these is the peak
    #[arg(long, value_delimiter = ',', value_name = "N", default_value = "8,32,128,300",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub clients: Vec<u32>,
    /// When a client goes away without its answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive)]
    pub deadline: f64,
    /// Tells the server the deadline, in x-request-timeout-seconds
    #[arg(long)]
    pub tell_deadline: bool,
    /// Requests that the replica has at a time [default: the server's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_ongoing_requests: Option<u32>,
    /// Requests that wait for it [default: the server's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_queued_requests: Option<u32>,
    /// CPUs of the replica, which are a model's threads [default: the server's]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub num_cpus: Option<f64>,
    /// Tokens of each answer of a model
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub output_len: u32,
    /// Arguments of a program, as JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub args: String,
    /// The body of each request to a program
    #[arg(long, short = 'd', default_value = "null")]
    pub body: String,
    /// Decides when requests come
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Starts the server, finds the peak, and goes beyond it.
pub(crate) fn run(args: &OverloadArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("overload", &context.command);
    let scratch = Scratch::new(context)?;
    let target = Target::of(args)?;
    let file = scratch.write("serve.json", &target.config(args).to_string())?;
    let server = Server::launch(&Launch {
        executable: context.executable.clone(),
        target: file.display().to_string(),
        arguments: Vec::new(),
        ports: (0, 0),
        runtime_base: Some(scratch.path().to_owned()),
    })?;
    // One thread for all that sends and waits: the cores are the server's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| BenchError::of("failed to start a runtime", &error))?;
    let found = runtime.block_on(measure(args, &server, &target))?;
    report.set("model", &args.target);
    let factors: Vec<String> = args.factors.iter().map(|factor| number(*factor)).collect();
    report.set("factors", factors.join(","));
    report.set("seconds", args.seconds);
    report.set("deadline", format!("{} s", args.deadline));
    report.set("tell-deadline", args.tell_deadline);
    report.set("seed", args.seed);
    let default = || "the server's".to_owned();
    let bound = |given: Option<u32>| given.map_or_else(default, |bound| bound.to_string());
    report.set("max-ongoing-requests", bound(args.max_ongoing_requests));
    report.set("max-queued-requests", bound(args.max_queued_requests));
    report.set("num-cpus", args.num_cpus.map_or_else(default, |cpus| cpus.to_string()));
    fill(&mut report, &found);
    Ok(report)
}

/// Requests at one multiple of the peak.
#[derive(Debug)]
struct Phase {
    factor: f64,
    tally: Tally,
    /// Shares of a core: of what sends, the proxy, the replica.
    cpu: [f64; 3],
    /// The proxy's at its end.
    memory: Memory,
}

/// All that was found.
#[derive(Debug, Default)]
struct Found {
    /// Answers per second by clients, in closed loop.
    closed: Vec<(u32, f64)>,
    phases: Vec<Phase>,
    /// The proxy's memory before the overload, at most, and after it.
    memory: [Memory; 3],
}

impl Found {
    fn peak(&self) -> f64 {
        self.closed.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }
}

async fn measure(
    args: &OverloadArgs,
    server: &Server,
    target: &Target,
) -> Result<Found, BenchError> {
    let deadline = Duration::from_secs_f64(args.deadline.min(86_400.0));
    let told = args.tell_deadline.then_some(args.deadline);
    let request = target.request(args, server.url.authority(), told);
    let asker = Arc::new(Asker::new(server.url.address(), request, deadline));
    tokio::time::timeout(START_DEADLINE, asker.first()).await.map_or_else(
        |_| Err(BenchError::new("the server does not answer")),
        |first| first.map_err(|why| BenchError::new(format!("the server does not answer: {why}"))),
    )?;
    let mut found = Found::default();
    let warmup_s = MAX_WARMUP_S.min(args.seconds / 5.0);
    for &clients in &args.clients {
        let progress = Progress::spinner(&format!("{clients} clients"));
        let tally = closed(&asker, clients, args.seconds / 2.0, warmup_s).await;
        found.closed.push((clients, tally.goodput()));
        drop(progress);
    }
    let peak = found.peak();
    if peak <= 0.0 {
        return Err(BenchError::new("no request was answered within its deadline")
            .with_cure("raise --deadline or --seconds"));
    }
    let [proxy, replica] = ["proxy", "replica"].map(|role| of_role(server.pid(), role));
    let pids = [Some(&std::process::id()), proxy.first(), replica.first()];
    let proxy = *proxy.first().ok_or_else(|| BenchError::new("the server has no proxy"))?;
    let before = memory(proxy)?;
    let mut most = before;
    for (index, &factor) in args.factors.iter().enumerate() {
        let progress = Progress::spinner(&format!("{} times the peak", number(factor)));
        let used = || pids.map(|pid| pid.and_then(|pid| cpu_s(*pid).ok()).unwrap_or(0.0));
        let cpu_before = used();
        let random = Random::new(args.seed, index as u64);
        let sending = open(&asker, peak * factor, args.seconds, warmup_s, random);
        let watching = watch(proxy, &mut most);
        let (tally, cpu_after) = tokio::select! {
            tally = async { let tally = sending.await; (tally, used()) } => tally,
            never = watching => match never {},
        };
        let cpu = [0, 1, 2].map(|i| (cpu_after[i] - cpu_before[i]) / tally.took_s());
        found.phases.push(Phase { factor, tally, cpu, memory: memory(proxy)? });
        drop(progress);
    }
    asker.close();
    tokio::time::sleep(LAST_LOOK).await;
    let after = memory(proxy)?;
    found.memory = [before, larger(most, after), after];
    Ok(found)
}

fn larger(a: Memory, b: Memory) -> Memory {
    if b.pss_anon > a.pss_anon { b } else { a }
}

/// Keeps the largest that it sees.
async fn watch(pid: u32, most: &mut Memory) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Ok(now) = memory(pid) {
            *most = larger(*most, now);
        }
    }
}

fn fill(report: &mut Report, found: &Found) {
    let peak = found.peak();
    report.rate("peak", "Peak of the closed loop", peak, "req/s");
    for (clients, rate) in &found.closed {
        let label = format!("  {clients} clients");
        report.rate(&format!("closed_{clients}"), &label, *rate, "req/s");
    }
    let mut num_lost = 0;
    for phase in &found.phases {
        num_lost += phase.tally.num_lost();
        fill_phase(report, phase, peak);
    }
    report.cost("lost", "Requests that were lost", num_lost as f64, "");
    for ((name, label), held) in
        [("start", "before"), ("peak", "at most"), ("end", "after")].into_iter().zip(&found.memory)
    {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let own = format!("Proxy {label}, own pages");
        report.cost(&format!("proxy_anon_{name}"), &own, mb(held.pss_anon), "MB");
        report.cost(&format!("proxy_rss_{name}"), "  RSS", mb(held.rss), "MB");
    }
    let shown = |phase: &Phase| format!("e2el_{}x", number(phase.factor));
    let names: Vec<String> = found.phases.iter().map(shown).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let points = found.phases.iter().map(|phase| (phase.factor, phase.tally.goodput())).collect();
    report.charts.push(Chart::Plot {
        title: "Goodput".to_owned(),
        x: "requests, in multiples of the peak".to_owned(),
        y: "answers per second within the deadline".to_owned(),
        joined: true,
        series: vec![Series { name: "goodput".to_owned(), points }],
        limits: vec![("peak".to_owned(), peak)],
    });
    report.charts.push(html::shares("Latency of answers", &report.distributions, &names));
    for phase in &found.phases {
        let factor = number(phase.factor);
        for (reason, count) in phase.tally.lost().take(MAX_TOLD) {
            report.note(format!("lost at {factor}x: {count} times: {reason}"));
        }
    }
    report.forbid(num_lost, "requests were lost");
}

fn fill_phase(report: &mut Report, phase: &Phase, peak: f64) {
    let Phase { factor, tally, cpu, .. } = phase;
    let factor = number(*factor);
    let named = |what: &str| format!("{what}_{factor}x");
    let sent = tally.num_sent().max(1) as f64;
    let label = format!("At {factor}x: goodput");
    report.rate(&named("goodput"), &label, tally.goodput(), "req/s");
    let share = 100.0 * tally.goodput() / peak;
    report.rate(&named("of_peak"), "  of the peak", share, "%");
    report.fact(&named("sent"), "  sent", sent / tally.seconds(), "req/s");
    let refused = 100.0 * tally.num_refused() as f64 / sent;
    report.fact(&named("refused"), "  refused with the time to come again", refused, "%");
    report.cost(&named("lost"), "  lost", tally.num_lost() as f64, "");
    for (name, share) in ["sender", "proxy", "replica"].into_iter().zip(cpu) {
        let label = format!("  {name}, of a core");
        report.fact(&named(&format!("cpu_{name}")), &label, 100.0 * share, "%");
    }
    let own = phase.memory.pss_anon as f64 / 1e6;
    report.cost(&named("proxy_anon"), "  proxy, own pages at the end", own, "MB");
    let label = format!("Answered at {factor}x");
    report.latency(&named("e2el"), &label, tally.latencies_ms());
}

#[cfg(test)]
mod tests {
    use super::*;
    use tally::Came;

    #[test]
    fn goodput_is_told_beside_the_peak_and_losses_fail() {
        let mut tally = Tally::new(2.0, 1.0);
        for (at_s, came) in [
            (0.5, Came::Answered),
            (1.5, Came::Answered),
            (1.9, Came::Answered),
            (2.5, Came::Answered),
            (1.0, Came::Refused),
            (1.1, Came::Lost("reset".to_owned())),
        ] {
            tally.sent();
            tally.ended(at_s, Duration::from_millis(100), came);
        }
        tally.close(3.0);
        let phase = Phase { factor: 10.0, tally, cpu: [0.1, 0.2, 0.3], memory: Memory::default() };
        let found = Found {
            closed: vec![(8, 1.0), (32, 4.0)],
            phases: vec![phase],
            memory: [Memory::default(); 3],
        };
        let mut report = Report::new("overload", &[]);
        fill(&mut report, &found);
        let value = |name: &str| report.metrics.iter().find(|m| m.name == name).unwrap().value;
        assert_eq!((value("peak"), value("goodput_10x"), value("of_peak_10x")), (4.0, 2.0, 50.0));
        assert!((value("refused_10x") - 100.0 / 6.0).abs() < 1e-9);
        assert_eq!((value("sent_10x"), value("lost_10x"), value("lost")), (3.0, 1.0, 1.0));
        assert_eq!(report.failures, ["1 requests were lost"]);
        assert_eq!(report.notes, ["lost at 10x: 1 times: reset"]);
        assert_eq!(report.distributions[0].summary.count, 4);
    }
}
