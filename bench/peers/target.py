"""What every target offers, and how servers of completions are measured."""

import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import load
from figures import TOKENS_PER_S, Unit
from processes import PeerError
from work import Work, concurrency


@dataclass(frozen=True)
class Checkpoint:
    """A folder in the form of Hugging Face, or the name `demo`."""

    path: str

    @property
    def name(self) -> str:
        """For the table."""
        return Path(self.path).name

    def vocabulary(self) -> int:
        """Token ids there are; for `demo` a number that is surely small enough."""
        config = Path(self.path) / "config.json"
        return int(json.loads(config.read_text())["vocab_size"]) if config.is_file() else 64

    def warm(self) -> None:
        """Reads the weights once, so that the page cache has them."""
        for file in Path(self.path).glob("*.safetensors"):
            read_all(file)


@dataclass(frozen=True)
class Setup:
    """What all targets of one comparison share."""

    #: The model of every row but the first cold start.
    model: Checkpoint
    #: The model of the first cold start.
    small_model: Checkpoint
    work: Work


@dataclass(frozen=True)
class Figure:
    """One figure of one visit."""

    row: str
    value: float
    unit: Unit


class Target(ABC):
    """Something that runs a model. A visit starts it, measures, and ends it."""

    #: Its name on the command line and in the table.
    name: str
    #: The rows that it can do.
    rows: frozenset[str]

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.work = setup.work

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot run here and how to get it, in one line; None where it can."""

    @abstractmethod
    def describe(self) -> str:
        """Its version and the flags that matter."""

    @abstractmethod
    def visit(self, rows: list[str], seed: int) -> Iterator[Figure]:
        """Measures those of `rows` that it can do, once. Raises PeerError."""


class Completions:
    """A running server with OpenAI's `/v1/completions`."""

    def __init__(self, url: str, model: str, work: Work) -> None:
        self.url, self.model, self.work = url, model, work

    def body(self, prompt: str | list[int], tokens: int, **more: object) -> dict:
        """A greedy request of exactly `tokens` output tokens."""
        fixed = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        return {**fixed, **more}

    def warm_up(self, seed: int) -> None:
        """One request that is not counted."""
        self._post(self.body(self.work.prompts(1, seed)[0], 4))

    def first_token_s(self, prompt: str) -> float:
        """Seconds from the request to the first event of a stream, which is of one token: a text is said when it is
        whole, and random models begin with parts of characters."""
        answer = self._stream(self.body(prompt, 1, stream=True))
        if not answer.events_s:
            raise PeerError("the stream is empty")
        return answer.events_s[0] - answer.start_s

    def decode(self, seed: int) -> Figure:
        """Tokens after the first, over the time from the first event to the last."""
        tokens = self.work.tokens + 1
        answer = self._stream(self.body(self.work.prompts(1, seed)[0], tokens, stream=True))
        if len(answer.events_s) < 2:
            raise PeerError(f"a stream of {tokens} tokens had {len(answer.events_s)} events")
        return Figure("decode", self.work.tokens / (answer.events_s[-1] - answer.events_s[0]), TOKENS_PER_S)

    def serve(self, row: str, seed: int) -> Figure:
        """All output tokens over the time from the first request to the last answer."""
        streams = concurrency(row)
        prompts = self.work.prompts(streams * self.work.waves, seed)
        bodies = [self.body(prompt, self.work.tokens) for prompt in prompts]
        timeout_s = self.work.timeout_s * self.work.waves
        seconds, answers = load.closed_loop(self.url, "/v1/completions", bodies, streams, timeout_s)
        for answer in answers:
            self._check(answer.json(), self.work.tokens)
        return Figure(row, len(bodies) * self.work.tokens / seconds, TOKENS_PER_S)

    def prefill(self, vocabulary: int, seed: int) -> Figure:
        """Prompt tokens over the time of a request with one token of output."""
        answer = self._post(self.body(self.work.prompt_ids(vocabulary, seed), 1))
        usage = answer.json()["usage"]
        if usage["prompt_tokens"] != self.work.prefill:
            raise PeerError(f"{self.work.prefill} prompt tokens became {usage['prompt_tokens']}")
        return Figure("prefill512", self.work.prefill / (answer.end_s - answer.start_s), TOKENS_PER_S)

    def prompt_tokens(self, seed: int) -> int:
        """How many tokens a prompt of 32 words has."""
        return int(self._post(self.body(self.work.prompts(1, seed)[0], 1)).json()["usage"]["prompt_tokens"])

    def _post(self, body: dict) -> load.Answer:
        answer = load.post(self.url, "/v1/completions", body, self.work.timeout_s)
        self._check(answer.json(), body["max_tokens"])
        return answer

    def _stream(self, body: dict) -> load.Stream:
        return load.stream(self.url, "/v1/completions", body, self.work.timeout_s)

    @staticmethod
    def _check(answer: dict, tokens: int) -> None:
        made = answer.get("usage", {}).get("completion_tokens")
        if made != tokens:
            raise PeerError(f"{tokens} tokens were asked for, {made} came: the rate would be wrong")


def first_line(command: list[str]) -> str:
    """The first line that a command prints on either stream; empty where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines and done.returncode == 0 else ""


def python_versions(python: str, packages: list[str]) -> dict[str, str]:
    """Versions of those packages that an interpreter's environment has."""
    script = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({p: have[p] for p in sys.argv[1:] if p in have}))"
    )
    line = first_line([python, "-c", script, *packages])
    return json.loads(line) if line.startswith("{") else {}


def read_all(file: Path) -> None:
    """Reads a file to its end."""
    with file.open("rb", buffering=0) as source:
        while source.read(16 << 20):
            pass
