"""Tokens that one router gives out for all who send requests to a deployment, between processes."""

import asyncio
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from servers import details, processes, until

from tyndall import serve
from tyndall.serve.config import DeploymentActorConfig
from tyndall.serve.exceptions import RequestCancelledError
from tyndall.serve.experimental.capacity_queue import CapacityQueue
from tyndall.serve.experimental.capacity_queue_router import CapacityQueueRouter


class Watched(CapacityQueueRouter):
    """Writes down who had to ask again."""

    def initialize_state(self, path, **kwargs):
        super().initialize_state(**kwargs)
        self.path = path

    def on_replica_actor_unavailable(self, replica_id):
        super().on_replica_actor_unavailable(replica_id)
        with open(self.path, "a") as file:
            print(replica_id.unique_id, file=file)


class Worker:
    """Holds requests until a file is there, and says who has had which."""

    def __init__(self):
        self.id = serve.get_replica_context().replica_id.unique_id

    async def hold(self, gate, number):
        begun = Path(f"{gate}.{number}")
        begun.write_text(self.id)
        while not Path(gate).exists():
            await asyncio.sleep(0.01)
        return self.id

    async def __call__(self, request):
        params = request.query_params
        return await self.hold(params["gate"], params["number"]) if params else self.id


@serve.deployment(num_replicas=2, max_ongoing_requests=1)
class Front:
    """Two more processes that send requests."""

    def __init__(self, worker):
        self.worker = worker

    def pid(self):
        return os.getpid()

    async def __call__(self, request):
        return await self.worker.hold.remote(request.query_params["gate"], request.query_params["number"])


class Gate:
    """What holds requests, and which replica has which of them."""

    def __init__(self, folder):
        self.path = str(folder / "gate")
        self.refusals = folder / "refusals"
        self.pool = ThreadPoolExecutor(16)

    def get(self, client, number):
        return self.pool.submit(client.get, "/", params={"gate": self.path, "number": number})

    def held(self, *numbers):
        """The replicas that have these, once they have them."""
        files = [Path(f"{self.path}.{number}") for number in numbers]
        return until(lambda: all(f.exists() and f.read_text() for f in files) and [f.read_text() for f in files], "held")

    def has(self, number):
        return Path(f"{self.path}.{number}").exists()

    def open(self):
        Path(self.path).touch()


@pytest.fixture
def gate(tmp_path):
    made = Gate(tmp_path)
    yield made
    made.open()
    made.pool.shutdown()


def worker(gate, replicas, max_ongoing, **options):
    kwargs = {"capacity_queue_actor_name": "queue", "path": str(gate.refusals)}
    router = {"request_router_class": Watched, "request_router_kwargs": kwargs}
    made = serve.deployment(name="Worker", num_replicas=replicas, max_ongoing_requests=max_ongoing, **options)
    return made(Worker).options(request_router_config=router).bind()


def load(name, deployment="Worker"):
    told = details(name)["deployments"][deployment]
    return told["queued_requests"], told["ongoing_requests"]


def healthy(name):
    return details(name)["deployments"]["Worker"]["message"] == ""


def test_no_sender_fills_what_another_has_filled(deploy, gate):
    # As a program for Ray has it.
    queue = {"acquire_timeout_s": 0.5, "token_ttl_s": 60}
    actors = [DeploymentActorConfig(name="queue", actor_class=CapacityQueue, init_kwargs=queue)]
    client, _ = deploy(Front.bind(worker(gate, 3, 1, deployment_actors=actors)), name="tokens")
    own = serve.get_deployment_handle("Worker", "tokens")
    until(lambda: healthy("tokens"), "its router is there")
    # Three processes know nothing of each other, and each has a replica of its own.
    calls = [gate.get(client, 1), gate.get(client, 2)]
    gate.held(1, 2)
    calls.append(own.hold.remote(gate.path, 3))
    assert len(set(gate.held(1, 2, 3))) == 3
    # What comes now waits, and is not sent.
    late = own.hold.remote(gate.path, 4)
    until(lambda: load("tokens")[0] == 1, "it waits")
    assert not gate.has(4)
    gate.open()
    assert late.result(timeout_s=60) in gate.held(1, 2, 3)
    assert [calls[n].result().status_code for n in (0, 1)] == [200, 200] and calls[2].result(timeout_s=60)
    assert not gate.refusals.exists(), "no replica has refused anything"
    until(lambda: load("tokens") == (0, 0), "nothing is left")


