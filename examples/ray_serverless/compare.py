"""Serves one model in turn by `ray_serve_app.py` and by the engine inside the binary, and prints both side by side.

    python examples/ray_serverless/compare.py MODEL [--requests 8] [--tokens 64] [--rounds 3]

MODEL is a directory with a checkpoint, or a name on Hugging Face. Needs what README.md installs. The same requests go to
both: `POST /generate`, several at a time, each for so many tokens, of which the likeliest is taken.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

APP = f"{Path(__file__).with_name('ray_serve_app.py').stem}:deployment_graph"
PROMPT = "Once upon a time there was"
LIMIT_S = 600
POLL_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=8, help="at a time")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="of so many requests; the fastest counts")
    given = parser.parse_args()
    model = os.path.abspath(given.model) if os.path.isdir(given.model) else given.model
    plain = {"MODEL_ID": model, "MAX_REPLICAS": "1"}
    measured = {
        "transformers": measure([APP], plain, given),
        "engine": measure([model, "--min-replicas", "0", "--max-replicas", "1"], {}, given),
    }
    print_table(measured)


def measure(target: list[str], env: dict[str, str], given: argparse.Namespace) -> dict[str, float]:
    """Seconds, tokens per second and bytes of one side."""
    with serving(target, env) as (url, pid):
        begun = time.perf_counter()
        generate(url, 1)
        wake_s = time.perf_counter() - begun
        seconds = min(round_of(url, given) for _ in range(given.rounds))
        return {
            "wake from zero, s": wake_s,
            "tokens/s": given.requests * given.tokens / seconds,
            "memory, MiB": memory_bytes(pid) / 2**20,
        }


def round_of(url: str, given: argparse.Namespace) -> float:
    """Seconds until all of them are answered."""
    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(given.requests) as pool:
        list(pool.map(lambda _: generate(url, given.tokens), range(given.requests)))
    return time.perf_counter() - begun


def generate(url: str, tokens: int) -> Any:
    kwargs = {"max_new_tokens": tokens, "min_new_tokens": tokens, "temperature": 0}
    body = json.dumps({"prompt": PROMPT, "generation_kwargs": kwargs}).encode()
    asked = urllib.request.Request(f"{url}/generate", body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:
        return json.load(answer)


@contextlib.contextmanager
def serving(target: list[str], env: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A server on free ports, with no replica yet: its address and its process."""
    command = [binary(), "run", *target, "--port", "0", "--admin-port", "0"]
    variables = {**os.environ, "TYNDALL_PYTHON": sys.executable, "NO_COLOR": "1", **env}
    with tempfile.TemporaryFile("w+") as output:
        folder = Path(__file__).parent
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield ready(process, output), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def ready(process: subprocess.Popen[bytes], output: Any) -> str:
    deadline = time.monotonic() + LIMIT_S
    while True:
        output.seek(0)
        said = output.read()
        if "\nready" in said:
            return re.search(r"http://127\.0\.0\.1:\d+", said)[0]
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not start; it said:\n{said}")
        time.sleep(POLL_S)


def binary() -> str:
    found = os.environ.get("TYNDALL_BIN") or shutil.which("tyndall")
    if not found:
        raise SystemExit("there is no program `tyndall` on the PATH\ninstall the package, or name one in TYNDALL_BIN")
    return found


def memory_bytes(pid: int) -> int:
    """Of the server and all processes that it has started; a page of several counts once."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = [pid]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    total = 0
    for one in family:
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) << 10
    return total


def print_table(measured: dict[str, dict[str, float]]) -> None:
    first, second = measured.values()
    print(f"{'':20}{''.join(f'{name:>16}' for name in measured)}{'ratio':>10}")
    for what, left in first.items():
        right = second[what]
        print(f"{what:20}{left:>16.2f}{right:>16.2f}{max(left, right) / min(left, right):>9.1f}x")


if __name__ == "__main__":
    main()
