"""Local testing mode: an application in this process, without server and sockets.

Each deployment has one replica: an object, and an event loop in a thread of its own. Arguments are pickled and read
again as on their way to another process; `max_ongoing_requests`, `max_queued_requests` and `user_config` hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final

from . import _futures
from ._graph import Code, code_of
from ._responses import END, Stream
from ._user_callable import UserCallable
from .context import (
    Children,
    DeploymentID,
    ReplicaContext,
    ReplicaID,
    ReplicaRank,
    RequestContext,
    _replica_of_call,
    _serve_request_context,
)
from .deployment import Application
from .exceptions import BackPressureError, DeploymentUnavailableError
from .handle import CallOptions, DeploymentHandle

logger = logging.getLogger("tyndall.serve")

_MAX_ITEMS_AHEAD: Final = 64
"""Items of a stream that nobody has asked for yet; then its generator waits."""


class LocalRouter:
    """Calls the deployment's replica in this process, if there is one then."""

    is_local = True

    def __init__(self, deployment_id: DeploymentID) -> None:
        self._deployment_id = deployment_id

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Future[Any]:
        return _futures.attempt(lambda: _find(self._deployment_id).call(method, args, kwargs, options))

    def stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Stream:
        return _find(self._deployment_id).stream(method, args, kwargs, options)

    def broadcast(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions
    ) -> Future[list[Future[Any]]]:
        return _futures.done([self.call(method, args, kwargs, options)])


class _Replica:
    """A deployment's object with its loop."""

    def __init__(self, code: Code, deployment_id: DeploymentID) -> None:
        options = code.options
        self._code = code
        self._context = ReplicaContext(
            replica_id=ReplicaID(f"local-{uuid.uuid4().hex[:8]}", deployment_id),
            max_ongoing_requests=options.get("max_ongoing_requests", 5),
        )
        self._user = UserCallable(code.func_or_class, self._context.max_ongoing_requests)
        self._slots = asyncio.Semaphore(self._context.max_ongoing_requests)
        self._max_queued = options.get("max_queued_requests", -1)
        self._backpressure = options.get("backpressure_config")
        self._num_queued = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"serve-{deployment_id.name}", daemon=True)

    def start(self) -> None:
        """Makes the object; what its `__init__` or `reconfigure` raises is raised."""
        self._thread.start()
        code = self._code
        config = code.options.get("user_config")

        async def begin() -> None:
            await self._user.start(code.init_args, code.init_kwargs)
            await self._user.reconfigure(config, ReplicaRank())
            self._user.consume()
            await self._user.check_health()

        self._submit(self._in_replica(begin)).result()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._submit(self._in_replica(self._end)).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """Requests that still run are cancelled before the object goes."""
        running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=self._code.options.get("graceful_shutdown_timeout_s", 20.0))
        await self._user.stop(self._code.options.get("graceful_shutdown_timeout_s", 20.0))
        await self._loop.shutdown_asyncgens()

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Future[Any]:
        given = _copied((args, kwargs))

        async def work() -> Any:
            await self._enter()
            try:
                return await self._user.call(method, *given)
            finally:
                self._slots.release()

        return self._submit(self._in_request(options, work))

    def stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Stream:
        given = _copied((args, kwargs))
        items = _Items(self._loop)

        async def work() -> None:
            await self._enter()
            try:
                await items.take_all(self._user.stream(method, *given))
            finally:
                self._slots.release()

        items.begin(self._submit(self._in_request(options, work)))
        return items

    async def _enter(self) -> None:
        """Waits for a place among those that run, in the order of arrival."""
        if not self._slots.locked():
            await self._slots.acquire()
            return
        if 0 <= self._max_queued <= self._num_queued:
            config = self._backpressure
            raise BackPressureError(
                self._num_queued,
                self._max_queued,
                config.status_code if config else 503,
                config.retry_after_s if config else None,
            )
        self._num_queued += 1
        try:
            await self._slots.acquire()
        finally:
            self._num_queued -= 1

    async def _in_replica(self, work: Callable[[], Awaitable[Any]]) -> Any:
        _replica_of_call.set(replace(self._context, servable_object=self._user.target))
        return await work()

    async def _in_request(self, options: CallOptions, work: Callable[[], Awaitable[Any]]) -> Any:
        """The request's context is around the work, and what it has called ends when it is cancelled."""
        children = Children()
        request = RequestContext(
            route=options.route,
            request_id=options.request_id,
            _internal_request_id=options.internal_request_id,
            app_name=options.app_name,
            multiplexed_model_id=options.multiplexed_model_id,
            session_id=options.session_id,
            children=children,
        )
        _serve_request_context.set(request)
        try:
            return await self._in_replica(work)
        except asyncio.CancelledError:
            children.cancel()
            raise

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Runs it on the loop, with nothing of the caller's context."""
        return contextvars.Context().run(asyncio.run_coroutine_threadsafe, work, self._loop)


