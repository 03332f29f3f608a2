"""Handles: the client side of calls between deployments.

Here is what a call means; how it gets to a replica is the business of a `Router`. There is one for deployments in this
process (`_local_testing`), and one for those in processes of their own.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from . import _futures
from ._checks import misfit, shown
from ._options import DEFAULT, Default
from ._responses import (
    DeploymentBroadcastResponse,
    DeploymentResponse,
    DeploymentResponseGenerator,
    Stream,
)
from ._router import router_of
from .context import DeploymentID, _get_serve_request_context

__all__ = [
    "CallOptions",
    "DeploymentBroadcastResponse",
    "DeploymentHandle",
    "DeploymentResponse",
    "DeploymentResponseGenerator",
    "Place",
    "ReplicaSelection",
    "Router",
    "Stream",
]

T = TypeVar("T")
"""The class of the deployment, for readers."""

_PROCESS = os.urandom(16).hex()
_numbers = itertools.count()
"""With the above, an id for each call."""

_SERIALIZATIONS = ("cloudpickle", "pickle", "msgpack", "orjson")
_NO_STREAMS = (
    "the stream of a call cannot be an argument of another call\ncollect what it gives, or pass items one by one"
)


class CallOptions(NamedTuple):
    """What goes with a call to the replica."""

    request_id: str
    """The same in all calls that one request from outside leads to."""
    internal_request_id: str
    """Of this call alone."""
    route: str = ""
    app_name: str = ""
    """The application that the request came to."""
    multiplexed_model_id: str = ""
    session_id: str = ""
    request_serialization: str = "cloudpickle"
    response_serialization: str = "cloudpickle"


class Router(Protocol):
    """Gets calls to replicas of one deployment.

    A future that it gives is pending until the answer is there, so that `cancel` on it takes effect; the router adds a
    callback to it and ends the request then.
    """

    is_local: bool
    """Whether it belongs to local testing mode, in which a copy of a handle stays in this process."""

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Future[Any]:
        """Begins a call. Errors of any kind come in the future."""
        ...

    def stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Stream:
        """Begins a call that gives items."""
        ...


class Place(Protocol):
    """A place that a replica keeps for one call. A router that knows how has `choose_replica`, which gives one."""

    @property
    def replica_id(self) -> str: ...

    @property
    def replica_metadata(self) -> dict[str, Any]:
        """What the replica said of itself when it started."""
        ...

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """Makes the call, once."""
        ...

    def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Stream:
        """Makes the call of a place that was chosen for a stream, once."""
        ...

    def give_back(self) -> None:
        """It is not wanted any more; after the call has begun this does nothing."""
        ...


@dataclass(frozen=True)
class ReplicaSelection:
    """A replica that keeps a place for one call."""

    replica_id: str
    deployment_id: DeploymentID
    node_ip: str = "127.0.0.1"
    port: int | None = None
    node_id: str = ""
    availability_zone: str | None = None
    replica_metadata: dict[str, Any] = field(default_factory=dict)
    _chosen: _Chosen | None = field(default=None, repr=False, compare=False)

    @property
    def address(self) -> str:
        return self.node_ip if self.port is None else f"{self.node_ip}:{self.port}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "replica_id": self.replica_id,
            "node_ip": self.node_ip,
            "port": self.port,
            "node_id": self.node_id,
            "availability_zone": self.availability_zone,
            "replica_metadata": self.replica_metadata,
        }


@dataclass(frozen=True)
class _HandleOptions:
    """What is the same for all calls of a handle."""

    method_name: str = "__call__"
    multiplexed_model_id: str = ""
    session_id: str = ""
    stream: bool = False
    by_reference: bool = True
    request_serialization: str = "cloudpickle"
    response_serialization: str = "cloudpickle"

    def __post_init__(self) -> None:
        for name in ("method_name", "multiplexed_model_id", "session_id"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"{name} is {shown(value)}, of type {type(value).__name__}\nuse a text")
        for name in ("request_serialization", "response_serialization"):
            if getattr(self, name) not in _SERIALIZATIONS:
                raise misfit(name, getattr(self, name), f"one of {', '.join(_SERIALIZATIONS)}")


class DeploymentHandle(Generic[T]):
    """Calls a deployment: `handle.remote(...)`, or `handle.method.remote(...)`.

    Copies with other options share the way to the replicas. A handle can be pickled: it is a name then.
    """

    _shared: _Shared
    _handle_options: _HandleOptions

    def __init__(
        self,
        deployment_name: str,
        app_name: str = "default",
        *,
        router: Router | None = None,
        model: str | None = None,
        _shared: _Shared | None = None,
        _options: _HandleOptions | None = None,
    ) -> None:
        self.deployment_id = DeploymentID(deployment_name, app_name)
        self._shared = _shared or _Shared(self.deployment_id, router, model)
        self._handle_options = _options or _HandleOptions()

    @property
    def deployment_name(self) -> str:
        return self.deployment_id.name

    @property
    def app_name(self) -> str:
        return self.deployment_id.app_name

    @property
    def is_initialized(self) -> bool:
        return self._shared.is_initialized

    def _init(self, **options: Any) -> None:
        """Sets how the handle routes, once, and before anything else is done with it."""
        if self._shared.is_initialized:
            raise RuntimeError(
                f"the handle of {self.deployment_name!r} has been initialized\n"
                "call `_init` once, and before `.options()`, a method or `.remote()`"
            )
        known = ("_prefer_local_routing", "_source", "_run_router_in_separate_loop")
        for name in options:
            if name not in known:
                raise TypeError(f"`_init` takes no {name!r}\nit takes {', '.join(known)}")
        self._shared.is_initialized = True

    def options(
        self,
        *,
        method_name: Default | str = DEFAULT,
        multiplexed_model_id: Default | str = DEFAULT,
        session_id: Default | str = DEFAULT,
        stream: Default | bool = DEFAULT,
        _prefer_local_routing: Default | bool = DEFAULT,
        _by_reference: Default | bool = DEFAULT,
        request_serialization: Default | str = DEFAULT,
        response_serialization: Default | str = DEFAULT,
    ) -> DeploymentHandle[T]:
        """A handle with these options; this one stays as it is."""
        if _prefer_local_routing is not DEFAULT:
            message = (
                "_prefer_local_routing of options() is deprecated and has no effect: this machine is the only node"
            )
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        given = {
            "method_name": method_name,
            "multiplexed_model_id": multiplexed_model_id,
            "session_id": session_id,
            "stream": stream,
            "by_reference": _by_reference,
            "request_serialization": request_serialization,
            "response_serialization": response_serialization,
        }
        self._shared.is_initialized = True
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not DEFAULT}
        return self._with(replace(self._handle_options, **changes))

    def _with(self, options: _HandleOptions) -> DeploymentHandle[T]:
        return DeploymentHandle(self.deployment_name, self.app_name, _shared=self._shared, _options=options)

    def __getattr__(self, name: str) -> DeploymentHandle[T]:
        # Python itself asks for names like these, for instance when it copies or pickles.
        is_python = name.startswith("__") and name.endswith("__") and name != "__call__"
        if is_python or name in ("_shared", "_handle_options"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        method = self.options(method_name=name)
        # The next one who asks does not come here.
        self.__dict__[name] = method
        return method

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Begins a call and gives a `DeploymentResponse`, with `stream=True` a `DeploymentResponseGenerator`.

        Responses of other calls among the arguments become what they give; the call begins when all are there.
        """
        self._shared.is_initialized = True
        handle, options = self._handle_options, self._call_options()
        router, method = self._shared.router, handle.method_name
        return _response(
            handle,
            options,
            lambda: _with_responses(args, kwargs, lambda args, kwargs: router().call(method, args, kwargs, options)),
            lambda: _with_responses(
                args, kwargs, lambda args, kwargs: _futures.done(router().stream(method, args, kwargs, options))
            ),
        )

    def broadcast(self, method_name: str, *args: Any, **kwargs: Any) -> DeploymentBroadcastResponse:
        """Calls a method of all replicas that run, also of those that are full: they take it in its turn.

        Nobody is woken, and `max_queued_requests` does not bound it.
        """
        self._shared.is_initialized = True
        options = self._call_options()
        broadcast: Callable[..., Future[list[Future[Any]]]] = self._ability("broadcast")

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[list[Future[Any]]]:
            return broadcast(method_name, args, kwargs, options)

        response = DeploymentBroadcastResponse(
            lambda: _futures.attempt(lambda: _with_responses(args, kwargs, begin)),
            self.deployment_id,
            options.request_id,
        )
        _adopt(response._whole)
        return response

    def choose_replica(self, *args: Any, **kwargs: Any) -> AbstractAsyncContextManager[ReplicaSelection]:
        """Has a replica keep a place for one call, which `dispatch` makes: `async with handle.choose_replica() as chosen`.

        The method, the options and whether it streams are those of this handle. The place counts among the replica's
        `max_ongoing_requests`; it is given back when the block ends without a `dispatch`, and when the time of the
        request is over. The arguments are those of the choice alone; responses among them are waited for.
        """
        self._shared.is_initialized = True
        handle, options = self._handle_options, self._call_options()
        choose: Callable[..., Future[Place]] = self._ability("choose_replica")
        return _choosing(
            self.deployment_id,
            handle,
            options,
            lambda: _with_responses(
                args, kwargs, lambda args, kwargs: choose(handle.method_name, args, kwargs, handle.stream, options)
            ),
        )

    def dispatch(self, selection: ReplicaSelection, *args: Any, **kwargs: Any) -> Any:
        """Makes the call for which a replica keeps a place, once, and gives what `remote` gives.

        The response has ReplicaUnavailableError where the replica is lost: the call goes to no other.
        """
        chosen = selection._chosen
        if selection.deployment_id != self.deployment_id or chosen is None:
            raise ValueError(
                f"the selection is a replica of {selection.deployment_id}, not of {self.deployment_id}\n"
                "dispatch with the handle that chose it"
            )
        return chosen.dispatch(args, kwargs)

    def _ability(self, name: str) -> Any:
        """What not every router can do."""
        ability = getattr(self._shared.router(), name, None)
        if ability is None:
            where = "in local testing mode" if self._shared.router().is_local else "yet"
            raise NotImplementedError(f"{name} is not there {where}\nmake the call with `.remote()`")
        return ability

    def running_replicas_populated(self) -> bool:
        """Whether a call would find a replica."""
        populated = getattr(self._shared.router(), "running_replicas_populated", None)
        return bool(populated()) if populated is not None else True

    def shutdown(self) -> None:
        """Lets go of the way to the replicas; the handle is not used afterwards."""
        self._shared.close()

    async def shutdown_async(self) -> None:
        self._shared.close()

    def _call_options(self) -> CallOptions:
        """What the call inherits from the request that makes it; the model is not among it."""
        current, own = _get_serve_request_context(), self._handle_options
        return CallOptions(
            request_id=current.request_id or _new_request_id(),
            internal_request_id=f"{_PROCESS}-{next(_numbers)}",
            route=current.route,
            app_name=current.app_name or self.app_name,
            multiplexed_model_id=own.multiplexed_model_id,
            session_id=own.session_id,
            request_serialization=own.request_serialization,
            response_serialization=own.response_serialization,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeploymentHandle):
            return NotImplemented
        return (self.deployment_id, self._handle_options) == (other.deployment_id, other._handle_options)

    def __hash__(self) -> int:
        return hash((self.deployment_id, self._handle_options))

    def __repr__(self) -> str:
        return f"DeploymentHandle(deployment='{self.deployment_name}')"

    def __reduce__(self) -> tuple[Callable[..., DeploymentHandle[T]], tuple[Any, ...]]:
        shared = self._shared
        return _restore, (self.deployment_name, self.app_name, self._handle_options, shared.is_local, shared.model)


