"""Child processes that always end: their start, their memory, their end.

Peers fork daemons (Ray does) that leave the process group of their parent. This process declares itself
the reaper of all its descendants, so that none can get away: what is orphaned becomes its own child, and
`end_all` finds it.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


class PeerError(Exception):
    """A target could not be measured; the text says why and what to do."""


def adopt_orphans() -> None:
    """Makes this process the reaper of all its descendants (Linux only)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise PeerError(f"prctl(PR_SET_CHILD_SUBREAPER) failed: {os.strerror(ctypes.get_errno())}")


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Child:
    """A process whose output goes to a file."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None, stdin: bool = False) -> None:
        self.log = Path(tempfile.mkstemp(prefix="peer-", suffix=".log")[1])
        self.command = command
        try:
            with self.log.open("wb") as output:
                self.process = subprocess.Popen(
                    command,
                    env={**os.environ, **(env or {})},
                    stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if stdin else output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            self.log.unlink()
            raise PeerError(f"failed to start {command[0]}: {error.strerror}; check its path") from error

    @property
    def pid(self) -> int:
        """Of the process itself."""
        return self.process.pid

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """The last lines that it printed."""
        return "\n".join(self.output().strip().splitlines()[-15:])

    def wait_until(self, what: str, ask: Callable[[], object], timeout_s: float):
        """Asks until the answer is true.

        Raises PeerError when the process ends first or `timeout_s` passes.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            answer = ask()
            if answer:
                return answer
            if self.process.poll() is not None:
                raise PeerError(f"{self.command[0]} ended with {self.process.returncode}:\n{self.tail()}")
            time.sleep(0.01)
        raise PeerError(f"{self.command[0]}: {what}: not within {timeout_s:.0f} s:\n{self.tail()}")

    def stop(self, patience_s: float = 20) -> None:
        """Asks politely, then ends it and everything that it started."""
        tree = identities([self.pid, *descendants(self.pid)])
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience_s)
        end_all(tree)
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        if self.process.stdout:
            self.process.stdout.close()
        self.process.wait()
        self.log.unlink(missing_ok=True)


def stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` after the name: state, parent, …; empty where the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found


def identities(pids: list[int]) -> dict[int, str]:
    """Each process with its start time, which tells it from a later one with the same number."""
    return {pid: fields[19] for pid in pids if (fields := stat(pid))}


def alive(known: dict[int, str]) -> list[int]:
    """Those that still run; a process that only waits to be reaped does not."""
    return [pid for pid, start in known.items() if (now := stat(pid)) and now[0] not in "ZX" and now[19] == start]


def end_all(known: dict[int, str]) -> None:
    """Kills those processes that still live, and waits until they are gone."""
    end = time.monotonic() + 10
    while (left := alive(known)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def end_descendants() -> None:
    """Ends and reaps everything that this process started, however deep."""
    for _ in range(10):
        below = descendants(os.getpid())
        if not below:
            return
        end_all(identities(below))
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass


@contextlib.contextmanager
def nothing_stays():
    """A block after which no descendant is left, whatever ends it; a signal to end runs the blocks inside first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    adopt_orphans()
    try:
        yield
    finally:
        end_descendants()


def memory_mb(pids: list[int]) -> float:
    """Proportional set size of the processes together, in 10^6 bytes: pages that they share count once."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kib += int(line.split()[1])
    return kib * 1024 / 1e6
