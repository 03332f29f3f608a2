"""Request routers in Python: where requests go, and what happens when a router does not say it."""

import asyncio
import json
import os
import signal
import subprocess
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from servers import details, processes, until

from tyndall import serve
from tyndall.serve import _admin, _server
from tyndall.serve.config import RequestRouterConfig
from tyndall.serve.request_router import (
    FIFOMixin,
    LocalityMixin,
    MultiplexMixin,
    PowerOfTwoChoicesRequestRouter,
    RequestRouter,
)


def message(name, deployment="Who"):
    return details(name)["deployments"][deployment]["message"]


class Who:
    """Says which replica it is."""

    def __init__(self):
        self.id = serve.get_replica_context().replica_id.unique_id

    async def __call__(self):
        return self.id

    async def who(self, *_, **__):
        return self.id


def routed(router, replicas=3, cls=Who, **config):
    """Replicas that say who they are, chosen by this router."""
    options = RequestRouterConfig(request_router_class=router, **config)
    return serve.deployment(name="Who", num_replicas=replicas, request_router_config=options)(cls).bind()


def sorted_by_id(replicas):
    return sorted(replicas, key=lambda replica: replica.replica_id.unique_id)


class Lowest(RequestRouter):
    """All requests go to one replica, which is another for each `initialize_state(nth=…)`."""

    def initialize_state(self, nth=0):
        self.nth = nth

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        return [[sorted_by_id(candidate_replicas)[self.nth]]]


def running(name, deployment="Who"):
    replicas = details(name)["deployments"][deployment]["replicas"]
    return sorted(replica["replica_id"] for replica in replicas if replica["state"] == "RUNNING")


def test_a_router_chooses_for_the_proxy_and_for_handles(deploy):
    client, handle = deploy(routed(Lowest), name="lowest")
    first = running("lowest")[0]
    assert {client.get("/").text for _ in range(20)} == {first}
    assert {handle.who.remote(n).result() for n in range(20)} == {first}
    assert details("lowest")["status"] == "RUNNING"
    shown = httpx.get(f"{_admin.address()}/api/serve/applications/").json()["applications"]["lowest"]
    shown = shown["deployments"]["Who"]["deployment_config"]["request_router_config"]
    assert (shown["request_router_class"], shown["initial_backoff_s"]) == (f"{__name__}:Lowest", 0.025)


def test_a_router_has_its_arguments(deploy):
    client, handle = deploy(routed(Lowest, request_router_kwargs={"nth": 2}), name="third")
    assert {client.get("/").text for _ in range(20)} == {running("third")[2]}


