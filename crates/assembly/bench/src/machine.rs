//! The machine that figures belong to.

use serde::{Deserialize, Serialize};
use std::fs::read_to_string;
use std::thread::available_parallelism;

/// The flags that decide how fast numbers are computed.
const FLAGS: [&str; 16] = [
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
];

/// What a reader needs to know of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Of the processor's flags those that matter.
    pub flags: Vec<String>,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// System and its version.
    pub kernel: String,
}

impl Machine {
    /// This machine; what it does not say is empty or 0.
    #[must_use]
    pub fn detect() -> Self {
        let read = |path: &str| read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let release = read("/proc/sys/kernel/osrelease");
        Self {
            cpu: cpu(&cpuinfo),
            cores: available_parallelism().map_or(0, usize::from),
            flags: flags(&cpuinfo),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            kernel: format!("{} {}", std::env::consts::OS, release.trim()).trim().to_owned(),
        }
    }

    /// One line.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "{}, {} cores, {:.0} GiB, {} ({})",
            self.cpu,
            self.cores,
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.kernel,
            self.flags.join(" "),
        )
    }

    /// What differs from another machine, each in words.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |what: &str, a: String, b: String| {
            if a != b {
                found.push(format!("{what}: {a} against {b}"));
            }
        };
        check("processor", self.cpu.clone(), other.cpu.clone());
        check("cores", self.cores.to_string(), other.cores.to_string());
        check("processor flags", self.flags.join(" "), other.flags.join(" "));
        let gib = |m: &Self| format!("{:.0} GiB", m.memory_bytes as f64 / f64::from(1 << 30));
        check("memory", gib(self), gib(other));
        check("system", self.kernel.clone(), other.kernel.clone());
        found
    }
}

fn field<'a>(cpuinfo: &'a str, names: &[&str]) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        names.contains(&name.trim()).then_some(value.trim())
    })
}

fn cpu(cpuinfo: &str) -> String {
    let name = field(cpuinfo, &["model name", "Model", "CPU implementer"]);
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

fn flags(cpuinfo: &str) -> Vec<String> {
    let all = field(cpuinfo, &["flags", "Features"]).unwrap_or_default();
    let has = |flag: &str| all.split(' ').any(|other| other == flag);
    FLAGS.into_iter().filter(|flag| has(flag)).map(str::to_owned).collect()
}

fn memory_bytes(meminfo: &str) -> u64 {
    let kib = field(meminfo, &["MemTotal"]).and_then(|value| value.strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_from_proc() {
        let cpuinfo =
            "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu avx2 fma avx512f\n";
        assert_eq!(cpu(cpuinfo), "A CPU: fast");
        assert_eq!(flags(cpuinfo), ["avx2", "fma", "avx512f"]);
        assert_eq!(memory_bytes("MemTotal:       2048 kB\n"), 2 << 20);
        assert_eq!(cpu(""), std::env::consts::ARCH);
        assert!(Machine::detect().cores > 0);
    }

    #[test]
    fn differences_are_told() {
        let one = Machine {
            cpu: "a".into(),
            cores: 2,
            flags: vec!["avx2".into()],
            memory_bytes: 1 << 30,
            kernel: "linux 6".into(),
        };
        assert!(one.differences(&one).is_empty());
        let other = Machine { cores: 4, flags: Vec::new(), ..one.clone() };
        assert_eq!(
            one.differences(&other),
            ["cores: 2 against 4", "processor flags: avx2 against "]
        );
    }
}
