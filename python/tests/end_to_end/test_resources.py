"""What `ray_actor_options` asks for, on a server that was told what its machine has."""

import json
import os
import signal
from pathlib import Path

import httpx
import pytest
from servers import OwnServer, until

from tyndall import serve
from tyndall.serve import _admin
from tyndall.serve.api import _run


@pytest.fixture
def own(monkeypatch):
    # The variable names GPUs; whether there are any is the driver's matter, and nobody asks it here.
    one = OwnServer(CUDA_VISIBLE_DEVICES="GPU-a,1", TYNDALL_RESOURCES='{"slot": 1}')
    monkeypatch.setenv("TYNDALL_ADDRESS", one.address)
    yield one
    one.end()


@serve.deployment
class Visible:
    def __call__(self, request) -> dict:
        return {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}


def start(name: str, replicas: int = 1, *, waits: bool = False, **actor: object) -> None:
    one = Visible.options(num_replicas=replicas, ray_actor_options={"num_cpus": 0, **actor}).bind()
    _run(one, name=name, route_prefix=f"/{name}", _blocking=not waits)


def told(name: str) -> tuple[str, str]:
    applications = json.loads(_admin.request("GET", "/api/serve/applications/"))["applications"]
    return applications[name]["status"], applications[name]["deployments"]["Visible"]["message"]


def asked(own: OwnServer, name: str, times: int = 1) -> list[dict]:
    return [httpx.get(f"{own.url}/{name}", timeout=60).json() for _ in range(times)]


def controller(own: OwnServer) -> int:
    children = Path(f"/proc/{own.process.pid}/task/{own.process.pid}/children").read_text().split()
    [pid] = [pid for pid in children if b"\0controller\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(pid)


def test_replicas_share_gpus_and_wait_for_room(own):
    start("halves", 2, num_gpus=0.5)
    halves = until(lambda: {one["pid"]: one["gpus"] for one in asked(own, "halves", 8)})
    [gpu] = set(halves.values())
    start("whole", num_gpus=1)
    [whole] = asked(own, "whole")
    assert {gpu, whole["gpus"]} == {"GPU-a", "1"}
    start("late", waits=True, num_gpus=0.25)
    until(lambda: told("late")[1] == "needs 0.25 GPUs, 0 of 2 are free")
    start("none", num_gpus=0)
    assert asked(own, "none")[0]["gpus"] == "GPU-a,1", "as the server has it"
    serve.delete("whole")
    until(lambda: told("late")[0] == "RUNNING")
    assert asked(own, "late")[0]["gpus"] == whole["gpus"]


def test_a_new_controller_knows_which_gpus_are_taken(own):
    start("first", num_gpus=1)
    start("second", num_gpus=1)
    [first], [second] = asked(own, "first"), asked(own, "second")
    serve.delete("first")
    os.kill(controller(own), signal.SIGKILL)
    until(lambda: asked(own, "second") == [second])
    start("third", num_gpus=0.5)
    assert asked(own, "third")[0]["gpus"] == first["gpus"], "that of the second is its own"


def test_custom_resources_are_those_that_the_server_was_told_of(own):
    start("one", resources={"slot": 1})
    start("two", waits=True, resources={"slot": 1})
    until(lambda: told("two")[1] == "needs 1 slot, 0 of 1 are free")
    start("other", waits=True, resources={"tape": 1})
    until(lambda: told("other")[1] == "needs 1 tape, 0 of 0 are free")
    serve.delete("one")
    until(lambda: told("two")[0] == "RUNNING")
