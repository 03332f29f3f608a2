"""The process of an actor of a deployment: one object, which the deployment's replicas share.

It is started as `role actor` (`_sidecar`), and answers on its socket: `GET /-/status` as a replica does, and on
`POST /-/calls`, which becomes a connection of frames (`_actors`), calls of methods. The socket has a second name, by
which replicas find it and the next process after it.

What runs when is as under Ray. Where no method is `async`, calls run in threads, one at a time and in order unless
`max_concurrency` says more. Where one is, all run on the event loop: the async ones side by side, up to 1000.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import inspect
import json
import logging
import os
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, cast

from . import _actors, _calls, _http_server, _options
from ._graph import code_of
from ._loop import new_loop
from ._sidecar import Sidecar, begin
from .config import DeploymentActorConfig
from .context import DeploymentID
from .exceptions import RayServeException

logger = logging.getLogger("tyndall.serve")

ASYNC_CONCURRENCY: Final = 1000
"""Ray's, of a class that has async methods."""

_REPORT_PAUSE_S: Final = 1.0

Load = Callable[[dict[str, Any]], Any]


def main(load: Load, argv: list[str]) -> int:
    """Answers until it is told to end; `argv` is what follows `role actor`."""
    sidecar = begin("actor", argv)
    loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        actor = loop.run_until_complete(Actor.made(load, sidecar.told))
    except BaseException as error:
        _failed(sidecar, error)
        return 1
    upgrades = {_actors.PATH: lambda: _Connection(actor)}
    server = loop.run_until_complete(_http_server.start(sidecar.socket, Status(sidecar, actor).handle, upgrades))
    _take_name(sidecar)
    ready = loop.run_in_executor(None, _ready, sidecar)
    try:
        loop.run_forever()
    finally:
        ready.cancel()
        server.close()
    return 0


def _failed(sidecar: Sidecar, error: BaseException) -> None:
    from tyndall._program import told

    logger.error("failed to make the deployment actor", exc_info=error)
    sidecar.tell({"report": "failed", "reason": told(error)})


def _take_name(sidecar: Sidecar) -> None:
    """From now on who calls the actor finds this process. The file of the one before may still be there."""
    told = sidecar.told
    of = DeploymentID(told["deployment"], told["application"])
    name = _actors.socket(sidecar.runtime_dir, of, told["code_version"], told["actor"]["name"])
    new = sidecar.runtime_dir / f"{sidecar.id}.name"
    new.unlink(missing_ok=True)
    os.link(sidecar.socket, new)
    os.replace(new, name)
    sidecar.at_end(lambda: _give_name_back(sidecar.socket, name))


def _give_name_back(socket: Path, name: Path) -> None:
    """Unless another process has it by now."""
    if socket.exists() and name.exists() and socket.samefile(name):
        name.unlink(missing_ok=True)


def _ready(sidecar: Sidecar) -> None:
    """A controller that is away is replaced by one that asks; this one may be back before it does."""
    while True:
        try:
            sidecar.ready()
            return
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            logger.debug(f"the controller did not hear that the actor is ready: {error}")
            time.sleep(_REPORT_PAUSE_S)


# --- The object -------------------------------------------------------------------------------------------------------


