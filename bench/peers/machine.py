"""The machine that figures belong to."""

import os
import platform
from pathlib import Path

FEATURES = ["amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2"]


def describe() -> str:
    """One line: processor, what it can, usable cores, memory, kernel, load."""
    cpu = read("/proc/cpuinfo")
    flags = field(cpu, "flags").split()
    can = " ".join(feature for feature in FEATURES if feature in flags)
    memory_gib = int(field(read("/proc/meminfo"), "MemTotal").split()[0] or 0) / (1 << 20)
    cores = len(os.sched_getaffinity(0))
    name = field(cpu, "model name") or platform.machine()
    load = os.getloadavg()[0]
    return (
        f"{name} ({can}), {cores} cores, {memory_gib:.0f} GiB, Linux {platform.release()}, load average {load:.1f} before"
    )


def read(path: str) -> str:
    """A file of /proc; empty where there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def field(text: str, name: str) -> str:
    """The first `name : value` of such a file; `0` where there is none."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0"
