//! `bench chaos`: what becomes of requests while processes are killed and versions change.
//!
//! Clients ask on a thread of their own and write down what they see. The injector, on the main
//! thread, writes down what it did and when. Only at the end each request is classified by both, so
//! that what a fault excuses is decided by one function.

mod client;
mod faults;
mod node;
mod outcome;

use crate::error::BenchError;
use crate::progress::Progress;
use crate::random::Random;
use crate::report::Report;
use crate::serve::positive;
use crate::{Context, html};
use client::{Load, keep_asking};
use faults::{Fault, Injector, Log};
use node::Node;
use outcome::{App, Asked, Came, Class, classify};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Of so many clients, one asks the application that sleeps.
const CLIENTS_PER_SLEEPY: usize = 4;
/// Lost requests that are told one by one.
const MAX_TOLD: usize = 20;
/// How long clients may take to end: a request may last for its whole deadline.
const LAST_ANSWERS: Duration = Duration::from_secs(70);

/// What `bench chaos` is asked for.
#[derive(Debug, clap::Args)]
pub struct ChaosArgs {
    /// How long faults are injected
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = positive)]
    pub seconds: f64,
    /// Decides which fault comes when
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Clients that ask at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: u32,
    /// Which faults there are [default: each of them]
    #[arg(long, value_delimiter = ',', value_name = "FAULTS")]
    pub faults: Vec<Fault>,
    /// Keep what the server says
    #[arg(long, value_name = "FILE")]
    pub server_log: Option<PathBuf>,
}

/// Starts the server and the clients, injects faults, and reports.
pub(crate) fn run(args: &ChaosArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("chaos", &context.command);
    // The main thread injects; clients have one of their own.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| BenchError::of("failed to start a runtime", &error))?;
    let node = Node::start(&runtime, context)?;
    let load = Arc::new(runtime.block_on(Load::new(node.url()))?);
    let kinds = kinds(&args.faults);
    let mut injector = Injector::new(node, kinds.clone(), Random::new(args.seed, 0));
    let start = Instant::now();
    let clients: Vec<_> = (0..args.clients as usize)
        .map(|index| {
            let is_sleepy = index % CLIENTS_PER_SLEEPY == CLIENTS_PER_SLEEPY - 1
                || (index == 1 && (args.clients as usize) < CLIENTS_PER_SLEEPY);
            let app = if is_sleepy { App::Sleepy } else { App::Steady };
            let random = Random::new(args.seed, 1 + index as u64);
            runtime.spawn(keep_asking(load.clone(), app, random))
        })
        .collect();
    let injected = inject(&mut injector, args.seconds);
    let took_s = start.elapsed().as_secs_f64();
    load.end();
    join(&runtime, clients);
    let Injector { node, mut log, .. } = injector;
    let num_failed_starts = node.num_failed_starts;
    let (num_left, said) = node.end();
    if let Some(path) = &args.server_log {
        std::fs::write(path, said.join("\n") + "\n").map_err(|error| {
            BenchError::of(&format!("failed to write {}", path.display()), &error)
        })?;
    }
    if let Err(error) = injected {
        log.problems.push(error.to_string());
    }
    let found = Found { asked: load.asked(), log, start, took_s, num_left };
    report.set("seconds", args.seconds);
    report.set("seed", args.seed);
    report.set("clients", args.clients);
    let names: Vec<&str> = kinds.iter().map(|fault| fault.name()).collect();
    report.set("faults", names.join(","));
    if num_failed_starts > 0 {
        report.note(format!("{num_failed_starts} starts met what was left of the server before"));
    }
    fill(&mut report, &found);
    Ok(report)
}

/// Those that were asked for, each once; all of them when none was.
fn kinds(given: &[Fault]) -> Vec<Fault> {
    let all = <Fault as clap::ValueEnum>::value_variants();
    let given: BTreeSet<Fault> = given.iter().copied().collect();
    all.iter().copied().filter(|fault| given.is_empty() || given.contains(fault)).collect()
}

fn inject(injector: &mut Injector<'_>, seconds: f64) -> Result<(), BenchError> {
    let progress = Progress::spinner("injecting faults");
    let until = Instant::now() + Duration::from_secs_f64(seconds.min(1e7));
    while Instant::now() < until {
        injector.next()?;
        progress.advance();
    }
    injector.settle();
    Ok(())
}

fn join(runtime: &Runtime, clients: Vec<tokio::task::JoinHandle<()>>) {
    let all = async {
        for client in clients {
            // One that failed has written down less, and nothing wrong.
            drop(client.await);
        }
    };
    runtime.block_on(async { drop(tokio::time::timeout(LAST_ANSWERS, all).await) });
}

/// All that is known at the end.
struct Found {
    asked: Vec<Asked>,
    log: Log,
    start: Instant,
    took_s: f64,
    /// Processes that are left.
    num_left: usize,
}

impl Found {
    fn at_s(&self, time: Instant) -> f64 {
        time.saturating_duration_since(self.start).as_secs_f64()
    }

    /// From each fault of a kind to the first answer to a request that was sent after it.
    fn recoveries_ms(&self, kind: Fault) -> Vec<f64> {
        let of_kind = self.log.faults.iter().filter(|(fault, _)| *fault == kind);
        let first_answer = |at: Instant| {
            let after =
                self.asked.iter().filter(|one| one.came == Came::Answered && one.start >= at);
            after.map(|one| one.end - at).min()
        };
        of_kind.filter_map(|(_, at)| Some(first_answer(*at)?.as_secs_f64() * 1e3)).collect()
    }

