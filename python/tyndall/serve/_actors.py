"""Actors of a deployment, as its replicas call them.

Each is an object in a process of its own (`_actor`), behind a socket whose name follows from whose actor it is: the
process that takes its place has the same. A process that calls has one connection to each, so that calls arrive in the
order in which they were made, and one thread for all of them: who waits may hold up a loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, Protocol, cast

from . import _calls, _futures
from ._responses import DeploymentResponse, R, _deadline
from .context import DeploymentID, ReplicaContext
from .exceptions import BackPressureError, DeploymentActorUnavailableError, RayServeException
from .handle import _with_responses

MAX_PENDING_CALLS: Final = 10_000
"""Of one process to one actor, where the deployment does not say."""

PATH: Final = "/-/calls"
"""Where the connection of calls begins, as a request that asks for another protocol."""

HEAD: Final = struct.Struct(">BQQ")
"""Of a frame: what it is, the number of the call, and the length of what follows."""

CALL, CANCEL, VALUE, ERROR = range(4)

_REQUEST: Final = f"POST {PATH} HTTP/1.1\r\nhost: actor\r\nconnection: upgrade\r\nupgrade: tyndall-calls\r\n\r\n"


def socket(runtime_dir: Path, of: DeploymentID, code_version: str | None, actor_name: str) -> Path:
    """Where an actor of replicas of this code is called."""
    names = json.dumps([of.app_name, of.name, code_version, actor_name])
    return runtime_dir / f"actor-{hashlib.sha256(names.encode()).hexdigest()[:32]}.sock"


class Frames:
    """What comes on a connection, cut into frames."""

    def __init__(self, take: Callable[[int, int, bytes], None]) -> None:
        self._take = take
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= HEAD.size:
            kind, number, length = HEAD.unpack_from(self._buffer, at)
            begin = at + HEAD.size
            if len(self._buffer) - begin < length:
                break
            body = bytes(self._buffer[begin : begin + length])
            at = begin + length
            self._take(kind, number, body)
        del self._buffer[:at]


def frame(kind: int, number: int, body: bytes = b"") -> bytes:
    return HEAD.pack(kind, number, len(body)) + body


# --- Handles ----------------------------------------------------------------------------------------------------------


class ActorName(NamedTuple):
    """Which actor, and how it is reached."""

    deployment_id: DeploymentID
    actor_name: str
    socket: str
    max_pending_calls: int

    def __str__(self) -> str:
        return f"the deployment actor {self.actor_name!r} of {self.deployment_id}"


class ActorResponse(DeploymentResponse[R]):
    """The answer of an actor. Other than that of a deployment it can be waited for in an event loop, as under Ray: the
    loop is held up, and the answer comes by another thread."""

    def result(self, *, timeout_s: float | None = None) -> R:
        answer: R = self._result(self._future, _deadline(timeout_s))
        return answer


class ActorMethod:
    """A method of an actor."""

    def __init__(self, of: ActorName, name: str) -> None:
        self._of = of
        self._name = name

    def remote(self, *args: Any, **kwargs: Any) -> ActorResponse[Any]:
        """Begins a call. Responses of other calls among the arguments become what they give."""

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
            return _way(self._of).call(_calls.dumps((self._name, args, kwargs)))

        future = _futures.attempt(lambda: _with_responses(args, kwargs, begin))
        return ActorResponse(future, str(uuid.uuid4()))

    def options(self, **options: Any) -> ActorMethod:
        """Raises ValueError for all that says more than a name."""
        if stray := [name for name in options if name != "name"]:
            raise ValueError(f"calls of actors have no {', '.join(stray)}\ncall the method without options")
        return self

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"a method of an actor runs in its process\ncall it with .{self._name}.remote()")

    def __repr__(self) -> str:
        return f"ActorMethod({self._of.actor_name}.{self._name})"


class ActorHandle:
    """Calls an actor: `await handle.method.remote(...)`. It can be pickled: it is a name then."""

    def __init__(self, name: ActorName) -> None:
        self._name = name

    def __getattr__(self, name: str) -> ActorMethod:
        # Python itself asks for names like these, for instance when it copies or pickles.
        is_python = name.startswith("__") and name.endswith("__") and name != "__call__"
        if is_python or name == "_name":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        method = ActorMethod(self._name, name)
        # The next one who asks does not come here.
        self.__dict__[name] = method
        return method

    def __eq__(self, other: object) -> bool:
        return self._name == other._name if isinstance(other, ActorHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"ActorHandle(deployment='{self._name.deployment_id.name}', actor='{self._name.actor_name}')"

    def __reduce__(self) -> tuple[type[ActorHandle], tuple[ActorName]]:
        return ActorHandle, (self._name,)


_of_replica: dict[str, ActorName] = {}
"""Those of this process's replica, by name."""


def install(runtime_dir: Path, context: ReplicaContext, actors: list[Mapping[str, Any]]) -> None:
    """This process is a replica whose deployment has these actors."""
    of = context.replica_id.deployment_id
    for actor in actors:
        path = socket(runtime_dir, of, context.code_version, actor["name"])
        most = actor.get("max_pending_calls") or MAX_PENDING_CALLS
        _of_replica[actor["name"]] = ActorName(of, actor["name"], str(path), most)


def of_replica(actor_name: str, actors: Mapping[str, ActorName] = _of_replica) -> ActorHandle:
    """Raises ValueError where the replica's deployment has no actor of this name."""
    found = actors.get(actor_name)
    if found is None:
        known = ", ".join(actors) or "none"
        raise ValueError(f"the deployment has no actor {actor_name!r}\nname it in deployment_actors; there is {known}")
    return ActorHandle(found)


