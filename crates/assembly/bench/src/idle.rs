//! What a server costs that nobody asks for anything.

use crate::{Common, say};
use anyhow::{Context, Result};
use std::fs::read_to_string;
use std::time::Duration;
use tyndall_testkit::{descendants, pause, resident_bytes};

/// Clock ticks of `/proc/PID/stat`: the kernel's `USER_HZ`, 100 on every Linux that we know.
const TICKS_PER_S: f64 = 100.0;

/// Watches all processes of a server without replicas.
pub(crate) fn run(common: &Common, seconds: u64) -> Result<()> {
    let server = common.server()?.start(&common.model)?;
    let mut pids = descendants(server.pid());
    pids.push(server.pid());
    pause(Duration::from_secs(2));
    let before: f64 = pids.iter().map(|&pid| cpu_s(pid)).sum::<Result<f64>>()?;
    pause(Duration::from_secs(seconds));
    let after: f64 = pids.iter().map(|&pid| cpu_s(pid)).sum::<Result<f64>>()?;
    let resident: u64 = pids.iter().map(|&pid| resident_bytes(pid)).sum();
    say(&format!(
        "idle at zero replicas: {} processes, {:.1} MB resident together, {:.2} % of one core",
        pids.len(),
        resident as f64 / 1e6,
        (after - before) / seconds as f64 * 100.0,
    ));
    Ok(())
}

/// Processor seconds that a process used so far.
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("an odd /proc/PID/stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_S)
}
