"""Replicas that start and end in gangs, with processes."""

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import textwrap
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import controller, details, until

from tyndall import serve
from tyndall.serve import _admin, _server
from tyndall.serve.config import GangPlacementStrategy, GangSchedulingConfig
from tyndall.serve.gang import GangContext

PAIRS = GangSchedulingConfig(gang_size=2, gang_placement_strategy=GangPlacementStrategy.SPREAD)
BY_LOAD = {
    "min_replicas": 0,
    "max_replicas": 4,
    "target_ongoing_requests": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0.1,
    "look_back_period_s": 0.1,
    "metrics_interval_s": 0.05,
}


class Member:
    """Says which of which gang it is, as it was told before its constructor ran."""

    def __init__(self, word="", fails_at=None):
        from ray.serve.gang import GangContext as OfRay

        context = serve.get_replica_context()
        self.id, self.word, gang = context.replica_id.unique_id, word, context.gang_context
        assert gang is None or type(gang) is OfRay
        if gang is not None and gang.rank == fails_at:
            raise RuntimeError("no place among its peers")
        self.gang = None if gang is None else dataclasses.asdict(gang)

    def who(self):
        return {"id": self.id, "pid": os.getpid(), "word": self.word, "gang": self.gang}

    async def __call__(self, request):
        gate = request.query_params.get("gate")
        while gate and not Path(gate).exists():
            await asyncio.sleep(0.01)
        return self.word


Paired = serve.deployment(Member, name="Paired", num_replicas=4, gang_scheduling_config=PAIRS)


def members(handle):
    """What the members of each gang say, in the order of their ranks, by the ids of gangs."""
    gangs = defaultdict(list)
    for one in handle.broadcast("who").results():
        gangs[one["gang"]["gang_id"]].append(one)
    return {gang: sorted(of, key=lambda one: one["gang"]["rank"]) for gang, of in gangs.items()}


def whole(handle, gangs, size=2):
    """The members of all gangs, once there are so many and all of them are whole."""

    def are_whole():
        found = members(handle)
        return len(found) == gangs and all(len(of) == size for of in found.values()) and found

    return until(are_whole)


def replicas(name):
    return details(name)["deployments"]["Paired"]["replicas"]


def is_steady(name, number):
    deployment = details(name)["deployments"]["Paired"]
    states = [one["state"] for one in deployment["replicas"]]
    return deployment["status"] == "HEALTHY" and states == ["RUNNING"] * number


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_each_member_knows_its_gang(deploy):
    _, handle = deploy(Paired.bind(), name="knows")
    gangs = whole(handle, 2)
    for name, of in gangs.items():
        ids = [one["id"] for one in of]
        for rank, one in enumerate(of):
            pg_name = one["gang"].pop("pg_name")
            assert pg_name.startswith("SERVE_GANG::knows_Paired_") and pg_name.endswith(f"_{name}")
            expected = GangContext(gang_id=name, rank=rank, world_size=2, member_replica_ids=ids)
            assert one["gang"] == {k: v for k, v in dataclasses.asdict(expected).items() if k != "pg_name"}
    told = defaultdict(set)
    for replica in replicas("knows"):
        told[replica["gang_id"]].add(replica["replica_id"])
    assert told == {name: {one["id"] for one in of} for name, of in gangs.items()}
    ray = json.loads(_admin.request("GET", "/api/serve/applications/"))["applications"]["knows"]
    assert ray["deployments"]["Paired"]["deployment_config"]["gang_scheduling_config"] == {
        "gang_size": 2,
        "gang_placement_strategy": "SPREAD",
        "runtime_failure_policy": "RESTART_GANG",
    }


def test_without_gangs_nobody_is_told_of_one(deploy):
    _, handle = deploy(serve.deployment(Member, name="Paired").bind())
    assert handle.who.remote().result()["gang"] is None


def test_a_killed_member_brings_a_whole_new_gang(deploy):
    _, handle = deploy(Paired.bind(), name="killed")
    before = whole(handle, 2)
    (lost, (first, mate)), (kept, others) = before.items()
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: is_gone(mate["pid"]), "its mate ends too")
    until(lambda: is_steady("killed", 4))
    after = whole(handle, 2)
    assert lost not in after and after[kept] == others
    dead = details("killed")["deployments"]["Paired"]["dead_replicas"]
    reasons = {one["replica_id"]: one["reason"] for one in dead}
    assert "was killed by signal 9" in reasons[first["id"]]
    assert f"its gang ends as a whole, because {first['id']} was lost" in reasons[mate["id"]]


def test_a_gang_whose_member_cannot_start_does_not_serve(deploy):
    app = Paired.options(num_replicas=2, max_constructor_retry_count=1).bind(fails_at=1)
    told = "(?s)a replica of a gang of 2 failed to start, 1 in a row: .*no place among its peers"
    with pytest.raises(RuntimeError, match=told):
        deploy(app, name="broken")
    until(lambda: replicas("broken") == [], "the one that could start is ended")


