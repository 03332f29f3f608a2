"""Libraries as targets: each runs in a child process with an interpreter of its own, and times itself.

The child reads one JSON job a line and answers with one JSON line:

- `{"job": "generate", "prompts": [...], "tokens": N}`: all prompts as one batch, exactly N tokens each;
- `{"job": "prefill", "ids": [...]}`: one prompt of token ids, one token of output.

Its first line, before any job, is `{"ready": "what runs, in words"}`. An answer is `{"seconds": S}`, or
`{"error": "..."}`.
"""

import json
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from figures import TOKENS_PER_S
from processes import Child, PeerError
from target import Figure, Setup, Target, python_versions
from work import concurrency

HERE = Path(__file__).parent


class Worker:
    """A child that answers jobs."""

    def __init__(self, child: Child, timeout_s: float) -> None:
        self.child, self.timeout_s = child, timeout_s
        self.rest = b""

    def seconds(self, **job: object) -> float:
        """Runs a job; returns how long it took by the child's clock."""
        try:
            self.child.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.child.process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(f"the worker ended:\n{self.child.tail()}") from error
        answer = self.line()
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["seconds"]

    def line(self) -> dict:
        """The next line; PeerError where none comes in time."""
        output = self.child.process.stdout.fileno()
        end = time.monotonic() + self.timeout_s
        while b"\n" not in self.rest:
            readable, _, _ = select.select([output], [], [], max(0.0, end - time.monotonic()))
            if not readable:
                raise PeerError(f"the worker: no answer within {self.timeout_s:.0f} s; --timeout raises that")
            part = self.child.process.stdout.read1(65_536)
            if not part:
                raise PeerError(f"the worker ended:\n{self.child.tail()}")
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)


class Library(Target):
    """A target that is a library, measured in its own process without any server."""

    rows = frozenset(["decode", "serve8", "serve32", "prefill512"])
    #: The script of the child, and the packages that it needs, the telling one first.
    script: str
    packages: list[str]
    install: str

    def __init__(self, setup: Setup, python: str, model: str) -> None:
        super().__init__(setup)
        self.python, self.model = python, model
        self.said = ""

    def missing(self) -> str | None:
        if self.packages[0] in python_versions(self.python, self.packages):
            return None
        return f"{self.python} has no {self.packages[0]}: {self.install}"

    def describe(self) -> str:
        versions = python_versions(self.python, self.packages)
        return f"{', '.join(f'{name} {version}' for name, version in versions.items())}; {self.said}"

    def visit(self, rows: list[str], seed: int) -> Iterator[Figure]:
        with self.worker() as worker:
            work = self.work
            worker.seconds(job="generate", prompts=work.prompts(1, seed), tokens=4)
            if "decode" in rows:
                # The same prompt length with one token takes the prefill away.
                first = worker.seconds(job="generate", prompts=work.prompts(1, seed + 1), tokens=1)
                whole = worker.seconds(job="generate", prompts=work.prompts(1, seed + 2), tokens=work.tokens + 1)
                if whole <= first:
                    raise PeerError("the decode was too short to be timed: raise --tokens")
                yield Figure("decode", work.tokens / (whole - first), TOKENS_PER_S)
            if "prefill512" in rows:
                ids = work.prompt_ids(self.setup.model.vocabulary(), seed)
                yield Figure("prefill512", work.prefill / worker.seconds(job="prefill", ids=ids), TOKENS_PER_S)
            for row in [row for row in rows if row.startswith("serve")]:
                count, seconds = concurrency(row), 0.0
                for wave in range(work.waves):
                    prompts = work.prompts(count, seed + 10 * count + wave)
                    seconds += worker.seconds(job="generate", prompts=prompts, tokens=work.tokens)
                yield Figure(row, count * work.waves * work.tokens / seconds, TOKENS_PER_S)

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A child that has loaded the model."""
        command = [self.python, str(HERE / self.script), self.model, str(self.work.threads), self.work.dtype]
        child = Child(command, {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}, stdin=True)
        try:
            worker = Worker(child, self.work.timeout_s)
            self.said = worker.line()["ready"]
            yield worker
        finally:
            child.stop()


class Transformers(Library):
    """`generate` of transformers, one batch at a time."""

    name = "transformers"
    script = "transformers_worker.py"
    packages = ["transformers", "torch"]
    install = "pip install -r bench/peers/requirements.txt, or name another interpreter with --transformers-python"


class OpenVino(Library):
    """The continuous-batching pipeline of OpenVINO GenAI."""

    name = "openvino"
    script = "openvino_worker.py"
    packages = ["openvino-genai", "openvino", "openvino-tokenizers"]
    install = (
        "pip install -r bench/peers/requirements-openvino.txt in an environment of its own, named by --openvino-python"
    )

    def missing(self) -> str | None:
        if reason := super().missing():
            return reason
        if not (Path(self.model) / "openvino_model.xml").is_file():
            return f"no OpenVINO model in {self.model}: bench/peers/export_openvino.py CHECKPOINT FOLDER makes it"
        return None
