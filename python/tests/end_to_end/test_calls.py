"""Handles between processes: graphs, streams, errors, batches, models."""

import asyncio
import os
import random
import signal
import time

import pytest

from tyndall import serve
from tyndall.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from tyndall.serve.handle import DeploymentHandle


@serve.deployment
class Doubler:
    def __call__(self, x):
        return 2 * x

    async def fail(self, text: str):
        raise KeyError(text)

    def pid(self) -> int:
        return os.getpid()

    def count(self, to: int):
        yield from range(to)

    async def broken(self, to: int):
        for i in range(to):
            yield i
        raise ValueError("midway")


@serve.deployment
class Adder:
    async def __call__(self, a, b):
        return a + b


@serve.deployment
class Graph:
    def __init__(self, doubler: DeploymentHandle, adder: DeploymentHandle):
        self.doubler, self.adder = doubler, adder

    async def __call__(self, x: int) -> int:
        # Responses go on as arguments without being awaited.
        return await self.adder.remote(self.doubler.remote(x), b=self.doubler.remote(x + 1))

    async def counted(self, to: int):
        async for item in self.doubler.options(stream=True).count.remote(to):
            yield item * 10

    async def gathered(self, n: int) -> list[int]:
        return await asyncio.gather(*(self.doubler.remote(i) for i in range(n)))

    async def caught(self) -> str:
        try:
            await self.doubler.fail.remote("deep")
        except KeyError as error:
            return f"{type(error).__name__} {error.args[0]}"
        return "nothing"


def test_a_graph_of_processes(deploy):
    _, handle = deploy(Graph.bind(Doubler.bind(), Adder.bind()))
    assert handle.remote(5).result() == 2 * 5 + 2 * 6
    assert handle.gathered.remote(50).result() == [2 * i for i in range(50)]
    assert list(handle.options(stream=True).counted.remote(300)) == [10 * i for i in range(300)]
    assert handle.caught.remote().result() == "KeyError deep"

    async def awaited() -> list[int]:
        return list(await asyncio.gather(*(handle.remote(i) for i in range(20))))

    assert asyncio.run(awaited()) == [4 * i + 2 for i in range(20)]


def test_errors_are_those_of_the_code(deploy):
    _, handle = deploy(Doubler.bind())
    with pytest.raises(KeyError, match="text") as caught:
        handle.fail.remote("text").result()
    assert "in fail" in str(caught.value.__cause__), "the traceback of the replica is told"
    items = handle.options(stream=True).broken.remote(3)
    got = []
    with pytest.raises(ValueError, match="midway"):
        for item in items:
            got.append(item)
    assert got == [0, 1, 2]
    with pytest.raises(RayServeException, match="does not exist"):
        handle.nothing.remote().result()
    with pytest.raises(TypeError, match="stream=True"):
        handle.count.remote(3).result()
    with pytest.raises(TypeError):
        handle.remote(lambda: open(os.devnull), open(os.devnull)).result()


def test_any_size_and_kind_goes_through(deploy):
    _, handle = deploy(Doubler.bind())
    big = os.urandom(4_000_000)
    assert handle.remote([big]).result() == [big, big]
    assert handle.remote((1, "a", {"k": None}))  # a tuple of several kinds


@serve.deployment(max_ongoing_requests=3, max_queued_requests=2)
class Slow:
    def __init__(self):
        self.cancelled = 0

    async def __call__(self, seconds: float) -> int:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.cancelled


@serve.deployment
class Caller:
    def __init__(self, slow: DeploymentHandle):
        self.slow = slow

    async def __call__(self, seconds: float) -> int:
        return await self.slow.remote(seconds)

    async def cancelled(self) -> int:
        return await self.slow.remote(0)


def test_cancelling_follows_the_graph(deploy):
    _, handle = deploy(Caller.bind(Slow.bind()))
    response = handle.remote(60)
    with pytest.raises(TimeoutError):
        response.result(timeout_s=1)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result()
    for _ in range(100):
        if handle.cancelled.remote().result() == 1:
            break
    assert handle.cancelled.remote().result() == 1


def test_a_full_queue_refuses(deploy):
    _, handle = deploy(Slow.bind())
    responses = [handle.remote(1.0) for _ in range(30)]
    refused = 0
    for response in responses:
        try:
            response.result()
        except BackPressureError as error:
            assert error.max_queued_requests == 2
            refused += 1
    assert 0 < refused < 30


@serve.deployment(max_ongoing_requests=100)
class Batched:
    def __init__(self):
        self.sizes: list[int] = []

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.2)
    async def work(self, xs: list[int]) -> list[int]:
        self.sizes.append(len(xs))
        if any(x < 0 for x in xs):
            raise ValueError("below zero")
        return [x * x for x in xs]

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.2)
    async def steps(self, xs: list[int]):
        for step in range(max(xs)):
            yield [step if step < x else StopIteration for x in xs]

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.1)
    async def short(self, xs: list[int]) -> list[int]:
        return xs[1:]

    async def __call__(self, x: int) -> int:
        return await self.work(x)

    async def stream(self, x: int):
        async for step in self.steps(x):
            yield step

    async def wrong(self, x: int) -> int:
        return await self.short(x)

    def seen(self) -> list[int]:
        return self.sizes

    def resize(self, size: int) -> None:
        self.work.set_max_batch_size(size)


