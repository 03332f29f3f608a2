"""The process of an application's request routers: it answers whoever sends requests to their deployments.

It is started as `role router` (`_sidecar`). The routers live on an asyncio loop, one object for each deployment, and
hear of replicas as everybody does who sends requests: by the controller's route table. `POST /-/choose` asks for ranks,
`POST /-/routed`, `POST /-/completed` and `POST /-/cancelled` tell what became of a request, where a router wants to hear
it. Who sends requests there holds a `POST /-/attend` open: with the last one of a process all of its requests end.

A router that raises, takes too long, or answers with something else is told of by a report, once for each change, and
whoever has asked goes by the built-in rule. One that blocks the loop for long takes the process with it, so that
another begins anew.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import pickle
import sys
import threading
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from . import _http_server
from ._controller import UnixConnection
from ._graph import code_of, router_class
from ._loop import new_loop
from ._sidecar import Sidecar, Unusable, begin, line, placed, shown
from .config import RequestRouterConfig
from .context import DeploymentID, ReplicaID
from .request_router import (
    NODE_ID,
    PendingRequest,
    ReplicaResult,
    RequestMetadata,
    RequestRouter,
    RunningReplica,
    StreamingHTTPRequest,
)

logger = logging.getLogger("tyndall.serve")

DEADLINE_S: Final = 0.3
"""A router that takes longer is not waited for: the request that it is asked about is on its way."""

MAX_BLOCKED_S: Final = 10.0
"""A router that blocks the loop for so long hangs."""

_WAIT_S: Final = 0.2
"""One that waits for a replica itself says after so long that it goes on waiting; who asks expects to hear something."""

_HOLD_S: Final = 2.0
"""After a failure a router counts as failing for so long, though it chooses for other requests."""

_REPORT_PAUSE_S: Final = 1.0
_MAX_KNOWN: Final = 16_384
"""Requests that are remembered from one question to the next."""

_MAX_KNOWN_BYTES: Final = 64 << 20

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.005, 0.5
_CALL_PATH: Final = "/-/call/"
_ROOT_PATH: Final = "x-tyndall-root-path"

Load = Callable[[dict[str, Any]], Any]
Key = tuple[str, int]
"""Names a request: who asks, and its number there."""


def main(load: Load, argv: list[str]) -> int:
    """Answers until it is told to end; `argv` is what follows `role router`."""
    sidecar = begin("router", argv)
    loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        routers = loop.run_until_complete(_made(load, sidecar))
    except BaseException as error:
        sidecar.failed("failed to load its request routers", error)
        return 1
    server = loop.run_until_complete(_http_server.start(sidecar.socket, routers.handle))
    _Watch(routers, loop).start()

    def hear(table: Mapping[str, Any]) -> None:
        loop.call_soon_threadsafe(routers.hear, table)

    threading.Thread(target=_follow, args=(sidecar, hear), name="routes", daemon=True).start()
    try:
        loop.run_forever()
    finally:
        server.close()
    return 0


async def _made(load: Load, sidecar: Sidecar) -> Routers:
    """In the loop: routers may make what belongs to one."""
    return Routers(load, sidecar)


def _follow(sidecar: Sidecar, hear: Callable[[Mapping[str, Any]], None]) -> None:
    """Reads the controller's route table, for ever; reconnects to the next controller."""
    pause_s = _FIRST_PAUSE_S
    while True:
        connection = UnixConnection(sidecar.runtime_dir / "controller.sock", None)
        try:
            connection.request("GET", f"/-/proxies/handle-{sidecar.id}/routes")
            answer = connection.getresponse()
            while answer.status == 200 and (text := answer.readline()):
                if text.strip():
                    hear(json.loads(text))
                    pause_s = _FIRST_PAUSE_S
        except (OSError, http.client.HTTPException, ValueError) as error:
            logger.debug(f"the routes ended: {line(error)}")
        finally:
            connection.close()
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)


# --- Routers ----------------------------------------------------------------------------------------------------------