class _Shared:
    """What a handle and its copies with other options have in common."""

    def __init__(self, deployment_id: DeploymentID, router: Router | None, model: str | None) -> None:
        self._deployment_id = deployment_id
        self.model = model
        """The id of the model that the deployment is."""
        self._router = router
        self.is_initialized = False

    @property
    def is_local(self) -> bool:
        return self._router is not None and self._router.is_local

    def router(self) -> Router:
        if self._router is None:
            self._router = router_of(self._deployment_id, self.model)
        return self._router

    def close(self) -> None:
        close = getattr(self._router, "close", None)
        if close is not None:
            close()


def _new_request_id() -> str:
    import uuid

    return str(uuid.uuid4())


def _restore(
    deployment_name: str, app_name: str, options: _HandleOptions, is_local: bool, model: str | None = None
) -> DeploymentHandle[Any]:
    router: Router | None = None
    if is_local:
        from ._local_testing import LocalRouter

        router = LocalRouter(DeploymentID(deployment_name, app_name))
    return DeploymentHandle(deployment_name, app_name, router=router, model=model, _options=options)


class _Chosen:
    """The place of a selection, and what was said when it was chosen."""

    def __init__(self, place: Place, handle: _HandleOptions, options: CallOptions) -> None:
        self._place = place
        self._handle = handle
        self._options = options
        self._is_dispatched = False
        self._is_over = False

    def dispatch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = self._place
        return _response(
            self._handle,
            self._options,
            lambda: self._once(lambda: _with_responses(args, kwargs, place.call)),
            lambda: self._once(
                lambda: _with_responses(args, kwargs, lambda args, kwargs: _futures.done(place.stream(args, kwargs)))
            ),
        )

    def _once(self, begin: Callable[[], Future[Any]]) -> Future[Any]:
        replica_id = self._place.replica_id
        if self._is_dispatched:
            raise RuntimeError(f"the place at replica {replica_id} has been used by a dispatch\nchoose again")
        if self._is_over:
            raise RuntimeError(
                f"the place at replica {replica_id} has been given back\ndispatch within `async with`"
            )
        self._is_dispatched = True
        future = _futures.attempt(begin)
        # It is still there where the arguments never came to be.
        future.add_done_callback(lambda _: self._place.give_back())
        return future

    def end(self) -> None:
        """The block is over, in which it was chosen."""
        self._is_over = True
        if not self._is_dispatched:
            self._place.give_back()