class _Items:
    """A stream between the replica's loop, which brings items, and any thread that takes them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._ready: deque[Any] = deque()
        self._asked: Future[Any] | None = None
        self._room = asyncio.Event()
        self._ended: Future[Any] | None = None
        self._work: Future[Any] | None = None

    def begin(self, work: Future[Any]) -> None:
        self._work = work
        work.add_done_callback(self._end)

    def next(self) -> Future[Any]:
        item: Future[Any] = Future()
        with self._lock:
            is_full = self._is_full()
            if self._ready:
                item.set_result(self._ready.popleft())
            elif self._ended is not None:
                return _outcome(self._ended)
            else:
                self._asked = item
        if is_full:
            with contextlib.suppress(RuntimeError):
                # It raises where the replica has ended a moment before, and so has the stream.
                self._loop.call_soon_threadsafe(self._room.set)
        return item

    def cancel(self) -> None:
        if self._work is not None:
            self._work.cancel()

    async def take_all(self, items: AsyncIterator[Any]) -> None:
        """Brings them as they are taken, a few ahead."""
        try:
            async for item in items:
                self._put(item)
                while self._is_full():
                    # Cleared first, looked at again, then waited for: no taking of an item is missed.
                    self._room.clear()
                    if self._is_full():
                        await self._room.wait()
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    def _is_full(self) -> bool:
        return len(self._ready) >= _MAX_ITEMS_AHEAD

    def _put(self, item: Any) -> None:
        with self._lock:
            asked, self._asked = self._asked, None
            if asked is None or not asked.set_running_or_notify_cancel():
                self._ready.append(item)
                return
        asked.set_result(item)

    def _end(self, work: Future[Any]) -> None:
        with self._lock:
            self._ended = work
            asked, self._asked = self._asked, None
        if asked is not None:
            _futures.follow(_outcome(work), asked)


def _outcome(work: Future[Any]) -> Future[Any]:
    """What comes after the last item."""
    end: Future[Any] = Future()
    if work.cancelled():
        end.cancel()
    elif error := work.exception():
        end.set_exception(error)
    else:
        end.set_result(END)
    return end


def _copied(given: Any) -> Any:
    import cloudpickle  # type: ignore[import-untyped]

    return cloudpickle.loads(cloudpickle.dumps(given))


_applications: Final[dict[str, tuple[str, dict[str, _Replica]]]] = {}
"""Those of this process, by name: the ingress, and replicas by deployment, callees before callers."""


def run(app: Application, name: str = "default") -> DeploymentHandle[Any]:
    """Starts an application in this process, callees before their callers, in place of an earlier one of that name.

    Raises what a deployment's constructor raises; nothing runs then.
    """
    code = code_of(app, name, _handle)
    for deployment, one in code.items():
        _warn(deployment, one)
    ingress = next(iter(code))
    delete(name)
    # It is there while it starts: a constructor may call what has started before.
    replicas: dict[str, _Replica] = {}
    _applications[name] = (ingress, replicas)
    for deployment in reversed(code):
        of = DeploymentID(deployment, name)
        replicas[deployment] = _Replica(code[deployment], of)
        try:
            if actors := code[deployment].options.get("deployment_actors"):
                from . import _local_actors

                _local_actors.start(of, actors)
            replicas[deployment].start()
        except BaseException:
            logger.exception(f"Failed to initialize deployment {deployment!r}.")
            delete(name)
            raise
    return _handle(ingress, name)


def handle_of(name: str, deployment: str | None = None) -> DeploymentHandle[Any] | None:
    """A handle of an application of this process; of its ingress, where no deployment is named."""
    found = _applications.get(name)
    if found is None or (deployment is not None and deployment not in found[1]):
        return None
    return _handle(deployment or found[0], name)


def is_running(name: str) -> bool:
    """Whether an application of this process has this name."""
    return name in _applications


def delete(name: str) -> bool:
    """Stops an application of this process, callers before those that they call; whether there was one."""
    found = _applications.pop(name, None)
    for deployment, replica in reversed((found[1] if found else {}).items()):
        replica.stop()
        if (actors := sys.modules.get(f"{__package__}._local_actors")) is not None:
            actors.stop(DeploymentID(deployment, name))
    return found is not None


def shutdown() -> None:
    for name in list(_applications):
        delete(name)


def _handle(deployment_name: str, app_name: str) -> DeploymentHandle[Any]:
    return DeploymentHandle(deployment_name, app_name, router=LocalRouter(DeploymentID(deployment_name, app_name)))


def _find(deployment_id: DeploymentID) -> _Replica:
    found = _applications.get(deployment_id.app_name)
    replica = found[1].get(deployment_id.name) if found else None
    if replica is None:
        raise DeploymentUnavailableError(deployment_id, "it does not run in this process.")
    return replica


def _warn(deployment: str, code: Code) -> None:
    actor = code.options.get("ray_actor_options") or {}
    if actor.get("num_gpus"):
        logger.warning(f"deployment {deployment!r}: num_gpus is not looked at in local testing mode")
    if actor.get("runtime_env"):
        logger.warning(f"deployment {deployment!r}: runtime_env is not looked at in local testing mode")
