"""Ray Serve with transformers as a target: a cluster of its own on loopback, `serve run`, `/generate`."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import load
from figures import MEGABYTES, MILLISECONDS, TOKENS_PER_S
from processes import Child, PeerError, descendants, end_all, free_port, identities, memory_mb
from target import Checkpoint, Figure, Setup, Target, python_versions
from work import concurrency

HERE = Path(__file__).parent
REPLICAS = 3
CLUSTER_CPUS = 4
WARM_ROWS = ["decode", "serve8", "serve32"]
#: Ways in which Ray Serve takes requests, by its own switches: its own proxy, HAProxy before the replicas, and that with
#: what its documentation calls throughput-optimized, where user code shares a loop with the server.
MODES = {
    "ray-serve": {},
    "ray-serve haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"},
    "ray-serve haproxy, throughput": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
}


class RayServe(Target):
    """One head node, one application."""

    name = "ray-serve"
    rows = frozenset([*WARM_ROWS, "cold-start", "memory"])

    def __init__(self, setup: Setup, python: str) -> None:
        super().__init__(setup)
        self.python = python
        self.bin = Path(python).parent

    def missing(self) -> str | None:
        have = python_versions(self.python, ["ray", "torch", "transformers"])
        lacking = [package for package in ("ray", "torch", "transformers") if package not in have]
        if not lacking and (self.bin / "serve").is_file():
            return None
        what = ", ".join(lacking) or "`serve` beside it"
        return f"{self.python} has no {what}: pip install -r bench/peers/requirements.txt, or name it with --ray-python"

    def describe(self) -> str:
        versions = python_versions(self.python, ["ray", "transformers", "torch"])
        names = ", ".join(f"{name} {version}" for name, version in versions.items())
        return f"{names}; {self.work.dtype}, {self.work.threads} threads a replica, {CLUSTER_CPUS} CPUs in the cluster"

    def visit(self, rows: list[str], seed: int) -> Iterator[Figure]:
        with self.cluster() as cluster:
            warm = [row for row in rows if row in WARM_ROWS]
            if warm or "cold-start" in rows:
                with cluster.application(self.setup.model, 0):
                    cold = cluster.cold_start(self.setup.model)
                    if "cold-start" in rows:
                        yield cold
                    for index, row in enumerate(warm):
                        yield cluster.rate(row, seed + index)
            if "cold-start" in rows and self.setup.small_model != self.setup.model:
                with cluster.application(self.setup.small_model, 0):
                    yield cluster.cold_start(self.setup.small_model)
            if "memory" in rows:
                with cluster.application(self.setup.model, REPLICAS):
                    yield cluster.memory(seed)

    @contextmanager
    def cluster(self) -> Iterator["Cluster"]:
        """A head node of its own with what the application needs."""
        env = {
            "HF_HUB_OFFLINE": "1",
            "TORCH_THREADS": str(self.work.threads),
            "TORCH_DTYPE": self.work.dtype,
        }
        with head_node(self.bin, env, self.work.timeout_s) as (child, env, url):
            yield Cluster(self, child, env, url)


@contextmanager
def head_node(folder: Path, env: dict[str, str], timeout_s: float) -> Iterator[tuple[Child, dict[str, str], str]]:
    """A head node on loopback with Serve's proxy; all of its processes end with it.

    `folder` has Ray's commands, `env` is added to the environment of all processes. Yields the node, the
    environment for `serve`, and where the proxy listens.
    """
    port, http_port = free_port(), free_port()
    # Ray's sockets live there, and their paths may be 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        env = {
            **env,
            "RAY_ADDRESS": f"127.0.0.1:{port}",
            # `ray start` asks for a token, which `serve` brings only where the node's address is the machine's.
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{folder}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(HERE),
        }
        head = [str(folder / "ray"), "start", "--head", "--block", "--node-ip-address", "127.0.0.1"]
        flags = ["--num-cpus", str(CLUSTER_CPUS), "--include-dashboard", "false", "--disable-usage-stats"]
        flags += ["--port", str(port), "--temp-dir", temporary]
        before = set(descendants(os.getpid()))
        child = Child([*head, *flags], env)
        try:
            started = lambda: "Ray runtime started" in child.output()  # noqa: E731
            child.wait_until("the head node runs", started, timeout_s)
            address = ["--http-host", "127.0.0.1", "--http-port", str(http_port)]
            run([str(folder / "serve"), "start", *address], env, timeout_s)
            yield child, env, f"http://127.0.0.1:{http_port}"
        finally:
            child.stop()
            # Its daemons have left its tree and become children of this process.
            end_all(identities([pid for pid in descendants(os.getpid()) if pid not in before]))


class Cluster:
    """A running cluster."""

    def __init__(self, target: RayServe, head: Child, env: dict[str, str], url: str) -> None:
        self.target, self.head, self.env, self.url = target, head, env, url
        self.work = target.work

    @contextmanager
    def application(self, model: Checkpoint, replicas: int) -> Iterator[None]:
        """`serve run` with that many replicas at least; the application ends with the block."""
        model.warm()
        scale = {"MIN_REPLICAS": str(replicas), "MAX_REPLICAS": str(max(1, replicas))}
        env = {**self.env, **scale, "MODEL_ID": model.path}
        with serve_run(self.target.bin, "ray_app:app", env, self.work.timeout_s):
            yield

    def generate(self, prompt: str, tokens: int) -> dict:
        """The body of a greedy request of exactly `tokens` output tokens."""
        return {
            "prompt": prompt,
            "generation_kwargs": {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False},
        }

    def seconds(self, prompt: str, tokens: int) -> float:
        """How long one request takes."""
        answer = load.post(self.url, "/generate", self.generate(prompt, tokens), self.work.timeout_s)
        check(answer.json(), tokens)
        return answer.end_s - answer.start_s

    def cold_start(self, model: Checkpoint) -> Figure:
        """Request at zero replicas to an answer of one token: the deployment does not stream."""
        return Figure(f"cold-start {model.name}", self.seconds("Hello there", 1) * 1e3, MILLISECONDS)

    def rate(self, row: str, seed: int) -> Figure:
        """One row of a warm replica."""
        if row == "decode":
            first, second, third = self.work.prompts(3, seed)
            self.seconds(first, 4)
            seconds = -self.seconds(second, 1) + self.seconds(third, self.work.tokens + 1)
            if seconds <= 0:
                raise PeerError("the decode was too short to be timed: raise --tokens")
            return Figure(row, self.work.tokens / seconds, TOKENS_PER_S)
        # One wave: nothing is batched here, so that more requests add time and no information.
        streams = concurrency(row)
        bodies = [self.generate(prompt, self.work.tokens) for prompt in self.work.prompts(streams, seed)]
        seconds, answers = load.closed_loop(self.url, "/generate", bodies, streams, 3 * self.work.timeout_s)
        for answer in answers:
            check(answer.json(), self.work.tokens)
        return Figure(row, streams * self.work.tokens / seconds, TOKENS_PER_S)

    def memory(self, seed: int) -> Figure:
        """The replicas alone, without the cluster's own processes, after some requests."""
        streams = 4 * REPLICAS
        bodies = [self.generate(prompt, 4) for prompt in self.work.prompts(streams, seed)]
        load.closed_loop(self.url, "/generate", bodies, streams, self.work.timeout_s)
        pids = [pid for pid in descendants(os.getpid()) if b"ServeReplica" in command_line(pid)]
        if len(pids) != REPLICAS:
            raise PeerError(f"{REPLICAS} replicas were asked for, {len(pids)} run")
        return Figure("memory", memory_mb(pids), MEGABYTES)


@contextmanager
def serve_run(folder: Path, app: str, env: dict[str, str], timeout_s: float) -> Iterator[None]:
    """`serve run` of an application of this folder; it ends with the block."""
    child = Child([str(folder / "serve"), "run", "--app-dir", str(HERE), app], env)
    try:
        deployed = lambda: "is ready at" in child.output()  # noqa: E731
        child.wait_until("the application is deployed", deployed, timeout_s)
        yield
    finally:
        child.stop()


def check(answer: dict, tokens: int) -> None:
    """Whether all tokens came."""
    if answer.get("completion_tokens") != tokens:
        raise PeerError(f"{tokens} tokens were asked for, {answer.get('completion_tokens')} came")


def command_line(pid: int) -> bytes:
    """Of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def run(command: list[str], env: dict[str, str], timeout_s: float) -> None:
    """Runs a command to its end; PeerError where it fails."""
    start_s = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        waited_s = time.monotonic() - start_s
        raise PeerError(f"{' '.join(command[:2])}: not within {waited_s:.0f} s; --timeout raises that") from error
    if done.returncode != 0:
        raise PeerError(f"{' '.join(command[:2])} failed: {(done.stdout + done.stderr).strip()[-600:]}")
