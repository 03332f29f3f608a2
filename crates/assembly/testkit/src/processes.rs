//! What the operating system says of processes, read from `/proc`.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;

/// Every live descendant of a process, found by parent ids.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().parse::<u32>();
        if let Some((pid, (parent, _))) = pid.ok().and_then(|pid| Some((pid, stat(pid)?))) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for &child in children.get(&pid).into_iter().flatten() {
            found.push(child);
            open.push(child);
        }
    }
    found
}

/// The process exists and is no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some()
}

/// Parent and state of a process that is alive.
fn stat(pid: u32) -> Option<(u32, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != 'Z' && state != 'X').then_some((parent, state))
}

/// Bytes of memory that the process holds in RAM; 0 when it is gone.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 =
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    kibibytes * 1024
}

/// Sends a signal; a process that is gone already is no error.
pub fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        assert_eq!(error, rustix::io::Errno::SRCH, "signals may be sent to our own processes");
    }
}