class ByArgument(RequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        nth = pending_request.kwargs.get("nth", pending_request.args[0])
        assert pending_request.metadata.call_method == "who"
        return [[sorted_by_id(candidate_replicas)[nth]]]


@serve.deployment
class Front:
    def __init__(self, who):
        self.who = who

    async def __call__(self, request):
        number = int(request.query_params["nth"])
        return [await self.who.who.remote(number), await self.who.who.remote(0, nth=number)]


def test_a_router_reads_the_arguments_of_a_call_from_a_replica(deploy):
    client, _ = deploy(Front.bind(routed(ByArgument)), name="by_argument")
    ids = running("by_argument")
    for nth in (0, 1, 2, 1, 0):
        assert client.get(f"/?nth={nth}").json() == [ids[nth]] * 2


def test_a_replica_that_is_chosen_ahead_is_the_one_of_the_router(deploy):
    _, handle = deploy(routed(ByArgument), name="ahead")
    ids = running("ahead")

    async def choose():
        for nth in (2, 0):
            async with handle.who.choose_replica(nth) as chosen:
                assert chosen.replica_id == ids[nth]
                assert await handle.dispatch(chosen, nth) == ids[nth]

    asyncio.run(choose())


class ByHeader(PowerOfTwoChoicesRequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        headers = dict(pending_request.args[0].asgi_scope["headers"])
        if b"x-shard" not in headers:
            return await super().choose_replicas(candidate_replicas, pending_request)
        return [[sorted_by_id(candidate_replicas)[int(headers[b"x-shard"])]]]


def test_a_router_reads_the_head_of_an_http_request(deploy):
    client, _ = deploy(routed(ByHeader), name="by_header")
    ids = running("by_header")
    for nth in (2, 0, 1):
        answers = {client.post("/", headers={"x-shard": str(nth)}, content=b"body").text for _ in range(5)}
        assert answers == {ids[nth]}
    assert {client.get("/").text for _ in range(60)} == set(ids)
    assert message("by_header") == ""


class Ranking(RequestRouter):
    """The lowest first, then the others one by one."""

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        return [[replica] for replica in sorted_by_id(candidate_replicas)]


class Held(Who):
    """Holds requests until a file is there."""

    async def who(self, path):
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
        return self.id


def test_who_finds_the_best_rank_full_takes_the_next(deploy, tmp_path):
    app = serve.deployment(
        name="Who",
        num_replicas=2,
        max_ongoing_requests=2,
        request_router_config={"request_router_class": Ranking},
    )(Held).bind()
    _, handle = deploy(app, name="ranked")
    lowest, other = running("ranked")
    go = tmp_path / "go"
    calls = []
    for _ in range(4):
        calls.append(handle.who.remote(str(go)))
        until(lambda: total("ranked", "ongoing_requests") == len(calls), "it is at work")
    calls.append(handle.who.remote(str(go)))
    until(lambda: total("ranked", "queued_requests") == 1, "all are full")
    go.touch()
    assert [call.result() for call in calls[:4]] == [lowest, lowest, other, other]
    assert calls[4].result() in (lowest, other)


def total(name, what):
    return details(name)["deployments"]["Who"][what]


class Least(FIFOMixin, LocalityMixin, MultiplexMixin, RequestRouter):
    """By what replicas say of themselves."""

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        near = self.rank_replicas_via_locality(candidate_replicas)[0]
        return [[min(near, key=lambda replica: replica.routing_stats.get("load", 99))]]


class Loaded(Who):
    async def who(self, folder):
        self.folder = Path(folder)
        return self.id

    def record_routing_stats(self):
        own = getattr(self, "folder", Path("/nowhere")) / self.id
        return {"load": int(own.read_text()) if own.exists() else 50}


class AnyOf(Least):
    """Some calls are for one replica, by its id."""

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        wanted = pending_request.kwargs.get("id") if not pending_request.metadata.is_http_request else None
        of_id = [replica for replica in candidate_replicas if replica.replica_id.unique_id == wanted]
        return [of_id] if of_id else await super().choose_replicas(candidate_replicas, pending_request)


class LoadedById(Loaded):
    async def who(self, folder, id=None):
        return await super().who(folder)


def test_a_router_goes_by_what_replicas_say_of_themselves(deploy, tmp_path):
    app = routed(AnyOf, cls=LoadedById, request_routing_stats_period_s=0.1, request_routing_stats_timeout_s=5)
    client, handle = deploy(app, name="stats")
    ids = running("stats")
    for id in ids:
        assert handle.who.remote(str(tmp_path), id=id).result() == id
    for least in (ids[1], ids[2], ids[0]):
        for id in ids:
            (tmp_path / id).write_text("1" if id == least else "7")
        until(lambda: {client.get("/").text for _ in range(5)} == {least}, f"{least} has the least")


class Models(MultiplexMixin, RequestRouter):
    """Some requests only go where their model is, and wait until that is known."""

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        model_id = pending_request.metadata.multiplexed_model_id
        holders, fewest, others = self.rank_replicas_via_multiplex(candidate_replicas, model_id)
        is_patient = dict(pending_request.args[0].asgi_scope["headers"]).get(b"x-patient")
        return [holders] if is_patient else [holders, fewest, others]


class Holding(Who):
    @serve.multiplexed(max_num_models_per_replica=3)
    async def get(self, model_id):
        return model_id

    async def __call__(self):
        await self.get(serve.get_multiplexed_model_id())
        return self.id


def test_a_router_goes_by_the_models_that_replicas_have(deploy):
    client, _ = deploy(routed(Models, cls=Holding), name="models")

    def ask(model, **headers):
        return client.get("/", headers={"serve_multiplexed_model_id": model, **headers}).text

    owners = {model: ask(model) for model in ("a", "b", "c")}
    for _ in range(10):
        assert {model: ask(model, **{"x-patient": "yes"}) for model in owners} == owners


def test_sessions_stay_together_and_replicas_have_turns(deploy):
    path = "tyndall.serve.experimental.consistent_hash_router:ConsistentHashRouter"
    client, handle = deploy(routed(path), name="sessions")

    def ask(session):
        return client.get("/", headers={"x-session-id": session}).text

    owners = {session: ask(session) for session in map(str, range(60))}
    assert set(owners.values()) == set(running("sessions"))
    assert {session: ask(session) for session in owners} == owners
    assert {session: handle.options(session_id=session).who.remote().result() for session in owners} == owners
    client, _ = deploy(routed("ray.serve.experimental.round_robin_router.RoundRobinRouter"), name="turns")
    answers = [client.get("/").text for _ in range(12)]
    assert sorted(answers) == sorted(running("turns") * 4)


# --- Routers that do not choose ---------------------------------------------------------------------------------------


class Failing(Lowest):
    """As its file says."""

    def initialize_state(self, path):
        self.path = Path(path)
        self.nth = 0

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        does = self.path.read_text()
        if does == "raises":
            raise RuntimeError("on purpose")
        if does == "waits":
            await asyncio.Event().wait()
        if does == "blocks":
            while self.path.read_text() == "blocks":
                time.sleep(0.01)
        if does == "rubbish":
            return "rubbish"
        if does == "nobody":
            return []
        return await super().choose_replicas(candidate_replicas, pending_request)


@pytest.fixture
def failing(deploy, tmp_path):
    """An application whose router does what a file says, and that file."""
    does = tmp_path / "does"
    does.write_text("chooses")
    client, handle = deploy(routed(Failing, request_router_kwargs={"path": str(does)}), name="failing")
    assert client.get("/").text == running("failing")[0]
    yield does, client, handle
    does.write_text("chooses")


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("raises", "RuntimeError: on purpose ("),
        ("waits", "it did not answer within 0.3 s"),
        ("rubbish", "it returned 'rubbish' (str); return a list of ranks"),
    ],
)
def test_the_built_in_rule_chooses_where_a_router_fails(failing, log, does, why):
    how, client, handle = failing
    how.write_text(does)
    answers = {client.get("/").text for _ in range(10)} | {handle.who.remote().result() for _ in range(5)}
    assert answers <= set(running("failing"))
    shown = until(lambda: "router" in message("failing") and message("failing"), "the reason is shown")
    assert f"its request router failed, and the built-in rule chooses replicas: {why}" in shown
    assert details("failing")["status"] == "RUNNING"
    assert len(log.lines("the request router of Who failed: ")) == 1
    how.write_text("chooses")
    lowest = running("failing")[0]

    def heals():
        assert client.get("/").text == lowest
        return not message("failing")

    until(heals, "it chooses again")


