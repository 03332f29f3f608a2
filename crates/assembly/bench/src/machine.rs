//! The machine that figures belong to.

use std::fs::read_to_string;
use std::thread::available_parallelism;

/// One line: processor, usable cores, memory, kernel.
pub(crate) fn describe() -> String {
    let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or_default().to_owned()
    };
    let flags = field("flags");
    let isa = ["amx_bf16", "avx512_bf16", "avx2"];
    let isa: Vec<&str> = isa.into_iter().filter(|f| flags.split(' ').any(|g| g == *f)).collect();
    let memory = read_to_string("/proc/meminfo").unwrap_or_default();
    let memory: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|kibibytes| kibibytes.parse().ok())
        .unwrap_or_default();
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "machine: {} ({}), {} cores, {:.0} GiB, Linux {}; tyndall {}",
        field("model name"),
        isa.join(" "),
        available_parallelism().map_or(0, usize::from),
        memory as f64 / f64::from(1 << 20),
        kernel.trim(),
        env!("CARGO_PKG_VERSION"),
    )
}
