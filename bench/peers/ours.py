"""Tyndall as a target."""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from figures import MEGABYTES, MILLISECONDS, OURS, PERCENT
from processes import Child, PeerError, descendants, memory_mb
from target import Checkpoint, Completions, Figure, Setup, Target, first_line

#: Wakes of one visit; the median counts.
WAKES = 3
REPLICAS = 3
SERVED = ["decode", "serve8", "serve32", "prefill512"]


class Tyndall(Target):
    """The binary of this repository."""

    name = OURS
    rows = frozenset([*SERVED, "offline", "cold-start", "memory"])

    def __init__(self, setup: Setup, binary: str) -> None:
        super().__init__(setup)
        self.binary = binary

    def missing(self) -> str | None:
        if first_line([self.binary, "--version"]):
            return None
        return f"{self.binary} does not run: cargo build --release -p tyndall-cli"

    def describe(self) -> str:
        return f"{first_line([self.binary, '--version'])}; --threads {self.work.threads}, CPU as found, bf16 as stored"

    def visit(self, rows: list[str], seed: int) -> Iterator[Figure]:
        model = self.setup.model
        served = [row for row in rows if row in SERVED]
        rate = None
        if served or "offline" in rows:
            with self.server(model, ["--min-replicas", "1", "--max-replicas", "1"]) as (server, _, _):
                server.warm_up(seed)
                for index, row in enumerate(served):
                    figure = self.served(server, row, seed + 1 + index)
                    rate = figure.value if row == "serve32" else rate
                    yield figure
                if "offline" in rows:
                    rate = rate or server.serve("serve32", seed + 9).value
                    prompt_tokens = server.prompt_tokens(seed + 10)
        if "offline" in rows and rate is not None:
            yield from self.offline(rate, prompt_tokens)
        if "cold-start" in rows:
            for model in dict.fromkeys([self.setup.small_model, self.setup.model]):
                yield self.cold_start(model)
        if "memory" in rows:
            yield self.memory(seed)

    def served(self, server: Completions, row: str, seed: int) -> Figure:
        """One row of a running server."""
        if row == "decode":
            return server.decode(seed)
        if row == "prefill512":
            return server.prefill(self.setup.model.vocabulary(), seed)
        return server.serve(row, seed)

    def offline(self, rate: float, prompt_tokens: int) -> Iterator[Figure]:
        """The server's rate at 32 as a share of the engine's alone, where the binary can tell the latter."""
        if not first_line([self.binary, "bench", "engine", "--help"]):
            return
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "engine.json"
            sizes = ["--batch", "32", "--prompt-len", str(prompt_tokens), "--output-len", str(max(2, self.work.tokens))]
            flags = [*sizes, "--runs", "1", "--threads", str(self.work.threads), "--json", str(report)]
            command = [self.binary, "bench", "engine", self.setup.model.path, *flags]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=self.work.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise PeerError(f"tyndall bench engine: not within {error.timeout:.0f} s; --timeout raises that") from error
            if done.returncode != 0:
                raise PeerError(f"tyndall bench engine failed: {done.stderr.strip()[-400:]}")
            offline = offline_rate(json.loads(report.read_text()), 32, prompt_tokens, self.work.tokens)
        yield Figure("offline", 100 * rate / offline, PERCENT)

    def cold_start(self, model: Checkpoint) -> Figure:
        """Request at zero replicas to first token; the median of some wakes after one that does not count."""
        model.warm()
        times = []
        with self.server(model, ["--idle-timeout", "0"]) as (server, child, admin):
            for wake in range(WAKES + 1):
                child.wait_until("no replica is left", lambda: not replicas(admin), self.work.timeout_s)
                seconds = server.first_token_s("Hello there")
                if wake > 0:
                    times.append(seconds * 1e3)
        return Figure(f"cold-start {model.name}", median(times), MILLISECONDS)

    def memory(self, seed: int) -> Figure:
        """All processes of a server with three replicas that have all answered."""
        count = str(REPLICAS)
        flags = ["--min-replicas", count, "--max-replicas", count, "--target-ongoing-requests", "1"]
        with self.server(self.setup.model, flags) as (server, child, admin):
            running = lambda: len([r for r in replicas(admin) if r["state"] == "RUNNING"]) == REPLICAS  # noqa: E731
            child.wait_until("all replicas run", running, self.work.timeout_s)
            # Two requests for each at a time: none stays without.
            for index in range(2):
                server.serve(f"serve{2 * REPLICAS}", seed + index)
            return Figure("memory", memory_mb([child.pid, *descendants(child.pid)]), MEGABYTES)

    @contextmanager
    def server(self, model: Checkpoint, flags: list[str]) -> Iterator[tuple[Completions, Child, str]]:
        """A server that is ready, its process, and its admin address."""
        ports = ["--port", "0", "--admin-port", "0", "--threads", str(self.work.threads)]
        child = Child([self.binary, "run", model.path, "--name", "model", *ports, *flags], {"NO_COLOR": "1"})
        try:
            ready = lambda: "\nready" in child.output()  # noqa: E731
            child.wait_until("it is ready", ready, self.work.timeout_s)
            url, admin = list(dict.fromkeys(re.findall(r"http://127\.0\.0\.1:\d+", child.output())))[:2]
            yield Completions(url, "model", self.work), child, admin
        finally:
            child.stop()


def replicas(admin: str) -> list[dict]:
    """The replicas of the one deployment, in any state."""
    with urlopen(f"{admin}/api/tyndall/applications/", timeout=10) as answer:
        details = json.load(answer)
    (application,) = details["applications"].values()
    (deployment,) = application["deployments"].values()
    return deployment["replicas"]


def offline_rate(report: dict, batch: int, prompt_tokens: int, tokens: int) -> float:
    """Output tokens per second of a whole batch, from the prefill and decode rates of `bench engine`."""
    rates = {metric["name"]: metric["value"] for metric in report["metrics"]}
    try:
        prefill, decode = rates[f"prefill_b{batch}"], rates[f"decode_b{batch}"]
    except KeyError as error:
        raise PeerError(f"tyndall bench engine reports no {error}: the formats differ") from error
    # The prefill makes the first token of each.
    seconds = batch * prompt_tokens / prefill + batch * (tokens - 1) / decode
    return batch * tokens / seconds