class _Router:
    """The router of one deployment, as it is asked."""

    def __init__(self, of: DeploymentID, router: RequestRouter) -> None:
        self.of = of
        self.router = router
        self.replicas: dict[str, RunningReplica] = {}
        self.is_there = asyncio.Event()
        """A replica is."""
        self.may_wait = router._may_wait
        heard = ("on_request_routed", "on_request_completed", "on_request_cancelled")
        self.hears = any(getattr(type(router), one) is not getattr(RequestRouter, one) for one in heard)

    def hear(self, route: Mapping[str, Any] | None) -> None:
        """Takes its part of a route table; None is that it is in none."""
        listed = [] if route is None else route["replicas"]
        known, self.replicas = self.replicas, {}
        for told in listed:
            assert route is not None, "it has replicas"
            replica = known.pop(told["id"], None)
            if replica is None:
                replica = RunningReplica(ReplicaID(told["id"], self.of))
            replica._update(route["max_ongoing_requests"], told)
            self.replicas[told["id"]] = replica
        for gone in known.values():
            self.router.on_replica_actor_died(gone.replica_id)
        self.router.update_replicas(list(self.replicas.values()))
        if self.replicas:
            self.is_there.set()
        else:
            self.is_there.clear()

    async def choose(self, question: Mapping[str, Any], request: PendingRequest) -> list[list[str]]:
        """The ids of replicas in ranks. Raises Unusable, or what the router raises."""
        await self.is_there.wait()
        self.listen(question)
        avoid = question.get("avoid", ())
        for id in avoid:
            if id in self.replicas:
                self.router.on_replica_actor_unavailable(self.replicas[id].replica_id)
        candidates = [replica for id, replica in self.replicas.items() if id not in avoid]
        # It may have one again that has failed it, where there is no other; who waits knows when.
        if not candidates or self.may_wait:
            candidates = list(self.replicas.values())
        return ranks(await self.router.choose_replicas(candidates, request))

    def listen(self, question: Mapping[str, Any]) -> None:
        """To how many requests replicas have from whoever asks."""
        cache = self.router.replica_queue_len_cache
        lengths = dict.fromkeys((replica.replica_id for replica in self.replicas.values()), 0)
        for id, length in question.get("ongoing", {}).items():
            if id in self.replicas:
                lengths[self.replicas[id].replica_id] = length
        cache._hear(question["caller"], lengths)
        self.router._on_lengths()


def ranks(chosen: Any) -> list[list[str]]:
    """What a router has returned, as ids. Raises Unusable for what is no list of lists of replicas."""
    cure = "return a list of ranks, each of them a list of replicas of candidate_replicas"
    if not isinstance(chosen, Iterable) or isinstance(chosen, (str, bytes, Mapping)):
        raise Unusable(f"it returned {shown(chosen)}\n{cure}")
    made = []
    for rank in chosen:
        if not isinstance(rank, Iterable) or isinstance(rank, (str, bytes, Mapping)):
            raise Unusable(f"it returned {shown(rank)} for a rank\n{cure}")
        ids = []
        for replica in rank:
            if not isinstance(replica, RunningReplica):
                raise Unusable(f"it returned {shown(replica)} for a replica\n{cure}")
            ids.append(replica.replica_id.unique_id)
        made.append(ids)
    return made


