"""Requests that name a model go to the replica that has it."""

import asyncio
import json
import os
import signal
import time

import httpx

from tyndall import serve
from tyndall.serve import _admin


@serve.deployment(num_replicas=3, max_ongoing_requests=2)
class Zoo:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, model_id: str) -> str:
        return model_id.upper()

    async def __call__(self, request=None) -> dict:
        seconds = 0.0 if request is None else float(getattr(request, "query_params", {}).get("seconds", 0))
        name = await self.model(serve.get_multiplexed_model_id())
        await asyncio.sleep(seconds)
        return {"model": name, "pid": os.getpid()}

    async def pid(self, path: str) -> int:
        """Stays until the file is there."""
        await self.model(serve.get_multiplexed_model_id())
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
        return os.getpid()


@serve.deployment
class Front:
    def __init__(self, zoo):
        self.zoo = zoo

    async def __call__(self, request) -> dict:
        return await self.zoo.options(multiplexed_model_id=request.query_params["model"]).remote()

    async def ask(self, model: str) -> int:
        return (await self.zoo.options(multiplexed_model_id=model).remote())["pid"]


def holders(app: str, deployment: str) -> dict[int, list[str]]:
    """The models that the controller knows of, by the process that has them."""
    told = json.loads(_admin.request("GET", "/api/tyndall/applications/"))
    replicas = told["applications"][app]["deployments"][deployment]["replicas"]
    return {one["pid"]: one.get("models", []) for one in replicas if one["state"] == "RUNNING"}


def until(found) -> object:
    """What `found` gives, once that is something."""
    deadline = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return value


def holder(app: str, model: str, deployment: str = "Zoo") -> int:
    """The only process that has the model."""
    having = lambda: [pid for pid, models in holders(app, deployment).items() if model in models]  # noqa: E731
    return until(lambda: len(having()) == 1 and having())[0]


def test_requests_and_calls_go_where_their_model_is(deploy):
    client, handle = deploy(Zoo.bind(), name="zoo")
    places = {}
    for model in ("a", "b", "c"):
        first = client.get("/", headers={"serve_multiplexed_model_id": model}).json()
        places[model] = first["pid"]
        assert first["model"] == model.upper()
        assert holder("zoo", model) == first["pid"]
    assert len(set(places.values())) == 3, "each new model goes where there are the fewest"
    for model in "abcabc" * 5:
        assert client.get("/", headers={"serve-multiplexed-model-id": model}).json()["pid"] == places[model]
        assert handle.options(multiplexed_model_id=model).remote().result()["pid"] == places[model]


def test_calls_between_deployments_go_where_their_model_is(deploy):
    client, handle = deploy(Front.bind(Zoo.bind()), name="front")
    place = client.get("/", params={"model": "m"}).json()["pid"]
    assert holder("front", "m") == place
    for _ in range(20):
        assert client.get("/", params={"model": "m"}).json()["pid"] == place
        assert handle.ask.remote("m").result() == place


def test_a_model_that_was_unloaded_is_told_of(deploy):
    client, _ = deploy(Zoo.options(num_replicas=1).bind(), name="small")
    for model in ("a", "b", "c"):
        client.get("/", headers={"serve_multiplexed_model_id": model}).raise_for_status()
    until(lambda: [sorted(models) for models in holders("small", "Zoo").values()] == [["b", "c"]])


def test_models_are_counted_as_they_come_and_go(deploy, server):
    client, _ = deploy(Zoo.options(name="Counted", num_replicas=1).bind(), name="counted")
    for model in ("a", "b", "b", "c"):
        client.get("/", headers={"serve_multiplexed_model_id": model}).raise_for_status()
    lines = [line for line in httpx.get(f"{server[1]}/metrics").text.splitlines() if 'deployment="Counted"' in line]

    def value(name: str) -> float:
        (line,) = [line for line in lines if line.startswith(f"ray_serve_{name}{{")]
        return float(line.split()[-1])

    assert value("multiplexed_get_model_requests_counter_total") == 4
    assert value("multiplexed_models_load_counter_total") == value("multiplexed_model_load_latency_ms_count") == 3
    assert value("multiplexed_models_unload_counter_total") == value("multiplexed_model_unload_latency_ms_count") == 1
    assert value("num_multiplexed_models") == 2
    registered = [line for line in lines if line.startswith("ray_serve_registered_multiplexed_model_id{")]
    assert sorted(line.split('model_id="')[1][0] for line in registered) == ["b", "c"]


def test_a_full_holder_is_passed_by(deploy, tmp_path):
    _, handle = deploy(Zoo.options(max_ongoing_requests=1).bind(), name="full")
    go = tmp_path / "go"
    of_model = handle.options(multiplexed_model_id="m")
    busy = [of_model.pid.remote(str(go)) for _ in range(3)]
    until(lambda: sum("m" in models for models in holders("full", "Zoo").values()) == 3)
    go.touch()
    assert len({one.result() for one in busy}) == 3


def test_when_the_holder_is_killed_another_loads_the_model(deploy):
    client, _ = deploy(Zoo.bind(), name="mortal")
    ask = lambda: client.get("/", headers={"serve_multiplexed_model_id": "m"})  # noqa: E731
    place = ask().json()["pid"]
    assert holder("mortal", "m") == place
    os.kill(place, signal.SIGKILL)
    answer = until(lambda: (answer := ask()).status_code == 200 and answer).json()
    assert answer["pid"] != place
    assert holder("mortal", "m") == answer["pid"]
    assert {ask().json()["pid"] for _ in range(20)} == {answer["pid"]}