# --- The way to an actor ----------------------------------------------------------------------------------------------


class Way(Protocol):
    """How an actor is called."""

    def call(self, body: bytes) -> Future[Any]:
        """Begins a call, with a pickle of the method's name, the arguments, and those by name."""
        ...


class _Way:
    """The calls of this process to one actor. What has an underscore runs in the loop of all ways."""

    def __init__(self, of: ActorName, loop: asyncio.AbstractEventLoop) -> None:
        self._of = of
        self._loop = loop
        self._lock = threading.Lock()
        self._num_pending = 0
        self._number = 0
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[bytes, Future[Any]]] = deque()
        """For the connection."""

    def call(self, body: bytes) -> Future[Any]:
        """Begins a call. Raises BackPressureError where too many are under way."""
        future: Future[Any] = Future()
        with self._lock:
            if self._num_pending >= self._of.max_pending_calls:
                raise BackPressureError(self._num_pending, self._of.max_pending_calls)
            self._num_pending += 1
        future.add_done_callback(self._ended)
        self._loop.call_soon_threadsafe(self._begin, body, future)
        return future

    def _ended(self, _: Future[Any]) -> None:
        with self._lock:
            self._num_pending -= 1

    def _begin(self, body: bytes, future: Future[Any]) -> None:
        if self._connection is not None:
            self._send(self._connection, body, future)
            return
        self._waiting.append((body, future))
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            _, connection = await self._loop.create_unix_connection(lambda: _Connection(self), self._of.socket)
        except OSError:
            # Nobody knows that it will be back soon, and the caller knows best whether to wait.
            reason = f"{self._of} is not there now\ncall again when it has been started again"
            while self._waiting:
                _fail(self._waiting.popleft()[1], DeploymentActorUnavailableError(self._of.actor_name, reason))
        else:
            if not connection.is_lost:
                self._connection = connection
            while self._waiting:
                self._send(connection, *self._waiting.popleft())
            if connection.is_lost:
                connection.fail()
        finally:
            self._connecting = None

    def _send(self, connection: _Connection, body: bytes, future: Future[Any]) -> None:
        if future.done():
            # It was cancelled before it was sent.
            return
        self._number += 1
        number = self._number
        connection.calls[number] = future
        connection.write(frame(CALL, number, body))
        future.add_done_callback(lambda done: self._cancel(connection, number) if done.cancelled() else None)

    def _cancel(self, connection: _Connection, number: int) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(connection.cancel, number)

    def _lost(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection = None
        connection.fail()

    def _gone(self) -> DeploymentActorUnavailableError:
        reason = f"{self._of} ended while it was called: whether the call was carried out is not known"
        return DeploymentActorUnavailableError(self._of.actor_name, reason)

    def _came(self, future: Future[Any], kind: int, body: bytes) -> None:
        came(self._of, future, kind, body)


def came(of: ActorName, future: Future[Any], kind: int, body: bytes) -> None:
    """What an actor has answered."""
    try:
        if kind == VALUE:
            _calls._finish(future, body, _calls.loads)
        else:
            future.set_exception(_calls.read(body.decode(), of.deployment_id))
    except InvalidStateError:
        # It was cancelled a moment before.
        pass


class _Connection(asyncio.Protocol):
    """One to an actor's process, and the calls that are under way on it."""

    def __init__(self, way: _Way) -> None:
        self._way = way
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._is_open = False
        self._frames = Frames(self._take)
        self.calls: dict[int, Future[Any]] = {}
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(_REQUEST.encode())

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.is_lost:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if not self._is_open:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            self._is_open, data = True, bytes(self._head[end + 4 :])
        self._frames.feed(data)

    def _take(self, kind: int, number: int, body: bytes) -> None:
        future = self.calls.pop(number, None)
        if future is not None:
            self._way._came(future, kind, body)

    def cancel(self, number: int) -> None:
        if self.calls.pop(number, None) is not None:
            self.write(frame(CANCEL, number))

    def connection_lost(self, _: Exception | None) -> None:
        self.is_lost = True
        self._way._lost(self)

    def fail(self) -> None:
        calls, self.calls = self.calls, {}
        for future in calls.values():
            _fail(future, self._way._gone())


def _fail(future: Future[Any], error: BaseException) -> None:
    try:
        future.set_exception(error)
    except InvalidStateError:
        # It was cancelled a moment before.
        pass


_lock = threading.Lock()
_ways: dict[str, Way] = {}
"""By the socket of the actor."""

LOCAL: Final = "local:"
"""Begins what stands for the socket of an actor in this process."""

_loop: asyncio.AbstractEventLoop | None = None


def know(socket: str, way: Way | None) -> None:
    """From now on an actor of this process is called so; None is that it is gone."""
    with _lock:
        if way is None:
            _ways.pop(socket, None)
        else:
            _ways[socket] = way


def _way(of: ActorName) -> Way:
    global _loop
    with _lock:
        if of.socket.startswith(LOCAL) and of.socket not in _ways:
            raise DeploymentActorUnavailableError(of.actor_name, f"{of} does not run in this process.")
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="actors", daemon=True).start()
        way = _ways.get(of.socket)
        if way is None:
            way = _ways[of.socket] = _Way(of, _loop)
        return way


def not_a_replica() -> RayServeException:
    return RayServeException(
        "`serve.get_deployment_actor()` may only be called from within a Ray Serve deployment replica.\n"
        "call it in the code of a deployment that has deployment_actors"
    )