def test_load_brings_and_takes_whole_gangs(deploy, tmp_path):
    client, handle = deploy(Paired.options(num_replicas=None, autoscaling_config=BY_LOAD).bind("here"), name="load")
    assert replicas("load") == []
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.get, "/", params={"gate": str(gate)})]
        until(lambda: is_steady("load", 2), "one request wakes a whole gang")
        (first,) = whole(handle, 1)
        asked += [pool.submit(client.get, "/", params={"gate": str(gate)}) for _ in range(2)]
        until(lambda: is_steady("load", 4), "three requests need three replicas, which are two gangs")
        assert first in whole(handle, 2)
        gate.touch()
        assert [one.result().text for one in asked] == ["here"] * 3
    until(lambda: is_steady("load", 0), "idle, all of them go")
    assert details("load")["deployments"]["Paired"]["target_num_replicas"] == 0


class Watch:
    """Sends requests until it is told to stop, and looks at the gangs meanwhile."""

    def __init__(self, client, name):
        self.client, self.name = client, name
        self.words, self.parts, self.is_over = set(), [], threading.Event()
        self.pool = ThreadPoolExecutor(2)
        self.running = [self.pool.submit(self.ask), self.pool.submit(self.look)]

    def ask(self):
        while not self.is_over.is_set():
            answer = self.client.get("/")
            assert answer.status_code == 200, answer.text
            self.words.add(answer.text)

    def look(self):
        while not self.is_over.is_set():
            gangs = defaultdict(int)
            for one in replicas(self.name):
                gangs[one["gang_id"]] += one["state"] in ("STARTING", "RUNNING")
            self.parts += [number for number in gangs.values() if number not in (0, 2)]

    def end(self):
        self.is_over.set()
        for one in self.running:
            one.result()


def test_an_update_replaces_whole_gangs_and_loses_nothing(deploy):
    client, handle = deploy(Paired.bind("old"), name="update")
    old = whole(handle, 2)
    watch = Watch(client, "update")
    try:
        _, handle = deploy(Paired.bind("new"), name="update")
        until(lambda: is_steady("update", 4))
        until(lambda: "new" in watch.words)
    finally:
        watch.end()
    assert watch.words == {"old", "new"} and watch.parts == []
    new = whole(handle, 2)
    assert not set(old) & set(new)
    assert {one["word"] for of in new.values() for one in of} == {"new"}


def test_a_new_controller_finds_gangs_as_gangs(deploy):
    _, handle = deploy(Paired.bind(), name="adopted")
    before = whole(handle, 2)
    os.kill(controller(), signal.SIGKILL)
    until(lambda: is_steady_again("adopted", 4), "the next one takes them over")
    assert whole(handle, 2) == before
    (_, (first, mate)), (kept, others) = before.items()
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: is_gone(mate["pid"]), "it is a gang for that one too")
    until(lambda: is_steady("adopted", 4))
    assert whole(handle, 2)[kept] == others


def is_steady_again(name, number):
    """As `is_steady`, where the controller may be away."""
    try:
        return is_steady(name, number)
    except (OSError, KeyError, RuntimeError):
        return False


APPLICATION = """
from tyndall import serve

@serve.deployment(num_replicas=2, gang_scheduling_config={"gang_size": 2})
class Paired:
    def __call__(self):
        gang = serve.get_replica_context().gang_context
        return [gang.rank, gang.world_size]

app = Paired.bind()
"""


def test_a_config_file_changes_gangs_and_numbers_that_do_not_fit_are_refused(server, tmp_path):
    (tmp_path / "paired.py").write_text(APPLICATION)

    def deploy_file(options):
        file = tmp_path / "serve.yaml"
        file.write_text(
            textwrap.dedent(f"""
                applications:
                - name: filed
                  route_prefix: /filed
                  import_path: paired:app
                  runtime_env: {{working_dir: {tmp_path}}}
                  deployments: [{{name: Paired, {options}}}]
            """)
        )
        command = [_server.binary(), "deploy", str(file), "--address", server[0], "--wait"]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    try:
        done = deploy_file("max_ongoing_requests: 3")
        assert done.returncode == 0, done.stderr
        assert len({one["gang_id"] for one in replicas("filed")}) == 1
        done = deploy_file("num_replicas: 4, gang_scheduling_config: {gang_size: 4}")
        assert done.returncode == 0, done.stderr
        until(lambda: is_steady("filed", 4))
        assert len({one["gang_id"] for one in replicas("filed")}) == 1
        done = deploy_file("num_replicas: 3")
        assert done.returncode != 0
        assert "num_replicas (3) must be a multiple of gang_size (2)" in done.stderr + done.stdout
        assert is_steady("filed", 4), "what runs stays"
    finally:
        serve.delete("filed")