def test_a_router_that_blocks_its_process_holds_nobody_up(failing):
    how, client, _ = failing
    (process,) = processes("router", "failing")
    how.write_text("blocks")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get("/").status_code, range(40)))
    assert answers == [200] * 40
    shown = until(lambda: "router" in message("failing") and message("failing"), "the reason is shown")
    assert f"it blocks its process for more than 0.3 s ({__file__}, line " in shown
    # In the end its process goes, and the next one is asked as before.
    shown = until(lambda: processes("router", "failing") not in ([process], []), "another takes its place")
    how.write_text("chooses")
    lowest = running("failing")[0]
    until(lambda: {client.get("/").text for _ in range(5)} == {lowest}, "it chooses again")
    until(lambda: not message("failing"), "nothing is wrong any more")


def test_a_router_may_want_nobody_for_a_while(failing):
    how, client, _ = failing
    how.write_text("nobody")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(client.get, "/")
        until(lambda: total("failing", "queued_requests") == 1, "it waits")
        how.write_text("chooses")
        assert waits.result().text == running("failing")[0]


def test_no_request_is_lost_when_the_process_is_killed(failing):
    _, client, handle = failing
    lowest, over = running("failing")[0], threading.Event()

    def proxied(n):
        answers = []
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            while not over.is_set():
                answers.append(own.get("/").status_code if n % 2 else own.post("/").status_code)
        return answers

    def called(_):
        answers = []
        while not over.is_set():
            answers.append(200 if handle.who.remote().result(timeout_s=60) else 500)
        return answers

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(proxied, n) for n in range(4)] + [pool.submit(called, n) for n in range(4)]
        try:
            for _ in range(3):
                (process,) = until(lambda: processes("router", "failing"), "it is there")
                os.kill(process, signal.SIGKILL)
                others = ([process], [])
                until(lambda others=others: processes("router", "failing") not in others, "another takes its place")
                until(lambda: not message("failing"), "it chooses again")
        finally:
            over.set()
    answers = [status for one in asking for status in one.result()]
    assert set(answers) == {200} and len(answers) > 50
    until(lambda: {client.get("/").text for _ in range(5)} == {lowest}, "it chooses again")
    until(lambda: total("failing", "ongoing_requests") == total("failing", "queued_requests") == 0, "nothing is left")