def test_the_replica_with_the_fewest_is_next_and_who_waits_longest_first(deploy, gate):
    client, _ = deploy(worker(gate, 3, 2), name="fewest")
    until(lambda: healthy("fewest"), "its router is there")
    calls = []
    for number in range(6):
        calls.append(gate.get(client, number))
        counts = Counter(gate.held(*range(number + 1)))
        assert max(counts.values()) == number // 3 + 1, counts
    for number in (6, 7):
        calls.append(gate.get(client, number))
        until(lambda number=number: load("fewest")[0] == number - 5, "it waits")
    assert not gate.has(6) and not gate.has(7)
    gate.open()
    assert all(call.result().status_code == 200 for call in calls)
    assert not gate.refusals.exists()


def test_who_goes_away_leaves_nothing_taken(deploy, gate):
    client, handle = deploy(worker(gate, 1, 1), name="leaves")
    until(lambda: healthy("leaves"), "its router is there")
    first = gate.get(client, 1)
    (id,) = gate.held(1)
    for _ in range(3):
        with httpx.Client(base_url=client.base_url, timeout=0.3) as hasty, pytest.raises(httpx.ReadTimeout):
            hasty.get("/", params={"gate": gate.path, "number": 2})
    waits = handle.hold.remote(gate.path, 3)
    until(lambda: load("leaves") == (1, 1), "one waits, and the others do not any more")
    waits.cancel()
    with pytest.raises(RequestCancelledError):
        waits.result(timeout_s=60)
    until(lambda: load("leaves") == (0, 1), "nobody waits")
    gate.open()
    assert first.result().text == id
    assert [client.get("/").text for _ in range(5)] == [id] * 5
    assert not gate.has(2) and not gate.has(3)


def test_what_a_killed_process_had_is_free_again(deploy, gate):
    client, _ = deploy(Front.options(num_replicas=1, max_ongoing_requests=8).bind(worker(gate, 2, 1)), name="killed")
    own = serve.get_deployment_handle("Worker", "killed")
    until(lambda: healthy("killed"), "its router is there")
    pid = serve.get_app_handle("killed").pid.remote().result()
    calls = [gate.get(client, number) for number in (1, 2)]
    assert len(set(gate.held(1, 2))) == 2
    late = own.hold.remote(gate.path, 3)
    until(lambda: load("killed")[0] >= 1, "it waits")
    os.kill(pid, signal.SIGKILL)
    (id,) = gate.held(3)
    gate.open()
    assert late.result(timeout_s=60) == id
    assert {call.result().status_code for call in calls} <= {200, 500, 502, 503}
    until(lambda: load("killed") == (0, 0), "nothing is left")


def test_nothing_is_lost_when_the_process_of_the_tokens_is_killed(deploy, gate):
    client, handle = deploy(worker(gate, 2, 2), name="restarts")
    until(lambda: healthy("restarts"), "its router is there")
    over = threading.Event()

    def proxied(_):
        answers = []
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            while not over.is_set():
                answers.append(own.get("/").status_code)
        return answers

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(proxied, n) for n in range(6)]
        try:
            for _ in range(2):
                (process,) = until(lambda: processes("router", "restarts"), "it is there")
                os.kill(process, signal.SIGKILL)
                others = ([process], [])
                until(lambda others=others: processes("router", "restarts") not in others, "another takes its place")
                until(lambda: healthy("restarts"), "it chooses again")
        finally:
            over.set()
    answers = [status for one in asking for status in one.result()]
    assert set(answers) == {200} and len(answers) > 50
    until(lambda: load("restarts") == (0, 0), "nothing is left")
    # The limits are whole, and nothing is taken that nobody has.
    calls = [gate.get(client, number) for number in range(5)]
    until(lambda: load("restarts") == (1, 4), "four are at work, and one waits")
    gate.open()
    assert all(call.result().status_code == 200 for call in calls)


def test_it_needs_a_name(deploy):
    path = "ray.serve.experimental.capacity_queue_router:CapacityQueueRouter"
    app = serve.deployment(name="Worker", request_router_config={"request_router_class": path})(Worker).bind()
    client, _ = deploy(app, name="nameless")
    why = "capacity_queue_actor_name is None; write a name into request_router_kwargs"
    until(lambda: why in details("nameless")["deployments"]["Worker"]["message"], "it says why")
    assert client.get("/").status_code == 200
