"""What the process of request routers answers, and what it tells of those that fail."""

import asyncio
import http.client
import json
import pickle
import socket
import threading
from pathlib import Path

import pytest

from tyndall import serve
from tyndall.serve import _controller, _http_server, _routers
from tyndall.serve._routers import Routers, metadata, scope
from tyndall.serve._sidecar import Sidecar, Unusable
from tyndall.serve.context import DeploymentID, ReplicaID
from tyndall.serve.request_router import MultiplexMixin, RequestRouter

APP = "app"
BACKOFF = {"initial_backoff_s": 0.025, "backoff_multiplier": 2.0, "max_backoff_s": 0.5}


class Told(Sidecar):
    """What the controller would hear."""

    reports = []

    def tell(self, what):
        self.reports.append(what)


class First(RequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        return [candidate_replicas[:1], candidate_replicas[1:]]


def process(router, kwargs=None):
    """The routers of an application whose deployment has this one; inside of a loop."""
    Told.reports = []

    @serve.deployment(name="D", request_router_config={"request_router_class": router})
    def answer():
        return 1

    config = {
        "request_router_class": f"{router.__module__}:{router.__qualname__}",
        "request_router_kwargs": kwargs or {},
        **BACKOFF,
    }
    told = {"application": APP, "args": {}, "deployments": {"D": config}}
    routers = Routers(lambda _: answer.bind(), Told(Path("/run"), "router-1", told))
    routers.hear(table("r1", "r2"))
    return routers


def table(*ids, is_complete=True, **replicas):
    listed = [{"id": id, "socket": "/s", **replicas.get(id, {})} for id in ids]
    route = {"deployment": "app#D", "max_ongoing_requests": 5, "replicas": listed}
    other = {"deployment": "app#E", "max_ongoing_requests": 5, "replicas": [{"id": "e"}]}
    return {"version": 1, "is_complete": is_complete, "deployments": [route, other]}


def question(uri="/p?q=1", headers=(), number=1, **given):
    named = {"deployment": "D", "caller": "proxy", "number": number, "method": "GET", "uri": uri}
    return {**named, "headers": [list(one) for one in headers], **given}


async def ask(routers, path="/-/choose", arguments=b"", **given):
    status, body = await routers.handle(path, json.dumps(question(**given)).encode() + b"\n" + arguments)
    return status, json.loads(body) if status == 200 else body.decode()


async def reported(routers):
    """All reports, once what is to be told is told."""
    while routers._telling is not None:
        await asyncio.sleep(0.01)
    return Told.reports


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(_routers, "_REPORT_PAUSE_S", 0)
    monkeypatch.setattr(_routers, "_HOLD_S", 0)


def test_replicas_are_ranked_by_the_router_of_the_code():
    async def run():
        routers = process(First)
        assert await reported(routers) == [{"report": "ready", "phases": [], "card": None}]
        assert await ask(routers) == (200, {"ranks": [["r1"], ["r2"]], "hears": False, "waits": False})
        # A replica that failed the request is none for it, unless there is no other.
        assert (await ask(routers, avoid=["r1"]))[1]["ranks"] == [["r2"], []]
        assert (await ask(routers, avoid=["r1", "r2"]))[1]["ranks"] == [["r1"], ["r2"]]
        assert await ask(routers, deployment="E") == (422, "there is no request router of E")
        assert await routers.handle("/-/else", b"{}") == (404, b"")
        routers.hear({"version": 2, "is_complete": False, "deployments": [], "removed": ["app#E"]})
        assert (await ask(routers))[0] == 200
        # Without a replica nobody is asked, until there is one.
        routers.hear({"version": 3, "is_complete": False, "deployments": [], "removed": ["app#D"]})
        asked = asyncio.ensure_future(ask(routers))
        await asyncio.sleep(0)
        routers.hear(table("r3"))
        assert (await asked)[1]["ranks"] == [["r3"], []]

    asyncio.run(run())


def test_a_router_sees_its_replicas_its_arguments_and_its_request():
    seen = []

    class Seeing(MultiplexMixin, RequestRouter):
        def initialize_state(self, limit):
            self.limit = limit

        async def choose_replicas(self, candidate_replicas, pending_request=None):
            seen.append((self.limit, candidate_replicas, pending_request))
            free = self.select_available_replicas(candidate_replicas)
            return self.rank_replicas_via_multiplex(free, pending_request.metadata.multiplexed_model_id)

    async def run():
        routers = process(Seeing, {"limit": 7})
        of = {"r2": {"models": ["m"], "routing_stats": {"x": 3}, "metadata": {"zone": "z"}}}
        routers.hear(table("r1", "r2", "r3", **of))
        headers = [("serve_multiplexed_model_id", "m"), ("x-request-id", "id")]
        call = {"uri": "/-/call/a%20b", "headers": headers, "ongoing": {"r1": 5, "gone": 1}}
        answer = await ask(routers, arguments=pickle.dumps(((1, 2), {"c": 3})), **call)
        assert answer[1]["ranks"] == [["r2"], ["r3"], []]
        limit, candidates, request = seen[0]
        assert limit == 7
        two = candidates[1]
        assert (two.replica_id, two.routing_stats) == (ReplicaID("r2", DeploymentID("D", APP)), {"x": 3})
        assert two.replica_metadata == {"zone": "z"}
        assert (request.metadata.call_method, request.metadata.request_id) == ("a b", "id")
        # The same object each time that it is asked about, with what was tried.
        await ask(routers, arguments=pickle.dumps(((9,), {})), **call)
        assert seen[1][2] is request
        await ask(routers, **{**call, "number": 2})
        assert seen[2][2] is not request
        # One object of a replica for its whole life.
        routers.hear(table("r2", r2={"models": ["n"]}))
        assert (two.multiplexed_model_ids, two.routing_stats) == ({"n"}, {})

    asyncio.run(run())


def test_arguments_are_those_of_the_call():
    seen = []

    class Reading(First):
        async def choose_replicas(self, candidate_replicas, pending_request=None):
            seen.append((pending_request.args, pending_request.kwargs))
            return [candidate_replicas]

    async def run():
        routers = process(Reading)
        await ask(routers, uri="/-/call/f", arguments=pickle.dumps(((1, "x"), {"y": None})))
        await ask(routers, headers=[("x-user", "\xe9"), ("x-tyndall-root-path", "/p")])
        status, why = await ask(routers, uri="/-/call/f", arguments=b"rubbish")
        assert (status, "UnpicklingError" in why) == (422, True)

    asyncio.run(run())
    assert seen[0] == ([1, "x"], {"y": None})
    ((head,), kwargs) = seen[1]
    assert kwargs == {}
    assert (head.asgi_scope["path"], head.asgi_scope["query_string"]) == ("/p", b"q=1")
    assert head.asgi_scope["headers"] == [(b"x-user", b"\xe9")]


def test_a_head_is_that_of_asgi():
    told = question("/a%2Fb/%C3%A9?x=1", [("host", "h"), ("x-tyndall-root-path", "/p"), ("x-session-id", "s")])
    one = scope(told)
    assert (one["type"], one["method"], one["path"], one["raw_path"]) == ("http", "GET", "/a/b/é", b"/a%2Fb/%C3%A9")
    assert (one["root_path"], one["headers"]) == ("/p", [(b"host", b"h"), (b"x-session-id", b"s")])
    of_http = metadata(told, APP, "internal")
    assert (of_http.route, of_http.session_id, of_http.is_http_request) == ("/p", "s", True)
    assert (of_http.internal_request_id, of_http.app_name, of_http.call_method) == ("internal", APP, "__call__")
    of_call = metadata(question("/-/call/f", [("accept", "application/x-tyndall-frames")]), APP, "i")
    assert (of_call.is_streaming, of_call.is_http_request, of_call.route) == (True, False, "")


def raising(_):
    raise RuntimeError("no such queue\nmend it")


class Raising(First):
    answers = []

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        answer = self.answers.pop(0)
        return answer(candidate_replicas) if callable(answer) else answer


def test_why_a_router_fails_is_told_once_and_taken_back():
    async def run():
        Raising.answers = [raising, raising, raising, lambda replicas: [replicas]]
        routers = process(Raising)
        await reported(routers)
        status, why = await ask(routers)
        assert status == 422
        assert why.startswith(f"RuntimeError: no such queue; mend it ({__file__}, line ")
        (_, told) = await reported(routers)
        assert told == {"report": "router_troubles", "troubles": {"D": why}}
        for _ in range(2):
            assert (await ask(routers))[0] == 422
        assert len(await reported(routers)) == 2, "the same again is no news"
        assert (await ask(routers))[0] == 200
        assert (await reported(routers))[2:] == [{"report": "router_troubles", "troubles": {}}]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "it returned None (NoneType); return a list of ranks"),
        ("r1", "it returned 'r1' (str)"),
        ([3], "it returned 3 (int) for a rank"),
        ([["r1"]], "it returned 'r1' (str) for a replica"),
        ([[None]], "it returned None (NoneType) for a replica"),
    ],
)
def test_what_are_no_ranks_is_told(answer, message):
    async def run():
        Raising.answers = [answer]
        status, why = await ask(process(Raising))
        assert (status, message in why) == (422, True), why

    asyncio.run(run())