def test_the_process_goes_with_its_application(deploy):
    deploy(routed(Lowest), name="gone")
    (first,) = processes("router", "gone")
    # A new version has a new one.
    serve.run(routed(Lowest, request_router_kwargs={"nth": 1}), name="gone", route_prefix="/gone")
    until(lambda: len(processes("router", "gone")) == 1 and processes("router", "gone") != [first], "the old one goes")
    serve.run(serve.deployment(name="Who")(Who).bind(), name="gone", route_prefix="/gone")
    until(lambda: not processes("router", "gone"), "nobody needs it")
    serve.run(routed(Lowest), name="gone", route_prefix="/gone")
    assert len(processes("router", "gone")) == 1
    serve.delete("gone")
    until(lambda: not processes("router", "gone"), "the process goes with its application")


class Hearing(Lowest):
    def initialize_state(self, path):
        self.path, self.nth = path, 0

    def write(self, *words):
        with open(self.path, "a") as file:
            print(*words, file=file)

    def on_request_routed(self, pending_request, replica_id, result):
        self.write("routed", pending_request.args, replica_id.unique_id)

    def on_request_completed(self, replica_id, internal_request_id):
        self.write("completed", replica_id.unique_id)


def test_a_router_hears_what_becomes_of_requests(deploy, tmp_path):
    heard = tmp_path / "heard"
    _, handle = deploy(routed(Hearing, request_router_kwargs={"path": str(heard)}), name="hears")
    lowest = running("hears")[0]
    assert handle.who.remote(7).result() == lowest
    lines = until(lambda: heard.exists() and len(heard.read_text().splitlines()) == 2 and heard.read_text(), "it hears")
    assert lines.splitlines() == [f"routed [7] {lowest}", f"completed {lowest}"]


# --- From files -------------------------------------------------------------------------------------------------------

CODE = """
    from ray import serve


    @serve.deployment(num_replicas=3)
    class Who:
        async def __call__(self):
            return serve.get_replica_context().replica_id.unique_id


    app = Who.bind()
"""

ROUTERS = """
    from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


    class Nth(RequestRouter):
        def initialize_state(self, nth):
            self.nth = nth

        async def choose_replicas(self, candidate_replicas, pending_request=None):
            return [[sorted(candidate_replicas, key=lambda replica: replica.replica_id.unique_id)[self.nth]]]
"""


def _tyndall(*words):
    command = [_server.binary(), *map(str, words), "--address", _admin.address()]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _config(path, *applications):
    path.write_text(json.dumps({"applications": applications}))
    return path


def test_a_config_file_names_the_router_of_a_deployment(tmp_path, server):
    end = tmp_path.name.replace("-", "_")
    (tmp_path / f"code_{end}.py").write_text(textwrap.dedent(CODE))
    (tmp_path / f"routers_{end}.py").write_text(textwrap.dedent(ROUTERS))
    router = {"request_router_class": f"routers_{end}:Nth", "request_router_kwargs": {"nth": 1}, "max_backoff_s": 1}
    application = {
        "name": "filed",
        "route_prefix": "/filed",
        "import_path": f"code_{end}:app",
        "runtime_env": {"working_dir": str(tmp_path)},
        "deployments": [{"name": "Who", "request_router_config": router}],
    }
    config = tmp_path / "config.json"

    def ask():
        return httpx.get(f"{server[1]}/filed", timeout=60).text

    deployed = _tyndall("deploy", _config(config, application))
    assert deployed.returncode == 0, deployed.stderr
    until(lambda: details("filed")["status"] == "RUNNING", "it runs")
    assert {ask() for _ in range(10)} == {running("filed")[1]}
    # One that is not there is told, and what runs goes on.
    (process,) = processes("router", "filed")
    router["request_router_class"] = f"routers_{end}:Missing"
    _tyndall("deploy", _config(config, application))
    until(lambda: details("filed")["status"] == "DEPLOY_FAILED", "the build fails")
    assert f"the request router 'routers_{end}:Missing' cannot be imported" in details("filed")["message"]
    assert (processes("router", "filed"), ask()) == ([process], running("filed")[1])
    # Without one the built-in rule holds.
    del application["deployments"]
    _tyndall("deploy", _config(config, application))
    until(lambda: details("filed")["status"] == "RUNNING" and not processes("router", "filed"), "it has none")
    assert len({ask() for _ in range(60)}) == 3
    _tyndall("deploy", _config(tmp_path / "none.json"))
