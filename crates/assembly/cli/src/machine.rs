//! What the machine has to offer: memory that is free for models, within the container's limit.

use std::path::{Path, PathBuf};

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
