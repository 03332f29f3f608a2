"""A replica: the deployment's object on an event loop, behind the requests that Rust brings.

The loop is the process's main thread, where many libraries want to be. Everything else has threads of its own, in Rust:
sockets, admission, health, draining. What arrives is a call of a method of `_Host`.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import importlib
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tyndall import _tyndall

from . import _calls, _replica_log, _router, _stats, _watchdog, http
from ._graph import code_of, models_of
from ._loop import new_loop
from ._user_callable import UserCallable
from .context import (
    DeploymentID,
    ReplicaContext,
    ReplicaID,
    ReplicaRank,
    _enter_request,
    _set_internal_replica_context,
    get_replica_context,
)
from .gang import GangContext

if TYPE_CHECKING:
    from . import _grpc, _grpc_wire

logger = logging.getLogger("tyndall.serve")

_GIVE_BACK_S: Final = 2.0
"""What is kept of the drain time for tasks that go back to their queue."""


def main(load: Callable[[dict[str, Any]], Any], rest: list[str]) -> int:
    """Is a replica until it is told to end, and returns its exit status; `rest` is what follows `role replica`."""
    return _Host(load).run(["role", "replica", *rest])


def prepare() -> None:
    """Imports what most replicas import only when they start."""
    for module in ("uvloop", "cloudpickle", "starlette.requests", "starlette.responses"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


class _Host:
    """Carries out what arrives. Rust calls the methods that have no underscore, in the loop."""

    def __init__(self, load: Callable[[dict[str, Any]], Any]) -> None:
        self._load = load
        self._loop = new_loop()
        self._user: UserCallable | None = None
        self._front: http.Front | None = None
        self._services: _grpc.Service | None = None
        self._app_name = ""
        self._message: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._access: _replica_log.AccessLog | None = None
        self._runtime_dir = Path()
        self._stats: list[asyncio.Task[None]] = []
        self._consumer_timeout_s = 0.0

    def run(self, words: list[str]) -> int:
        # A crash in native code says in which line of Python.
        faulthandler.enable()
        self._runtime_dir = Path(words[words.index("--runtime-dir") + 1])
        _router.is_replica_in(self._runtime_dir)
        bridge = _tyndall.Bridge(self)
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(bridge.fileno(), bridge.drain)
        _tyndall.run_replica(words, bridge, _watchdog.watch(self._loop))
        try:
            self._loop.run_forever()
        finally:
            self._loop.remove_reader(bridge.fileno())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            if self._user is not None:
                # Requests may have taken all of the drain time, so that `stop` was cut short.
                self._user.give_back_tasks()
        if self._message:
            print(self._message, file=sys.stderr)
        if self._access is not None:
            self._access.flush()
        _replica_log.finish()
        return 0 if self._message is None else 1

    def ended(self, message: str | None) -> None:
        """Rust's side is over: in an orderly way, or with a line for standard error, which may be empty."""
        self._message = message
        self._loop.stop()

    def probe(self, probe: _tyndall.Probe) -> None:
        """The watchdog asks whether the loop comes back; by then all that came before has begun."""
        self._loop.call_soon(lambda: probe.back(bool(self._tasks)))

    # --- The deployment's life ----------------------------------------------------------------------------------------

    def start(self, job: _tyndall.Job, told: dict[str, Any]) -> None:
        self._do(job, self._start(told))

    async def _start(self, told: dict[str, Any]) -> None:
        config = json.loads(told["config"])
        app_name, name = told["application"], told["deployment"]
        self._app_name = app_name
        origin = _replica_log.Origin(app_name, name, told["replica_id"])
        access = _replica_log.install(origin, _replica_log.configured(os.environ))
        self._access = access if access.is_enabled else None
        _router.install(_calls.routers(told["caller"], threading.get_ident()))
        app = self._load(json.loads(told["args"]))
        code = code_of(app, app_name).get(name)
        models = models_of(app, app_name)
        _router.know_models({DeploymentID(one, app_name): model for one, model in models.items()})
        if code is None:
            raise ValueError(f"the application has no deployment {name!r}\ndeploy it again if its code has changed")
        rank = ReplicaRank(told["rank"], told["rank"], told["rank"])
        gang = GangContext(**json.loads(told["gang"])) if told["gang"] else None
        max_ongoing = config["max_ongoing_requests"]
        context = ReplicaContext(
            replica_id=ReplicaID(told["replica_id"], DeploymentID(name, app_name)),
            rank=rank,
            world_size=config.get("num_replicas") or config["autoscaling"]["min_replicas"] or 1,
            code_version=config["code_version"],
            gang_context=gang,
            max_ongoing_requests=max_ongoing,
        )
        _set_internal_replica_context(context)
        if actors := config.get("deployment_actors"):
            from . import _actors

            _actors.install(self._runtime_dir, context, actors)
        self._user = user = UserCallable(code.func_or_class, max_ongoing)
        await user.start(code.init_args, code.init_kwargs)
        record = user.stats(_stats.METADATA_METHOD)
        if record is not None:
            told["caller"].says(await _stats.metadata(record, config["startup_timeout_s"]))
        await user.reconfigure(config["user_config"], rank)
        _set_internal_replica_context(replace(context, servable_object=user.target))
        self._front = await http.front(user)
        self._consumer_timeout_s = _consumer_timeout_s(config["graceful_shutdown_timeout_s"])
        user.consume()
        await user.check_health()
        record = user.stats(_stats.METHOD)
        if record is not None and config["num_replicas"] is None:
            stats = _stats.tell(record, self._runtime_dir, told["replica_id"], config["autoscaling"])
            self._stats.append(self._loop.create_task(stats))
        record = user.stats(_stats.ROUTING_METHOD)
        if record is not None and config.get("request_router") is not None:
            stats = _stats.tell_routers(record, self._runtime_dir, told["replica_id"], config["request_router"])
            self._stats.append(self._loop.create_task(stats))

    def reconfigure(self, job: _tyndall.Job, user_config: str) -> None:
        assert self._user is not None, "it has started"
        self._do(job, self._user.reconfigure(json.loads(user_config), get_replica_context().rank))

    def check_health(self, job: _tyndall.Job, _: None) -> None:
        assert self._user is not None, "it has started"
        self._do(job, self._user.check_health())

    def leave(self, job: _tyndall.Job, _: None) -> None:
        """No request comes any more, and those that there are go on."""
        if self._user is not None:
            self._user.leave(self._consumer_timeout_s)
        job.done()

    def stop(self, job: _tyndall.Job, _: None) -> None:
        self._do(job, self._stop())

    async def _stop(self) -> None:
        for stats in self._stats:
            stats.cancel()
        if self._front is not None:
            await self._front.stop()
        if self._user is not None:
            await self._user.stop(self._consumer_timeout_s)

    def _do(self, job: _tyndall.Job, work: Coroutine[Any, Any, None]) -> None:
        async def done() -> None:
            try:
                await work
            except BaseException as error:
                job.done("".join(traceback.format_exception(error)).rstrip())
                if not isinstance(error, Exception):
                    raise
            else:
                job.done()

        self._spawn(done()).add_done_callback(self._tasks.discard)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that its end is to take out of `_tasks`: the loop itself holds tasks weakly."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        return task

    def cancel(self, task: asyncio.Task[None]) -> None:
        """The client of a request went away."""
        # A task that has not begun never comes to the lines that take it out.
        task.add_done_callback(self._tasks.discard)
        task.cancel()

    # --- Requests -----------------------------------------------------------------------------------------------------

    def http(self, request: _tyndall.HttpRequest) -> None:
        request.set_task(self._spawn(self._http(request)))

    async def _http(self, request: _tyndall.HttpRequest) -> None:
        children = _enter_request(request.context, self._app_name, is_http=True)
        assert self._front is not None, "it has started"
        route = None
        try:
            route = await self._front.answer(request)
        except asyncio.CancelledError:
            children.cancel()
            raise
        finally:
            request.close()
            self._tasks.discard(asyncio.current_task())
            if self._access is not None:
                self._access.http(request, route)

    def websocket(self, socket: _tyndall.WebSocket) -> None:
        socket.set_task(self._spawn(self._websocket(socket)))

    async def _websocket(self, socket: _tyndall.WebSocket) -> None:
        children = _enter_request(socket.context, self._app_name, is_http=True)
        assert self._front is not None, "it has started"
        has_failed = True
        try:
            await self._front.converse(socket)
            has_failed = False
        except asyncio.CancelledError:
            children.cancel()
            raise
        except BaseException as error:
            logger.error("a WebSocket at %s failed", socket.path, exc_info=error)
        finally:
            socket.close(has_failed)
            self._tasks.discard(asyncio.current_task())

    def grpc(self, request: _tyndall.HttpRequest) -> None:
        """A call of gRPC that is complete already."""
        # Most replicas have no such calls, and are spared the memory.
        from ._grpc_wire import Body

        request.set_task(self._spawn(self._rpc(Body(request))))

    def grpc_stream(self, socket: _tyndall.WebSocket) -> None:
        """One whose client goes on."""
        from ._grpc_wire import Conversation

        socket.set_task(self._spawn(self._rpc(Conversation(socket))))

    async def _rpc(self, wire: _grpc_wire.Wire) -> None:
        from . import _grpc

        context = _grpc.context_of(wire)
        children = _enter_request(wire.context, self._app_name, is_http=False, grpc_context=context)
        code = None
        try:
            if self._services is None:
                assert self._user is not None, "it has started"
                self._services = _grpc.Service(self._user)
            code = await self._services.answer(wire, context)
        except asyncio.CancelledError:
            children.cancel()
            raise
        except BaseException as error:
            code = "INTERNAL"
            _log(error)
        finally:
            wire.close(code is None)
            self._tasks.discard(asyncio.current_task())
            if self._access is not None:
                wire.log(self._access, code or "CANCELLED")

    def call(self, request: _tyndall.CallRequest) -> None:
        request.set_task(self._spawn(self._call(request)))

    async def _call(self, request: _tyndall.CallRequest) -> None:
        outcome = "OK"
        children = _enter_request(request.context, self._app_name, is_http=False)
        try:
            if request.is_stream:
                await self._give_items(request)
            else:
                await self._give(request)
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            children.cancel()
            request.fail(_calls.cancelled(request.context.request_id))
            raise
        except BaseException as error:
            outcome = "ERROR"
            _log(error)
            request.fail(_calls.written(error))
        finally:
            self._tasks.discard(asyncio.current_task())
            if self._access is not None:
                self._access.call(request, outcome)

    async def _give(self, request: _tyndall.CallRequest) -> None:
        assert self._user is not None, "it has started"
        args, kwargs = _calls.loads(request.body)
        request.reply(_calls.dumps(await self._user.call(request.method, args, kwargs)))

    async def _give_items(self, request: _tyndall.CallRequest) -> None:
        assert self._user is not None, "it has started"
        args, kwargs = _calls.loads(request.body)
        items = self._user.stream(request.method, args, kwargs)
        try:
            async for item in items:
                slow = request.item(_calls.dumps(item))
                if slow is not None:
                    await slow
        finally:
            await items.aclose()  # type: ignore[attr-defined]
        request.close()


def _consumer_timeout_s(drain_s: float) -> float:
    """How long tasks may take at the end: some of the drain time is left to give back those that are not done."""
    return drain_s - min(_GIVE_BACK_S, drain_s / 4)


def _log(error: BaseException) -> None:
    logger.error("Request failed.", exc_info=error)