    fn describe(&self, lost: &Asked) -> String {
        let kind = if lost.is_stream { "stream" } else { "whole answer" };
        let before = self.log.faults.iter().rev().find(|(_, at)| *at <= lost.end);
        let before = before.map_or_else(String::new, |(fault, at)| {
            format!("; the last fault was {} at {:.3} s", fault.name(), self.at_s(*at))
        });
        format!(
            "lost: a {kind} of {}, from {:.3} to {:.3} s: {:?}{before}",
            lost.app.name(),
            self.at_s(lost.start),
            self.at_s(lost.end),
            lost.came
        )
    }
}

fn fill(report: &mut Report, found: &Found) {
    let Found { asked, log, .. } = found;
    let classes: Vec<Class> = asked.iter().map(|one| classify(one, &log.windows)).collect();
    let count = |class: Class| classes.iter().filter(|one| **one == class).count();
    report.fact("sent", "Requests", asked.len() as f64, "");
    report.fact("answered", "  answered", count(Class::Answered) as f64, "");
    report.fact(
        "refused",
        "  refused, with the time to come again",
        count(Class::Refused) as f64,
        "",
    );
    let cut = "  cut: their proxy was killed, or nothing listened";
    report.fact("cut_by_proxy", cut, count(Class::Cut) as f64, "");
    let broken = "  broken streams: their replica was killed";
    report.fact("broken_streams", broken, count(Class::BrokenStream) as f64, "");
    let absent = "  absent: their application was deleted";
    report.fact("absent", absent, count(Class::Absent) as f64, "");
    let num_lost = count(Class::Lost);
    report.cost("lost", "  lost", num_lost as f64, "");
    report.fact("duration", "Duration", found.took_s, "s");
    let mut faults: BTreeMap<Fault, usize> = BTreeMap::new();
    log.faults.iter().for_each(|(fault, _)| *faults.entry(*fault).or_default() += 1);
    report.fact("faults", "Faults", log.faults.len() as f64, "");
    for (fault, count) in &faults {
        let name = format!("faults_{}", fault.name());
        report.fact(&name, &format!("  {}", fault.name()), *count as f64, "");
    }
    let adopted = "Replicas that a new controller took over";
    report.fact("adopted", adopted, log.num_adopted as f64, "");
    let rolled_back = "Bad versions that were seen rolled back";
    report.fact("rolled_back", rolled_back, log.num_rolled_back as f64, "");
    let num_strays = found.num_left + log.num_survivors;
    report.cost("strays", "Processes that were left", num_strays as f64, "");
    let answered = asked.iter().filter(|one| one.came == Came::Answered);
    let latency_ms = |one: &Asked| (one.end - one.start).as_secs_f64() * 1e3;
    for (name, label, app) in [
        ("e2el", "Latency, always there", App::Steady),
        ("e2el_sleepy", "Latency, asleep at times", App::Sleepy),
    ] {
        report.latency(name, label, answered.clone().filter(|one| one.app == app).map(latency_ms));
    }
    for fault in faults.keys() {
        let name = format!("recovery_{}", fault.name());
        let label = format!("Fault to first answer, {}", fault.name());
        report.latency(&name, &label, found.recoveries_ms(*fault));
    }
    report.charts.push(html::shares("Latency", &report.distributions, &["e2el", "e2el_sleepy"]));
    let lost = asked.iter().zip(&classes).filter(|(_, class)| **class == Class::Lost);
    for (one, _) in lost.take(MAX_TOLD) {
        report.note(found.describe(one));
    }
    report.forbid(num_lost, "requests were lost");
    report.forbid(num_strays, "processes were left");
    report.forbid(log.num_not_adopted, "replicas were not taken over by a new controller");
    for problem in &log.problems {
        report.failures.push(problem.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_those_that_were_asked_for() {
        assert_eq!(kinds(&[]).len(), 10);
        assert_eq!(
            kinds(&[Fault::Scale, Fault::Proxy, Fault::Scale]),
            [Fault::Proxy, Fault::Scale]
        );
        for fault in kinds(&[]) {
            let value = clap::ValueEnum::to_possible_value(&fault).unwrap();
            assert_eq!(value.get_name(), fault.name());
        }
    }

    #[test]
    fn what_is_lost_is_told_and_is_a_failure() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let one = |came, from, to| {
            let (app, is_stream) = (App::Steady, false);
            Asked { app, is_stream, start: at(from), end: at(to), came }
        };
        let asked = vec![
            one(Came::Answered, 0, 50),
            one(Came::Late, 10, 200),
            one(Came::Answered, 90, 300),
            one(Came::Answered, 120, 250),
        ];
        let log = Log { faults: vec![(Fault::Proxy, at(100))], ..Log::default() };
        let found = Found { asked, log, start, took_s: 1.0, num_left: 0 };
        assert!(found.recoveries_ms(Fault::Scale).is_empty());
        let recovery_ms = found.recoveries_ms(Fault::Proxy);
        assert!((recovery_ms[0] - 150.0).abs() < 1e-6, "{recovery_ms:?}");
        let mut report = Report::new("chaos", &[]);
        fill(&mut report, &found);
        assert_eq!(report.failures, ["1 requests were lost"]);
        assert!(report.notes[0].contains("the last fault was proxy at 0.100 s"), "{report:?}");
    }
}
