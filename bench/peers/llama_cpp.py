"""llama.cpp as a target: its server for serving rows and cold start, `llama-bench` for the bare rates."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from figures import MEGABYTES, MILLISECONDS, TOKENS_PER_S
from processes import Child, PeerError, descendants, free_port, memory_mb
from target import Completions, Figure, Setup, Target, read_all

SLOTS = 32
#: Tokens of one slot: a prompt of 32 words and its output fit.
SLOT_TOKENS = 256
REPLICAS = 3


class LlamaCpp(Target):
    """`llama-server` and `llama-bench` on a GGUF of the same checkpoint."""

    name = "llama.cpp"
    rows = frozenset(["decode", "serve8", "serve32", "prefill512", "cold-start", "memory"])

    def __init__(self, setup: Setup, server: str, bench: str, gguf: str) -> None:
        super().__init__(setup)
        self.server_binary, self.bench_binary, self.gguf = server, bench, gguf

    def missing(self) -> str | None:
        for flag, binary in [("--llama-server", self.server_binary), ("--llama-bench", self.bench_binary)]:
            if not shutil.which(binary):
                return f"{flag}: no {binary}: a native CMake build of llama.cpp has it, see bench/README.md"
        if not Path(self.gguf).is_file():
            return f"--gguf: no {self.gguf!r}: convert_hf_to_gguf.py --outtype bf16 makes it, see bench/README.md"
        return None

    def describe(self) -> str:
        version = subprocess.run([self.server_binary, "--version"], capture_output=True, text=True, timeout=60)
        found = re.search(r"version: (.*)", version.stdout + version.stderr)
        name = found[1] if found else "of unknown version"
        return f"llama.cpp {name}; llama-server {' '.join(self.flags())}; llama-bench -t {self.work.threads} -r 1"

    def flags(self) -> list[str]:
        """Of the server."""
        threads = str(self.work.threads)
        return ["-t", threads, "-tb", threads, "-np", str(SLOTS), "-c", str(SLOTS * SLOT_TOKENS)]

    def visit(self, rows: list[str], seed: int) -> Iterator[Figure]:
        if "decode" in rows:
            yield Figure("decode", self.bench(0, self.work.tokens), TOKENS_PER_S)
        if "prefill512" in rows:
            yield Figure("prefill512", self.bench(self.work.prefill, 0), TOKENS_PER_S)
        serving = [row for row in rows if row.startswith("serve")]
        if serving or "cold-start" in rows:
            read_all(Path(self.gguf))
            start_s = time.perf_counter()
            with self.server() as (server, _):
                server.first_token_s("Hello there")
                cold_s = time.perf_counter() - start_s
                if "cold-start" in rows:
                    yield Figure(f"cold-start {self.setup.model.name}", cold_s * 1e3, MILLISECONDS)
                for index, row in enumerate(serving):
                    yield server.serve(row, seed + index)
        if "memory" in rows:
            yield self.memory(seed)

    def bench(self, prompt: int, tokens: int) -> float:
        """Tokens per second as `llama-bench` counts them."""
        flags = ["-p", str(prompt), "-n", str(tokens), "-t", str(self.work.threads), "-r", "1", "-o", "json"]
        try:
            done = subprocess.run(
                [self.bench_binary, "-m", self.gguf, *flags],
                capture_output=True,
                text=True,
                timeout=self.work.timeout_s,
            )
            return float(json.loads(done.stdout)[0]["avg_ts"])
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"llama-bench: not within {error.timeout:.0f} s; --timeout raises that") from error
        except (json.JSONDecodeError, LookupError) as error:
            raise PeerError(f"llama-bench printed no avg_ts: {done.stderr.strip()[-400:]}") from error

    def memory(self, seed: int) -> Figure:
        """Three servers that have all answered; they share the mapped file."""
        with contextlib.ExitStack() as stack:
            pids = []
            for index in range(REPLICAS):
                server, child = stack.enter_context(self.server())
                server.serve("serve2", seed + index)
                pids += [child.pid, *descendants(child.pid)]
            return Figure("memory", memory_mb(pids), MEGABYTES)

    @contextmanager
    def server(self) -> Iterator[tuple[Completions, Child]]:
        """A server that has loaded its model."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        address = ["--host", "127.0.0.1", "--port", str(port)]
        child = Child([self.server_binary, "-m", self.gguf, *address, *self.flags()])
        try:
            child.wait_until("it is healthy", lambda: healthy(url), self.work.timeout_s)
            yield Completions(url, "model", self.work), child
        finally:
            child.stop()


def healthy(url: str) -> bool:
    """Whether the server answers 200 now."""
    try:
        with urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False