def test_ranks_may_be_any_sequences():
    one, two = _routers.RunningReplica(ReplicaID("a", None)), _routers.RunningReplica(ReplicaID("b", None))
    assert _routers.ranks(({one}, (two, one), [])) == [["a"], ["b", "a"], []]
    with pytest.raises(Unusable):
        _routers.ranks({"a": one})


def test_a_router_that_waits_for_too_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(_routers, "DEADLINE_S", 0.01)
    cancelled = []

    class Waiting(First):
        async def choose_replicas(self, candidate_replicas, pending_request=None):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)

    async def run():
        routers = process(Waiting)
        assert await ask(routers) == (422, "it did not answer within 0.01 s")
        assert (cancelled, routers.under_way) == ([True], 0)

    asyncio.run(run())


def test_one_that_cannot_be_made_is_told_and_others_are_there():
    class Picky(First):
        def initialize_state(self, limit):
            pass

    async def run():
        routers = process(Picky, {"unknown": 1})
        (_, told) = await reported(routers)
        assert "it cannot be made: TypeError: " in told["troubles"]["D"]
        status, why = await ask(routers)
        assert (status, why) == (422, told["troubles"]["D"])

    asyncio.run(run())


def test_a_router_hears_what_becomes_of_its_requests():
    heard = []

    class Hearing(First):
        def on_request_routed(self, pending_request, replica_id, result):
            heard.append(("routed", pending_request.args, replica_id.unique_id))
            result.add_done_callback(lambda done: heard.append(done is result))

        def on_request_completed(self, replica_id, internal_request_id):
            heard.append(("completed", replica_id.unique_id, internal_request_id))

        def on_replica_actor_died(self, replica_id):
            super().on_replica_actor_died(replica_id)
            heard.append(("died", replica_id.unique_id))

    async def run():
        routers = process(Hearing)
        _, answer = await ask(routers, uri="/-/call/f", arguments=pickle.dumps(((5,), {})))
        assert answer["hears"]
        for path in ("/-/routed", "/-/completed", "/-/completed"):
            assert await ask(routers, path, replica="r1") == (204, "")
        routers.hear(table("r2"))
        # Of a request that nobody knows any more nothing is heard but its end.
        assert (await ask(routers, "/-/routed", replica="r1", number=77))[0] == 204
        assert not routers._known and not routers._running

    asyncio.run(run())
    completed = ("completed", "r1", "proxy-1")
    assert heard == [("routed", [5], "r1"), True, completed, completed, ("died", "r1")]