def test_batches_form_across_callers(deploy):
    _, handle = deploy(Batched.bind())
    responses = [handle.remote(i) for i in range(20)]
    assert [response.result() for response in responses] == [i * i for i in range(20)]
    sizes = handle.seen.remote().result()
    assert sum(sizes) == 20 and max(sizes) <= 8 and len(sizes) < 10, sizes
    with pytest.raises(ValueError, match="below zero"):
        handle.remote(-1).result()
    with pytest.raises(RayServeException, match="preserve batch size"):
        handle.wrong.remote(1).result()
    streams = [handle.options(stream=True).stream.remote(n) for n in (1, 3, 2)]
    assert [list(stream) for stream in streams] == [[0], [0, 1, 2], [0, 1]]
    handle.resize.remote(1).result()
    before = len(handle.seen.remote().result())
    for response in [handle.remote(i) for i in range(4)]:
        response.result()
    assert handle.seen.remote().result()[before:] == [1, 1, 1, 1]


@serve.deployment
class Models:
    def __init__(self):
        self.loaded: list[str] = []

    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, model_id: str) -> str:
        self.loaded.append(model_id)
        return model_id.upper()

    async def __call__(self, _=None) -> str:
        return await self.model(serve.get_multiplexed_model_id())

    def seen(self) -> list[str]:
        return self.loaded


def test_the_latest_used_models_stay(deploy):
    client, handle = deploy(Models.bind())
    for name in "abacab":
        assert handle.options(multiplexed_model_id=name).remote().result() == name.upper()
    assert handle.seen.remote().result() == ["a", "b", "c", "b"]
    assert client.get("/", headers={"serve_multiplexed_model_id": "z"}).text == "Z"


@serve.deployment(user_config={"factor": 2})
class Configured:
    def __init__(self):
        self.pid = os.getpid()

    def reconfigure(self, config):
        self.factor = config["factor"]

    def __call__(self, x: int) -> int:
        return self.factor * x

    def context(self) -> dict:
        context = serve.get_replica_context()
        return {"deployment": context.deployment, "app": context.app_name, "rank": context.rank.rank}


def test_user_config_and_the_replica_context(deploy):
    _, handle = deploy(Configured.bind(), name="configured")
    assert handle.remote(4).result() == 8
    assert handle.context.remote().result() == {"deployment": "Configured", "app": "configured", "rank": 0}
    _, handle = deploy(Configured.options(user_config={"factor": 3}).bind(), name="configured")
    assert handle.remote(4).result() == 12


@serve.deployment(num_replicas=2)
class Mortal:
    async def __call__(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return os.getpid()


def test_a_killed_replica_costs_only_what_it_had(deploy):
    _, handle = deploy(Mortal.bind())
    pids = {handle.remote(0).result() for _ in range(50)}
    assert len(pids) == 2
    os.kill(pids.pop(), signal.SIGKILL)
    lost = 0
    for _ in range(200):
        try:
            handle.remote(0).result()
        except RayServeException:
            lost += 1
    # None of these calls had begun when it was killed, but those on their way may have.
    assert lost <= 1
    deadline = time.monotonic() + 60
    while len({handle.remote(0).result() for _ in range(20)}) < 2 and time.monotonic() < deadline:
        pass
    assert len({handle.remote(0).result() for _ in range(50)}) == 2


@serve.deployment
class Broken:
    def __init__(self):
        raise RuntimeError("cannot be made")

    def __call__(self):
        return None


def test_a_constructor_that_raises_is_told(deploy):
    with pytest.raises(RuntimeError, match="cannot be made"):
        deploy(Broken.bind(), name="broken")
    status = serve.status().applications["broken"]
    assert status.status == "DEPLOY_FAILED"
    assert "cannot be made" in status.deployments["Broken"].message


@serve.deployment
class Node:
    def __init__(self, number: int, *children: DeploymentHandle):
        self.number, self.children = number, children

    async def __call__(self, x: int) -> int:
        total = self.number * x
        for value in await asyncio.gather(*(child.remote(x + self.number) for child in self.children)):
            total += value
        return total


def build(random_numbers: random.Random, made: list):
    """A graph, and the function that it is; parts are shared."""
    number = random_numbers.randrange(1, 9)
    children = [build(random_numbers, made) if not made or random_numbers.random() < 0.5 else random_numbers.choice(made)
                for _ in range(random_numbers.choice([0, 1, 2]) if len(made) < 4 else 0)]
    app = Node.bind(number, *(one for one, _ in children))

    def plain(x: int) -> int:
        return number * x + sum(of(x + number) for _, of in children)

    made.append((app, plain))
    return app, plain


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_graphs_are_the_functions_that_they_are_made_of(deploy, seed):
    app, plain = build(random.Random(seed), [])
    _, handle = deploy(app)
    for x in range(5):
        assert handle.remote(x).result() == plain(x)