class Routers:
    """The routers of an application, ready to be asked. All of it runs in the loop but what says otherwise."""

    def __init__(self, load: Load, sidecar: Sidecar) -> None:
        told = sidecar.told
        self._sidecar = sidecar
        self._app_name: str = told["application"]
        self._routers: dict[str, _Router] = {}
        self._troubles: dict[str, str] = {}
        self._failed_at: dict[str, float] = {}
        self._logged: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._telling: asyncio.Task[None] | None = None
        self._is_ready = self._was_told = False
        self._known: OrderedDict[Key, tuple[str, PendingRequest, int]] = OrderedDict()
        """With the deployment of each, and how many bytes its arguments have."""
        self._known_bytes = 0
        self._choosing: dict[Key, asyncio.Task[list[list[str]]]] = {}
        """Of routers that wait, for requests that are asked about again meanwhile."""
        self._running: dict[Key, tuple[str, ReplicaID, ReplicaResult]] = {}
        """With the deployment of each."""
        self._attending: Counter[str] = Counter()
        """How many connections say of a process that it is there."""
        self.under_way = 0
        """Questions that wait for a router."""
        self.newest = ""
        """Whose router was asked last."""
        self.begun: Callable[[], None] = lambda: None
        """Called when a question begins and none was under way."""
        own = self._of_code(load(told["args"]))
        for name, config in told["deployments"].items():
            try:
                self._routers[name] = self._router(name, config, own.get(name))
            except Exception as error:
                self._fails(name, f"it cannot be made: {placed(error, __file__)}", error)

    def _of_code(self, app: Any) -> dict[str, RequestRouterConfig]:
        """The routers that the code itself has, which need not be importable."""
        configs = {
            name: code.options.get("request_router_config") for name, code in code_of(app, self._app_name).items()
        }
        return {name: config for name, config in configs.items() if config is not None}

    def _router(self, name: str, told: Mapping[str, Any], own: RequestRouterConfig | None) -> _Router:
        path = told["request_router_class"]
        is_own = own is not None and own.request_router_class == path
        config = own if is_own and own is not None else RequestRouterConfig(request_router_class=path)
        of = DeploymentID(name, self._app_name)
        backoff = {key: told[key] for key in ("initial_backoff_s", "backoff_multiplier", "max_backoff_s")}
        router = router_class(config)(deployment_id=of, self_actor_id=self._sidecar.id, self_node_id=NODE_ID, **backoff)
        router.initialize_state(**told.get("request_router_kwargs", {}))
        return _Router(of, router)

    def hear(self, table: Mapping[str, Any]) -> None:
        """Takes a route table, or what changed in it."""
        routes = {route["deployment"]: route for route in table["deployments"]}
        removed = table.get("removed", ())
        for name, router in self._routers.items():
            id = name if name == self._app_name else f"{self._app_name}#{name}"
            if id in routes or id in removed or table["is_complete"]:
                try:
                    router.hear(routes.get(id))
                except Exception as error:
                    self._fails(name, f"it did not take its replicas: {placed(error, __file__)}", error)
        if not self._is_ready:
            self._is_ready = True
            self._tell()

    # --- Questions ----------------------------------------------------------------------------------------------------

    async def handle(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The answer to a request on the socket."""
        head, _, arguments = body.partition(b"\n")
        told = json.loads(head)
        if path == "/-/choose":
            return await self._choose(told, arguments)
        if path in ("/-/routed", "/-/completed", "/-/cancelled"):
            self._news(path, told)
            return 204, b""
        if path == "/-/attend":
            await self._attend(told["caller"])
        return 404, b""

    async def _choose(self, question: Mapping[str, Any], arguments: bytes) -> tuple[int, bytes]:
        name = question["deployment"]
        router = self._routers.get(name)
        if router is None:
            return 422, self._troubles.get(name, f"there is no request router of {name}").encode()
        key = (question["caller"], question["number"])
        request = self._known[key][1] if key in self._known else self._request(question)
        request._reads(partial(_arguments, question, arguments))
        # Of one that is not told of later nothing but what was tried is kept.
        self._remember(key, name, request, len(arguments) if router.hears else 0)
        self.newest = name
        self.under_way += 1
        if self.under_way == 1:
            self.begun()
        try:
            if router.may_wait:
                chosen, waits = await self._waited(key, router, question, request)
            else:
                chosen, waits = await asyncio.wait_for(router.choose(question, request), DEADLINE_S), False
        except asyncio.CancelledError:
            # Who asked went away.
            self._cancel(name, key)
            raise
        except (asyncio.TimeoutError, TimeoutError) as error:
            return self._failed(name, f"it did not answer within {DEADLINE_S} s", error)
        except Exception as error:
            return self._failed(name, placed(error, __file__), error)
        finally:
            self.under_way -= 1
            if not router.hears:
                # What comes with the next question says the same.
                request._reads(None)
        self._heals(name)
        return 200, json.dumps({"ranks": chosen, "hears": router.hears, "waits": waits}).encode()

    async def _waited(
        self, key: Key, router: _Router, question: Mapping[str, Any], request: PendingRequest
    ) -> tuple[list[list[str]], bool]:
        """What it has chosen, or that it goes on waiting, and is to be asked again."""
        choosing = self._choosing.get(key)
        if choosing is None:
            choosing = asyncio.get_running_loop().create_task(router.choose(question, request))
            self._choosing[key] = choosing
        else:
            router.listen(question)
        done, _ = await asyncio.wait((choosing,), timeout=_WAIT_S)
        if not done:
            return [], True
        self._choosing.pop(key, None)
        return choosing.result(), False

    def _request(self, question: Mapping[str, Any]) -> PendingRequest:
        internal_id = f"{question['caller']}-{question['number']}"
        request = PendingRequest(metadata=metadata(question, self._app_name, internal_id))
        request._caller = question["caller"]
        return request

    def _remember(self, key: Key, name: str, request: PendingRequest, size: int) -> None:
        self._forget(key)
        self._known[key] = (name, request, size)
        self._known_bytes += size
        while len(self._known) > _MAX_KNOWN or (self._known_bytes > _MAX_KNOWN_BYTES and len(self._known) > 1):
            self._forget(next(iter(self._known)))

    def _forget(self, key: Key) -> PendingRequest | None:
        _, request, size = self._known.pop(key, ("", None, 0))
        self._known_bytes -= size
        return request

    def _news(self, path: str, told: Mapping[str, Any]) -> None:
        name, key = told["deployment"], (told["caller"], told["number"])
        router = self._routers.get(name)
        if router is None:
            return
        if path == "/-/cancelled":
            self._cancel(name, key)
            return
        replica_id = ReplicaID(told["replica"], router.of)
        if path == "/-/routed":
            self._hears(name, partial(self._routed, router, key, replica_id))
        else:
            self._complete(name, key, replica_id)

    def _hears(self, name: str, hear: Callable[[], None]) -> None:
        try:
            hear()
        except Exception as error:
            self._fails(name, f"it failed to hear of a request: {placed(error, __file__)}", error)

    def _complete(self, name: str, key: Key, replica_id: ReplicaID) -> None:
        """The replica is done with a request."""
        router = self._routers[name].router
        running = self._running.get(key)
        # One that came back from there may be elsewhere by now.
        if running is not None and running[1] == replica_id:
            del self._running[key]
            self._hears(name, running[2]._done)
        self._hears(name, partial(router.on_request_completed, replica_id, f"{key[0]}-{key[1]}"))

    def _cancel(self, name: str, key: Key) -> None:
        """A request has ended before it had a replica."""
        choosing = self._choosing.pop(key, None)
        if choosing is not None:
            choosing.cancel()
        if self._forget(key) is not None:
            router = self._routers[name].router
            self._hears(name, partial(router.on_request_cancelled, f"{key[0]}-{key[1]}"))

    async def _attend(self, caller: str) -> None:
        """Until the connection ends."""
        self._attending[caller] += 1
        try:
            await asyncio.Event().wait()
        finally:
            self._attending[caller] -= 1
            if not self._attending[caller]:
                del self._attending[caller]
                self._lose(caller)

    def _lose(self, caller: str) -> None:
        """A process is gone, and all that it had asked for with it."""
        for key, (name, *_) in list(self._known.items()):
            if key[0] == caller:
                self._cancel(name, key)
        for key, (name, replica_id, _) in list(self._running.items()):
            if key[0] == caller:
                self._complete(name, key, replica_id)

    def _routed(self, router: _Router, key: Key, replica_id: ReplicaID) -> None:
        request = self._forget(key)
        if request is None:
            return
        result = ReplicaResult()
        self._running[key] = (router.of.name, replica_id, result)
        replica = router.replicas.get(replica_id.unique_id)
        if request._future is not None and not request._future.done():
            request._future.set_result(replica)
        router.router.on_request_routed(request, replica_id, result)

    # --- Troubles -----------------------------------------------------------------------------------------------------

    def _failed(self, name: str, reason: str, error: BaseException) -> tuple[int, bytes]:
        self._fails(name, reason, error)
        return 422, reason.encode()

    def _fails(self, name: str, reason: str, error: BaseException | None) -> None:
        self._failed_at[name] = time.monotonic()
        if self._logged.get(name) != reason:
            # The same again is no news.
            self._logged[name] = reason
            logger.error(f"the request router of {name} failed: {reason}", exc_info=error)
        if self._troubles.get(name) != reason:
            self._troubles[name] = reason
            self._tell()

    def _heals(self, name: str) -> None:
        if name in self._troubles and time.monotonic() - self._failed_at[name] >= _HOLD_S:
            del self._troubles[name]
            self._tell()

    def _tell(self) -> None:
        if self._telling is None and self._is_ready:
            self._telling = asyncio.get_running_loop().create_task(self._report())

    async def _report(self) -> None:
        """Tells the controller what has changed, not more often than it can be read; first that they answer."""
        loop = asyncio.get_running_loop()
        while not self._was_told or self._told != self._troubles:
            troubles = dict(self._troubles)
            try:
                if not self._was_told:
                    await loop.run_in_executor(None, self._sidecar.ready)
                    self._was_told = True
                if self._told != troubles:
                    await loop.run_in_executor(None, self._sidecar.tell, _troubles(troubles))
                    self._told = troubles
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                logger.debug(f"the controller did not hear what request routers tell: {line(error)}")
            await asyncio.sleep(_REPORT_PAUSE_S)
        self._telling = None

    def blocks(self, where: str) -> None:
        """The loop does not come back. Called from another thread, which therefore tells it itself."""
        name, reason = self.newest, f"it blocks its process for more than {DEADLINE_S} s{where}"
        logger.error(f"the request router of {name}: {reason}")
        try:
            self._sidecar.tell(_troubles({**self._troubles, name: reason}))
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            logger.debug(f"the controller did not hear that a request router blocks: {line(error)}")

    def blocked(self, where: str) -> None:
        """The loop is back."""
        name, reason = self.newest, f"it blocks its process for more than {DEADLINE_S} s{where}"
        self._logged[name] = self._told[name] = self._troubles[name] = reason
        self._failed_at[name] = time.monotonic()

    def hang(self) -> None:
        """As `blocks`, when it has lasted too long."""
        reason = f"the request router of {self.newest} has blocked it for {MAX_BLOCKED_S:g} s"
        logger.error(f"{reason}: it ends, and another takes its place")
        try:
            self._sidecar.tell({"report": "failed", "reason": reason})
        finally:
            sys.stderr.flush()
            os._exit(1)


def _troubles(troubles: Mapping[str, str]) -> dict[str, Any]:
    return {"report": "router_troubles", "troubles": dict(troubles)}


class _Watch(threading.Thread):
    """Notices that a router blocks the loop. It sleeps while nobody asks."""

    def __init__(self, routers: Routers, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="watch", daemon=True)
        self._routers = routers
        self._loop = loop
        self._is_asked = threading.Event()
        routers.begun = self._is_asked.set
        self._thread = threading.main_thread().ident

    def run(self) -> None:
        while True:
            self._is_asked.wait()
            if not self._beats():
                where = self._where()
                self._routers.blocks(where)
                if not self._beats(MAX_BLOCKED_S - DEADLINE_S):
                    self._routers.hang()
                self._loop.call_soon_threadsafe(self._routers.blocked, where)
            self._loop.call_soon_threadsafe(self._rest)
            time.sleep(DEADLINE_S)

    def _rest(self) -> None:
        if self._routers.under_way == 0:
            self._is_asked.clear()

    def _beats(self, within_s: float = DEADLINE_S) -> bool:
        beat = threading.Event()
        self._loop.call_soon_threadsafe(beat.set)
        return beat.wait(within_s)

    def _where(self) -> str:
        """Where the loop's thread is."""
        frame = sys._current_frames().get(self._thread or 0)
        for one in reversed(traceback.extract_stack(frame) if frame is not None else []):
            if not one.filename.startswith("<") and one.filename != __file__:
                return f" ({one.filename}, line {one.lineno})"
        return ""


# --- What a question says ---------------------------------------------------------------------------------------------


def metadata(question: Mapping[str, Any], app_name: str, internal_id: str) -> RequestMetadata:
    """Of a request, by its head."""
    headers = {name.lower(): value for name, value in question["headers"]}
    path = urlsplit(question["uri"]).path
    is_call = path.startswith(_CALL_PATH)
    model_id = headers.get("serve_multiplexed_model_id") or headers.get("serve-multiplexed-model-id", "")
    trace = {name: headers[name] for name in ("traceparent", "tracestate") if headers.get(name)}
    return RequestMetadata(
        request_id=headers.get("x-request-id", ""),
        internal_request_id=internal_id,
        call_method=unquote(path.removeprefix(_CALL_PATH)) if is_call else "__call__",
        route=headers.get(_ROOT_PATH, "") or ("" if is_call else "/"),
        app_name=app_name,
        multiplexed_model_id=model_id,
        session_id=headers.get("x-session-id", ""),
        is_streaming="accept" in headers if is_call else True,
        is_http_request=not is_call,
        tracing_context=trace or None,
    )


def _arguments(question: Mapping[str, Any], written: bytes) -> tuple[list[Any], dict[str, Any]]:
    """Of a handle's call what it was called with; of HTTP its head."""
    if urlsplit(question["uri"]).path.startswith(_CALL_PATH):
        args, kwargs = pickle.loads(written) if written else ((), {})
        return list(args), dict(kwargs)
    return [StreamingHTTPRequest(scope(question))], {}


def scope(question: Mapping[str, Any]) -> dict[str, Any]:
    """The head of an HTTP request, as ASGI has it."""
    parts = urlsplit(question["uri"])
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in question["headers"]]
    root_path = dict(question["headers"]).get(_ROOT_PATH, "")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": question["method"],
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode("latin-1"),
        "query_string": parts.query.encode("latin-1"),
        "root_path": root_path,
        "headers": [(name, value) for name, value in raw if name != _ROOT_PATH.encode()],
        "client": None,
        "server": None,
    }
