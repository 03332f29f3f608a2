//! `bench machine`: what this machine can do at most. The other benchmarks print it beside theirs.

use crate::error::BenchError;
use crate::loopback;
use crate::progress::Progress;
use crate::report::{Better, Chart, Metric, Report, metric};
use crate::{Context, serve::positive};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tyndall_kernels::{CeilingOptions, Ceilings, Cpu, CpuOptions};

/// Processes that are started to learn what one costs.
const SPAWNS: usize = 20;

/// What `bench machine` is asked for.
#[derive(Debug, clap::Args)]
pub struct MachineArgs {
    /// Threads that compute [default: every core this process may use]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// How long each loop is repeated
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, value_parser = positive)]
    pub each: f64,
    /// Memory that is read over and over, in MiB; larger than every cache
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub buffer: u32,
}

/// Measures and reports.
pub(crate) fn run(args: &MachineArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("machine", &context.command);
    let options = CeilingOptions {
        buffer_bytes: (args.buffer as usize) << 20,
        each: Duration::from_secs_f64(args.each.min(60.0)),
    };
    let threads = args.threads.map(|threads| threads as usize);
    let ceilings = measure(&cpu(threads)?, &options)?;
    report.set("threads", ceilings.threads);
    report.set("buffer", format!("{} MiB", args.buffer));
    report.metrics = metrics(&ceilings);
    let spawn_s = spawn_s(&context.executable)?;
    report.cost("spawn", "Start and end of a process", spawn_s * 1e3, "ms");
    report.metrics.extend(loopback::measure(options.each)?);
    let bars = |title: &str, unit: &str| {
        let rows = report.metrics.iter().filter(|metric| metric.unit == unit);
        let rows =
            rows.map(|metric| (metric.label.clone(), vec![(metric.label.clone(), metric.value)]));
        Chart::Bars { title: title.to_owned(), unit: unit.to_owned(), rows: rows.collect() }
    };
    report.charts = vec![bars("Reading memory", "GB/s"), bars("Multiply-adds", "GFLOP/s")];
    Ok(report)
}

/// A worker pool of so many threads, by default one per usable core.
pub(crate) fn cpu(threads: Option<usize>) -> Result<Cpu, BenchError> {
    Cpu::new(CpuOptions { threads, isa: None })
        .map_err(|error| BenchError::of("failed to start the threads", &error))
}

/// Enough to hold figures against, in about two seconds.
pub(crate) fn quick() -> CeilingOptions {
    CeilingOptions { buffer_bytes: 512 << 20, each: Duration::from_millis(200) }
}

/// What the others print beside their figures.
pub(crate) fn ceilings(
    threads: Option<usize>,
    options: &CeilingOptions,
) -> Result<Vec<Metric>, BenchError> {
    Ok(metrics(&measure(&cpu(threads)?, options)?))
}

/// Measures, with a sign of life.
pub(crate) fn measure(cpu: &Cpu, options: &CeilingOptions) -> Result<Ceilings, BenchError> {
    let progress = Progress::spinner("measuring the machine");
    let ceilings = Ceilings::measure(cpu, options).map_err(|error| {
        BenchError::of("no memory to read", &error).with_cure("use a smaller --buffer")
    });
    drop(progress);
    ceilings
}

pub(crate) fn metrics(ceilings: &Ceilings) -> Vec<Metric> {
    let rate = |name: &str, label: &str, value: f64, unit: &str| {
        metric(name, label, value / 1e9, unit, Better::Higher)
    };
    let threads = ceilings.threads;
    let all = format!("Memory read, {threads} threads");
    let mut metrics = vec![
        rate(
            "read_one_thread",
            "Memory read, 1 thread",
            ceilings.read_one_thread_bytes_per_s,
            "GB/s",
        ),
        rate("read", &all, ceilings.read_bytes_per_s, "GB/s"),
    ];
    let peaks = [("f32", Some(ceilings.f32)), ("bf16", ceilings.bf16), ("int8", ceilings.int8)];
    for (name, peak) in peaks {
        let Some(peak) = peak else { continue };
        let label = format!("{name} peak ({})", peak.instructions);
        metrics.push(rate(&format!("peak_{name}"), &label, peak.ops_per_s, "GFLOP/s"));
    }
    let ns = ceilings.barrier_s * 1e9;
    metrics.push(metric("barrier", "Parallel region of the pool", ns, "ns", Better::Lower));
    metrics
}

/// Seconds from a spawn to the end of a process of this executable that does nothing; the median.
pub(crate) fn spawn_s(executable: &Path) -> Result<f64, BenchError> {
    let mut times = Vec::new();
    for _ in 0..SPAWNS {
        let start = Instant::now();
        let mut command = Command::new(executable);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let ended = command.status();
        ended.map_err(|e| {
            BenchError::of(&format!("failed to start {}", executable.display()), &e)
        })?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(crate::stats::median(&mut times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tyndall_kernels::Peak;

    #[test]
    fn what_the_processor_lacks_is_not_shown() {
        let peak = Peak { ops_per_s: 2e11, instructions: "fma" };
        let ceilings = Ceilings {
            threads: 2,
            read_one_thread_bytes_per_s: 1e10,
            read_bytes_per_s: 2e10,
            f32: peak,
            bf16: None,
            int8: Some(Peak { ops_per_s: 8e11, instructions: "avx512_vnni" }),
            barrier_s: 5e-7,
        };
        let metrics = metrics(&ceilings);
        let names: Vec<&str> = metrics.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["read_one_thread", "read", "peak_f32", "peak_int8", "barrier"]);
        assert_eq!(metrics[3].label, "int8 peak (avx512_vnni)");
        assert!((metrics[4].value - 500.0).abs() < 1e-6);
    }
}