@asynccontextmanager
async def _choosing(
    deployment_id: DeploymentID, handle: _HandleOptions, options: CallOptions, choose: Callable[[], Future[Place]]
) -> AsyncIterator[ReplicaSelection]:
    future = _futures.attempt(choose)
    _adopt(future)
    try:
        place: Place = await DeploymentResponse(future, options.request_id)
    except BaseException:
        if future.done() and not future.cancelled() and future.exception() is None:
            # It came while nobody waited any more.
            future.result().give_back()
        raise
    chosen = _Chosen(place, handle, options)
    try:
        yield ReplicaSelection(
            place.replica_id, deployment_id, replica_metadata=place.replica_metadata, _chosen=chosen
        )
    finally:
        chosen.end()


def _response(
    handle: _HandleOptions,
    options: CallOptions,
    call: Callable[[], Future[Any]],
    stream: Callable[[], Future[Stream]],
) -> Any:
    """The response of a call that is begun in one of both ways."""
    kind = DeploymentResponseGenerator if handle.stream else DeploymentResponse
    future = _futures.attempt(stream if handle.stream else call)
    response: Any = kind(future, options.request_id, by_reference=handle.by_reference)
    _adopt(response._whole)
    return response


def _adopt(call: Future[Any]) -> None:
    """The call ends with the request that makes it."""
    children = _get_serve_request_context().children
    if children is not None:
        children.add(call)


def _with_responses(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    begin: Callable[[tuple[Any, ...], dict[str, Any]], Future[Any]],
) -> Future[Any]:
    """Begins a call when the responses among its arguments are there."""
    given = [*args, *kwargs.values()]
    waited: list[Future[Any]] = []
    for one in given:
        if isinstance(one, DeploymentResponse):
            waited.append(one._future)
        elif isinstance(one, DeploymentResponseGenerator):
            raise RuntimeError(_NO_STREAMS)
    if not waited:
        return begin(args, kwargs)

    def resolved(answers: list[Any]) -> Future[Any]:
        left = iter(answers)
        # In the order in which they were collected.
        values = [next(left) if isinstance(one, DeploymentResponse) else one for one in given]
        return begin(tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True)))

    return _futures.after(waited, resolved)
