"""Load while replicas are killed, clients go away and code is changed: nothing is lost, left behind or kept.

TYNDALL_STRESS_SEED repeats the faults of a run that has printed its seed.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import uuid
from collections import Counter
from pathlib import Path

import httpx
import pytest
from servers import OwnServer
from starlette.requests import Request
from starlette.responses import StreamingResponse

from tyndall import serve
from tyndall.serve import _admin
from tyndall.serve.exceptions import BackPressureError, ReplicaUnavailableError
from tyndall.serve.handle import DeploymentHandle

NUM_CLIENTS = 12
NUM_FAULTS = 16
ANSWERS_PER_FAULT = 60
LIMIT_S = 60
"""After that long without an answer one is lost."""
ALLOWANCE_BYTES = 4 << 20
"""What a process may have grown by from one half of the run to the other: its allocator returns pages late."""
LOST = "was lost"
NO_REPLICA = "is unavailable because"
"""Of a call, which is to wait until another replica has come."""


@serve.deployment(num_replicas=2, max_ongoing_requests=64)
class Worker:
    async def double(self, x: int) -> int:
        await asyncio.sleep(x % 5 / 100)
        return 2 * x

    async def count(self, to: int):
        for i in range(to):
            await asyncio.sleep(0.002)
            yield i


@serve.deployment(num_replicas=2, max_ongoing_requests=64)
class Squares:
    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.01)
    async def __call__(self, xs: list[int]) -> list[int]:
        return [x * x for x in xs]


@serve.deployment(num_replicas=2, max_ongoing_requests=64, backpressure_config={"retry_after_s": 1})
class Front:
    def __init__(self, version: int, worker: DeploymentHandle, squares: DeploymentHandle):
        self.version, self.worker, self.squares = version, worker, squares

    async def __call__(self, request: Request):
        x = int(request.query_params["x"])
        if request.url.path.endswith("/stream"):
            return StreamingResponse(self.lines(x), media_type="text/plain")
        return await self.answer(request.url.path.rpartition("/")[2], x)

    async def answer(self, kind: str, x: int) -> dict:
        value = await (self.squares.remote(x) if kind == "batch" else self.worker.double.remote(x))
        return {"value": value, "version": self.version}

    async def lines(self, to: int):
        async for i in self.worker.options(stream=True).count.remote(to):
            yield f"{i}\n"
        yield "end\n"


def application(version: int) -> serve.Application:
    return Front.bind(version, Worker.bind(), Squares.bind())


# --- The server, as the operating system sees it ----------------------------------------------------------------------


class Node(OwnServer):
    """A server whose processes bear its mark."""

    def __init__(self) -> None:
        name, value = "TYNDALL_STRESS_MARK", str(uuid.uuid4())
        self.mark = f"{name}={value}"
        super().__init__(**{name: value})

    def marked(self) -> dict[int, list[str]]:
        """Live processes with the mark, and their command lines."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            # It may end while it is looked at, and others' are not to be read.
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_text().split("\0")
        return found

    def replicas(self) -> list[int]:
        return sorted(pid for pid, words in self.marked().items() if "replica" in words and "role" in words)

    def resident(self) -> dict[str, int]:
        """Bytes by the processes that live as long as the server."""
        found = {}
        for pid, words in self.marked().items():
            role = words[words.index("role") + 1] if "role" in words else "supervisor"
            if role in ("proxy", "controller", "supervisor"):
                with contextlib.suppress(OSError):
                    found[role] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return found


@pytest.fixture
def node(monkeypatch):
    one = Node()
    monkeypatch.setenv("TYNDALL_ADDRESS", one.address)
    yield one
    one.end()