def test_only_so_many_requests_are_remembered(monkeypatch):
    class Hearing(First):
        def on_request_completed(self, replica_id, internal_request_id):
            pass

    async def run():
        routers = process(Hearing)
        monkeypatch.setattr(_routers, "_MAX_KNOWN", 3)
        for number in range(9):
            await ask(routers, number=number)
        assert [number for _, number in routers._known] == [6, 7, 8]
        monkeypatch.setattr(_routers, "_MAX_KNOWN_BYTES", 100)
        await ask(routers, number=9, uri="/-/call/f", arguments=pickle.dumps((("x" * 99,), {})))
        assert [number for _, number in routers._known] == [9]

    asyncio.run(run())


# --- The socket -------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    """Where a function is asked that answers with what it gets."""
    path, loop, started = tmp_path / "s", asyncio.new_event_loop(), threading.Event()

    async def handle(path, body):
        if path == "/raise":
            raise RuntimeError("on purpose")
        return (204, b"") if path == "/nothing" else (200, path.encode() + body)

    def run():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_http_server.start(path, handle))
        started.set()
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    yield path
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_one_connection_asks_again_and_again(served):
    connection = _controller.UnixConnection(served, timeout_s=10)
    for path, body, expected in [
        ("/a", b"", (200, b"/a")),
        ("/b", b"x" * 200_000, (200, b"/b" + b"x" * 200_000)),
        ("/nothing", b"y", (204, b"")),
        ("/raise", b"", (500, b"RuntimeError")),
        ("/c", b"z", (200, b"/cz")),
    ]:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        assert isinstance(answer, http.client.HTTPResponse)
        assert (answer.status, answer.read()) == expected
    connection.close()


@pytest.mark.parametrize(
    "rubbish", [b"\r\n\r\n", b"POST /\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"x" * 70_000]
)
def test_what_is_no_request_ends_the_connection(served, rubbish):
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(10)
        one.connect(str(served))
        one.sendall(rubbish)
        assert one.recv(1) == b""