class Actor:
    """The object, and how its methods are run."""

    def __init__(self, target: Any, max_concurrency: int, pool: concurrent.futures.Executor | None) -> None:
        self._target = target
        self._pool = pool
        """None where methods run on the loop."""
        self._places = asyncio.Semaphore(max_concurrency)
        self.num_ongoing = 0

    @classmethod
    async def made(cls, load: Load, told: dict[str, Any]) -> Actor:
        """Raises what the code of the application or the constructor raises."""
        return await cls.of(configured(load, told), told["actor"].get("max_concurrency"))

    @classmethod
    async def of(cls, config: DeploymentActorConfig, max_concurrency: int | None) -> Actor:
        """Raises what the constructor raises, and where there is no class at its path."""
        found = config.get_actor_class()
        if not inspect.isclass(found):
            raise TypeError(f"the actor_class of {config.name!r} is {type(found).__name__}\nname a class")
        is_async = any(_is_async(one) for _, one in inspect.getmembers(found))
        max_concurrency = max_concurrency or (ASYNC_CONCURRENCY if is_async else 1)
        args, kwargs = config.init_args, config.init_kwargs
        if is_async:
            return cls(found(*args, **kwargs), max_concurrency, None)
        pool = concurrent.futures.ThreadPoolExecutor(max_concurrency, thread_name_prefix="actor")
        # In the thread of its methods, as some objects belong to the one that has made them.
        target = await asyncio.get_running_loop().run_in_executor(pool, lambda: found(*args, **kwargs))
        return cls(target, max_concurrency, pool)

    def begin(self, body: bytes) -> asyncio.Future[bytes]:
        """Calls what a frame says. Those that begin later run later, where not side by side."""
        self.num_ongoing += 1
        loop = asyncio.get_running_loop()
        work: asyncio.Future[bytes]
        if self._pool is None:
            work = loop.create_task(self._on_loop(body))
        else:
            work = loop.run_in_executor(self._pool, self._in_thread, body)
        work.add_done_callback(self._ended)
        return work

    def _ended(self, _: Future[bytes] | asyncio.Future[bytes]) -> None:
        self.num_ongoing -= 1

    async def _on_loop(self, body: bytes) -> bytes:
        async with self._places:
            name, args, kwargs = _calls.loads(body)
            answer = self._method(name)(*args, **kwargs)
            if inspect.isawaitable(answer):
                answer = await answer
            return _calls.dumps(answer)

    def _in_thread(self, body: bytes) -> bytes:
        name, args, kwargs = _calls.loads(body)
        return _calls.dumps(self._method(name)(*args, **kwargs))

    def _method(self, name: str) -> Callable[..., Any]:
        method = getattr(self._target, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
        members = inspect.getmembers(type(self._target), callable)
        known = [one for one, _ in members if not one.startswith("_")]
        raise AttributeError(f"the actor has no method {name!r}\nit has {', '.join(known) or 'none'}")


def configured(load: Load, told: dict[str, Any]) -> DeploymentActorConfig:
    """What the actor is made from: what the code has, which need not be importable, where the configuration says just
    that; else what the configuration says."""
    actor = told["actor"]
    code = code_of(load(told["args"]), told["application"]).get(told["deployment"])
    for own in (code.options.get("deployment_actors") or ()) if code is not None else ():
        if _identity(_options.described_actor(own)) == _identity(actor):
            return cast(DeploymentActorConfig, own)
    return DeploymentActorConfig(
        name=actor["name"],
        actor_class=actor["actor_class"],
        init_args=actor.get("init_args", ()),
        init_kwargs=actor.get("init_kwargs", {}),
    )


def _identity(actor: dict[str, Any]) -> Any:
    made_from = [actor.get("init_args", []), actor.get("init_kwargs", {})]
    return json.loads(json.dumps([actor["name"], actor["actor_class"], *made_from]))


def _is_async(member: Any) -> bool:
    return inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)


# --- The socket -------------------------------------------------------------------------------------------------------


class Status:
    """What is said to whoever asks how the process is."""

    def __init__(self, sidecar: Sidecar, actor: Actor) -> None:
        self._sidecar = sidecar
        self._actor = actor

    async def handle(self, path: str, _: bytes) -> tuple[int, bytes]:
        if path != "/-/status":
            return 404, b""
        ongoing = self._actor.num_ongoing
        status = {"replica_id": self._sidecar.id, "state": "RUNNING", "ongoing": ongoing, "card": None}
        return 200, json.dumps(status).encode()


class _Connection(asyncio.Protocol):
    """The calls of one process."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._frames = _actors.Frames(self._take)
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, asyncio.Future[bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        # What was asked for is carried out all the same, as under Ray.
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._frames.feed(data)

    def _take(self, kind: int, number: int, body: bytes) -> None:
        if kind == _actors.CANCEL:
            work = self._calls.pop(number, None)
            if work is not None:
                work.cancel()
            return
        work = self._calls[number] = self._actor.begin(body)
        work.add_done_callback(lambda done: self._answer(number, done))

    def _answer(self, number: int, done: asyncio.Future[bytes]) -> None:
        self._calls.pop(number, None)
        kind, body = outcome(done)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_actors.frame(kind, number, body))


def outcome(done: asyncio.Future[bytes]) -> tuple[int, bytes]:
    """What goes back to whoever called: the kind of a frame, and what is in it."""
    if done.cancelled():
        return _actors.ERROR, _calls.cancelled("").encode()
    if error := done.exception():
        return _actors.ERROR, _calls.written(_shown(error)).encode()
    return _actors.VALUE, done.result()


def _shown(error: BaseException) -> BaseException:
    """It begins where the actor's code does."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return RayServeException("".join(traceback.format_exception(error)).rstrip())
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename in (__file__, concurrent.futures.thread.__file__):
        frames = frames.tb_next
    return error.with_traceback(frames)
