//! What the operating system says of processes, read from `/proc`.

use crate::error::BenchError;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::{read, read_dir, read_to_string};

/// Clock ticks of `/proc/PID/stat`: the kernel's `USER_HZ`, 100 on every Linux that we know.
const TICKS_PER_S: f64 = 100.0;

/// What processes hold in memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Every page that is mapped and present; pages of several processes count in each.
    pub(crate) rss: u64,
    /// A page of `n` processes counts as an `n`th in each, so that sums are true.
    pub(crate) pss: u64,
    /// Of `pss`, pages of files, such as weights and the binary.
    pub(crate) pss_file: u64,
    /// Of `pss`, the process's own pages.
    pub(crate) pss_anon: u64,
}

impl std::ops::Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rss: self.rss + other.rss,
            pss: self.pss + other.pss,
            pss_file: self.pss_file + other.pss_file,
            pss_anon: self.pss_anon + other.pss_anon,
        }
    }
}

/// Memory of one process.
pub(crate) fn memory(pid: u32) -> Result<Memory, BenchError> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = read_to_string(&path).map_err(|error| {
        BenchError::of(&format!("failed to read {path}"), &error)
            .with_cure("this needs Linux 5.4 or later, and processes of the same user")
    })?;
    Ok(rollup(&text))
}

fn rollup(text: &str) -> Memory {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Memory {
        rss: bytes("Rss"),
        pss: bytes("Pss"),
        pss_file: bytes("Pss_File"),
        pss_anon: bytes("Pss_Anon"),
    }
}

/// Processor seconds that a process used so far.
pub(crate) fn cpu_s(pid: u32) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/stat");
    let text = read_to_string(&path)
        .map_err(|error| BenchError::of(&format!("failed to read {path}"), &error))?;
    ticks(&text)
        .map(|ticks| ticks / TICKS_PER_S)
        .ok_or_else(|| BenchError::new(format!("{path} is not as expected")))
}

/// User and system time.
fn ticks(stat: &str) -> Option<f64> {
    // The name in parentheses may hold anything, also parentheses.
    let fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let ticks: Option<Vec<f64>> = fields.take(2).map(|field| field.parse().ok()).collect();
    ticks.filter(|ticks| ticks.len() == 2).map(|ticks| ticks.iter().sum())
}

/// A process and every live descendant of it, found by parent ids.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().parse::<u32>();
        if let Some((pid, parent)) = pid.ok().and_then(|pid| Some((pid, parent(pid)?))) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (vec![root], 0);
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// Memory of several processes.
pub(crate) fn total(pids: &[u32]) -> Result<Memory, BenchError> {
    pids.iter().try_fold(Memory::default(), |sum, &pid| Ok(sum + memory(pid)?))
}

/// `controller`, `proxy`, `replica`, or for the foreground process `supervisor`.
pub(crate) fn role(pid: u32) -> String {
    let arguments = read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = arguments.split('\0').skip(1);
    match (arguments.next(), arguments.next()) {
        (Some("role"), Some(role)) => role.to_owned(),
        _ => "supervisor".to_owned(),
    }
}

/// The live descendants of a process that have a role.
pub(crate) fn of_role(root: u32, wanted: &str) -> Vec<u32> {
    family(root).into_iter().filter(|&pid| role(pid) == wanted).collect()
}

/// Every live process but this one that has a text in its arguments or its environment.
pub(crate) fn marked(text: &str) -> Vec<u32> {
    let has_it = |pid: &u32| {
        ["cmdline", "environ"].iter().any(|file| {
            let bytes = read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        })
    };
    let entries = read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let others = pids.filter(|&pid| pid != std::process::id() && is_alive(pid));
    others.filter(has_it).collect()
}

/// The process exists and is no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    parent(pid).is_some()
}

/// Sends a signal; true when there was such a process.
pub(crate) fn signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The parent of a process that is no zombie.
fn parent(pid: u32) -> Option<u32> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let is_alive = !fields.next()?.starts_with(['Z', 'X']);
    let parent = fields.next()?.parse().ok()?;
    is_alive.then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let text = "00-ff ---p\nRss:   100 kB\nPss:    40 kB\nPss_Dirty: 7 kB\nPss_File:  30 kB\n";
        let expected = Memory { rss: 102_400, pss: 40_960, pss_file: 30_720, pss_anon: 0 };
        assert_eq!(rollup(text), expected);
        assert_eq!((expected + expected).pss, 81_920);
        assert_eq!(ticks("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 0"), Some(42.0));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_known() {
        let own = std::process::id();
        assert_eq!(family(own)[0], own);
        assert!(cpu_s(own).unwrap() >= 0.0);
        let memory = memory(own).unwrap();
        assert!(memory.pss > 0 && memory.pss <= memory.rss, "{memory:?}");
        assert_eq!(total(&[own]).is_ok(), is_alive(own));
        assert_eq!(role(own), "supervisor");
        assert!(of_role(own, "controller").is_empty());
    }

    #[test]
    fn processes_are_found_by_their_mark() {
        let mark = format!("tyndall-mark-{}", std::process::id());
        let mut child =
            std::process::Command::new("sleep").arg("600").env("MARK", &mark).spawn().unwrap();
        // Until it runs another program, the child is a copy of this process.
        while marked(&mark).is_empty() && child.try_wait().unwrap().is_none() {}
        assert_eq!(marked(&mark), [child.id()]);
        assert!(signal(child.id(), Signal::KILL));
        child.wait().unwrap();
        assert!(marked(&mark).is_empty() && !is_alive(child.id()));
    }
}
