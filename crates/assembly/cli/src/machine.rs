//! What the machine has to offer: memory that is free for models, within the container's limit, and
//! GPUs.

use crate::failure::Failure;
use std::path::{Path, PathBuf};

/// Which GPUs a process may see; processes of replicas get it with theirs.
pub(crate) const GPUS_VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// Bytes that a new process may take without pushing others out: what the kernel calls available,
/// and no more than any control group above this process has left.
pub(crate) fn available_memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok();
    let available = meminfo.as_deref().and_then(mem_available);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = group_dirs(&groups, Path::new("/sys/fs/cgroup"))
        .iter()
        .filter_map(|dir| left_in_group(dir))
        .min();
    [available, left].into_iter().flatten().min()
}

/// The GPUs for replicas, by the names that `CUDA_VISIBLE_DEVICES` takes: of those that this process
/// may see the first `wanted`, else all. Where neither the variable nor the driver shows any, as in
/// WSL, numbers.
pub(crate) fn gpus(visible: Option<&str>, wanted: Option<u32>) -> Result<Vec<String>, Failure> {
    let shown = match visible {
        Some(names) => visible_gpus(names),
        None => numbered(driver_gpus(Path::new("/dev"), Path::new("/proc/driver/nvidia/gpus"))),
    };
    let Some(wanted) = wanted.map(|wanted| wanted as usize) else { return Ok(shown) };
    if visible.is_none() && shown.is_empty() {
        return Ok(numbered(wanted));
    }
    if wanted > shown.len() {
        let what = if visible.is_some() { GPUS_VARIABLE } else { "the driver" };
        let cause = format!("--num-gpus is {wanted}, and {what} shows {}", shown.len());
        return Err(Failure::new(cause).with_cure("lower it, or leave it out to take all of them"));
    }
    Ok(shown.into_iter().take(wanted).collect())
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|gpu| gpu.to_string()).collect()
}

/// As CUDA reads its variable: what stands after the first name that is none is not looked at.
fn visible_gpus(names: &str) -> Vec<String> {
    let is_name = |name: &&str| {
        name.starts_with("GPU-")
            || name.starts_with("MIG-")
            || (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    names.split(',').map(str::trim).take_while(is_name).map(str::to_owned).collect()
}

/// A container has the devices that it was given, and CUDA counts them from 0.
fn driver_gpus(devices: &Path, driver: &Path) -> usize {
    let entries = |dir: &Path, is_gpu: fn(&str) -> bool| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()
    };
    let is_device = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    match entries(devices, is_device) {
        0 => entries(driver, |_| true),
        count => count,
    }
}

/// The machine's name.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The directories of this process's memory group and of every group above it.
fn group_dirs(groups: &str, root: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let top = match controllers {
            "" => root.to_owned(),
            v1 if v1.split(',').any(|name| name == "memory") => root.join("memory"),
            _ => continue,
        };
        let mut dir = top.join(path.trim_start_matches('/'));
        while dir.starts_with(&top) {
            dirs.push(dir.clone());
            if !dir.pop() {
                break;
            }
        }
    }
    dirs
}

/// Limit minus use, where cached files count as free; absent without a limit.
fn left_in_group(dir: &Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
    };
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes")).unwrap_or(0);
    let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let inactive = stat.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        ["inactive_file", "total_inactive_file"]
            .contains(&name)
            .then(|| value.parse::<u64>().ok())?
    });
    Some(limit.saturating_sub(used.saturating_sub(inactive.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_those_that_this_process_may_see() {
        let all = |names, wanted| gpus(Some(names), wanted).unwrap().join(" ");
        assert_eq!(all("2, 0,GPU-8a,MIG-1", None), "2 0 GPU-8a MIG-1");
        assert_eq!(all("3,-1,2", None), "3");
        assert_eq!(all("NoDevFiles", None), "");
        assert_eq!(all("5,7", Some(1)), "5");
        assert_eq!(all("", Some(0)), "");
        let failure = format!("{:?}", gpus(Some("5"), Some(2)).unwrap_err());
        assert!(failure.contains("--num-gpus is 2, and CUDA_VISIBLE_DEVICES shows 1"), "{failure}");

        let root = tempfile::tempdir().unwrap();
        let (devices, driver) = (root.path().join("dev"), root.path().join("gpus"));
        assert_eq!(driver_gpus(&devices, &driver), 0);
        std::fs::create_dir_all(driver.join("0000:01:00.0")).unwrap();
        std::fs::create_dir_all(&devices).unwrap();
        assert_eq!(driver_gpus(&devices, &driver), 1);
        for name in ["nvidia3", "nvidia12", "nvidiactl", "nvidia-uvm", "nvidia"] {
            std::fs::write(devices.join(name), "").unwrap();
        }
        assert_eq!(driver_gpus(&devices, &driver), 2);
    }

    #[test]
    fn memory_is_what_every_limit_leaves() {
        let meminfo = "MemTotal: 100 kB\nMemAvailable:     64 kB\n";
        assert_eq!(mem_available(meminfo), Some(65_536));
        assert_eq!(mem_available("MemTotal: 1 kB"), None);

        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        std::fs::create_dir_all(&dir).unwrap();
        let put =
            |dir: &Path, name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        put(&dir, "memory.max", "max\n");
        assert_eq!(left_in_group(&dir), None);
        put(&root.path().join("a"), "memory.max", "1000\n");
        put(&root.path().join("a"), "memory.current", "700\n");
        put(&root.path().join("a"), "memory.stat", "anon 1\ninactive_file 200\n");
        let dirs = group_dirs("0::/a/b\n", root.path());
        assert_eq!(dirs, [dir, root.path().join("a"), root.path().to_owned()]);
        assert_eq!(dirs.iter().filter_map(|dir| left_in_group(dir)).min(), Some(500));
        assert!(available_memory_bytes().is_some_and(|bytes| bytes > 0));
    }
}