# --- Clients ----------------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask until they are told to end, and what became of their requests."""

    def __init__(self, url: str, handle: DeploymentHandle, rng: random.Random) -> None:
        self.url, self.handle, self.rng = url, handle, rng
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.versions = {0}
        self.is_over = False

    @property
    def answered(self) -> int:
        return self.outcomes["answered"]

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=NUM_CLIENTS, max_keepalive_connections=NUM_CLIENTS)
        async with httpx.AsyncClient(base_url=self.url, timeout=LIMIT_S, limits=limits) as http:
            await asyncio.gather(*(self._client(http, random.Random(self.rng.random())) for _ in range(NUM_CLIENTS)))

    async def _client(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        while not self.is_over:
            kind = rng.choice((self._unary, self._stream, self._call))
            leaves_after = rng.uniform(0, 0.05) if rng.random() < 0.1 else None
            await self._outcome(kind(http, rng), leaves_after)

    async def _outcome(self, work, leaves_after: float | None) -> None:
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait([task], timeout=leaves_after or LIMIT_S)
        if not done:
            task.cancel()
            await asyncio.wait([task])
            outcome = "lost" if leaves_after is None else "left"
        elif task.exception() is not None:
            outcome = f"{type(task.exception()).__name__}: {task.exception()}"
        else:
            outcome = task.result()
        self.outcomes[outcome] += 1

    def _check(self, is_right: bool, what: str) -> str:
        if not is_right:
            self.wrong.append(what)
        return "answered"

    def _is_right(self, kind: str, x: int, answer: dict) -> bool:
        return answer["value"] == (x * x if kind == "batch" else 2 * x) and answer["version"] in self.versions

    async def _unary(self, http: httpx.AsyncClient, rng: random.Random) -> str:
        method, kind, x = rng.choice(("GET", "POST")), rng.choice(("batch", "double")), rng.randrange(1000)
        answer = await http.request(method, f"/{kind}", params={"x": x})
        if answer.status_code == 200:
            return self._check(self._is_right(kind, x, answer.json()), f"{kind} {x}: {answer.text}")
        is_refused = answer.status_code in (429, 503) and "retry-after" in answer.headers
        if is_refused and NO_REPLICA not in answer.text:
            return "refused"
        # A GET may run twice, so only the call that it led to may have been lost.
        if answer.status_code in ((500, 503) if method == "POST" else (503,)) and LOST in answer.text:
            return "died"
        return f"{method} {answer.status_code} {answer.text}"

    async def _stream(self, http: httpx.AsyncClient, rng: random.Random) -> str:
        to, text = rng.randrange(1, 40), ""
        expected = "".join(f"{i}\n" for i in range(to)) + "end\n"
        try:
            async with http.stream("GET", "/stream", params={"x": to}) as answer:
                if answer.status_code != 200:
                    said = (await answer.aread()).decode()
                    return "died" if answer.status_code == 503 and LOST in said else f"{answer.status_code} {said}"
                async for piece in answer.aiter_text():
                    text += piece
        except httpx.RemoteProtocolError:
            # It had begun: the client sees that it has no end, and what it has is right.
            self._check(expected.startswith(text), f"the beginning of a stream: {text!r}")
            return "died"
        return self._check(text == expected, f"a stream: {text!r}")

    async def _call(self, _: httpx.AsyncClient, rng: random.Random) -> str:
        kind, x = rng.choice(("batch", "double")), rng.randrange(1000)
        response = self.handle.answer.remote(kind, x)
        try:
            answer = await response
        except BackPressureError:
            return "refused"
        except ReplicaUnavailableError as error:
            return "died" if LOST in str(error) else f"call: {error}"
        except asyncio.CancelledError:
            response.cancel()
            raise
        return self._check(self._is_right(kind, x, answer), f"call of {kind} {x}: {answer}")


# --- Faults -----------------------------------------------------------------------------------------------------------


class Faults:
    """What is done to the server, in an order that a seed decides, each after so many answers."""

    def __init__(self, node: Node, load: Load, rng: random.Random) -> None:
        self.node, self.load, self.rng = node, load, rng
        self.num_killed = 0
        self.resident: list[dict[str, int]] = []

    async def run(self) -> None:
        redeploys = set(self.rng.sample(range(1, NUM_FAULTS - 1), 4))
        running = None
        for i in range(NUM_FAULTS):
            await self._answers(ANSWERS_PER_FAULT)
            self.resident.append(self.node.resident())
            if i in redeploys:
                # Replicas are killed while it goes on, too.
                await self._ended(running)
                version = max(self.load.versions) + 1
                self.load.versions.add(version)
                running = asyncio.create_task(asyncio.to_thread(serve.run, application(version)))
            else:
                self._kill()
        await self._ended(running)
        await self._answers(ANSWERS_PER_FAULT)
        self.resident.append(self.node.resident())

    async def _answers(self, count: int) -> None:
        async def there() -> None:
            until = self.load.answered + count
            while self.load.answered < until:
                await asyncio.sleep(0.02)

        await asyncio.wait_for(there(), LIMIT_S)

    async def _ended(self, running: asyncio.Task | None) -> None:
        if running is not None:
            await running

    def _kill(self) -> None:
        pid = self.rng.choice(self.node.replicas())
        # It may have ended by itself, in a redeploy.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.num_killed += 1


def test_nothing_is_lost_left_or_kept(node):
    seed = int(os.environ.get("TYNDALL_STRESS_SEED") or random.randrange(1 << 32))
    print(f"TYNDALL_STRESS_SEED={seed}")
    rng = random.Random(seed)
    handle = serve.run(application(0))
    load = Load(node.url, handle, rng)
    faults = Faults(node, load, rng)

    async def everything() -> None:
        clients = asyncio.create_task(load.run())
        try:
            await faults.run()
        finally:
            load.is_over = True
            await clients

    asyncio.run(everything())
    print(dict(load.outcomes), f"{faults.num_killed} killed", faults.resident)
    expected = {"answered", "left", "refused", "died"}
    assert {outcome for outcome in load.outcomes if outcome not in expected} == set(), f"{seed=}"
    assert load.wrong == [], f"{seed=}"
    assert load.outcomes["died"] <= faults.num_killed * NUM_CLIENTS, "each kill costs at most what was at work"
    check_that_the_last_version_answers(node, load)
    check_that_nothing_is_ongoing()
    check_that_no_process_grew(faults.resident)
    node.end()
    assert node.marked() == {}, "every process has ended"


def check_that_the_last_version_answers(node: Node, load: Load) -> None:
    last = max(load.versions)
    # A replica that was killed last may still be replaced.
    assert _admin.wait_until(lambda: serve.status().applications["default"].status == "RUNNING", LIMIT_S)
    for _ in range(20):
        assert httpx.get(f"{node.url}/double?x=3", timeout=LIMIT_S).json() == {"value": 6, "version": last}


def check_that_nothing_is_ongoing() -> None:
    """Every place that a request had was given back, whatever became of it."""
    found: dict[str, int] = {}

    def is_quiet() -> bool:
        applications = json.loads(_admin.request("GET", "/api/tyndall/applications/"))["applications"]
        for name, deployment in applications["default"]["deployments"].items():
            found[name] = deployment["ongoing_requests"] + deployment["queued_requests"]
        return not any(found.values())

    assert _admin.wait_until(is_quiet, LIMIT_S), found


def check_that_no_process_grew(resident: list[dict[str, int]]) -> None:
    half = len(resident) // 2
    for role in ("proxy", "controller", "supervisor"):
        first, second = (max(one[role] for one in part) for part in (resident[:half], resident[half:]))
        assert second <= first + ALLOWANCE_BYTES, f"the {role} grew from {first >> 10} to {second >> 10} KiB"
