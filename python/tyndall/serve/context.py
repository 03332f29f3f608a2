"""What runs now: the replica, and the request that it works on."""

from __future__ import annotations

import contextvars
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from tyndall import _tyndall

from .exceptions import RayServeException
from .gang import GangContext

__all__ = [
    "DeploymentActorContext",
    "DeploymentID",
    "ReplicaContext",
    "ReplicaID",
    "ReplicaRank",
    "RequestContext",
    "get_replica_context",
]

_FULL_ID_PREFIX = "SERVE_REPLICA::"


@dataclass(frozen=True)
class DeploymentID:
    """A deployment of an application."""

    name: str
    app_name: str = "default"

    def __str__(self) -> str:
        return f"Deployment(name='{self.name}', app='{self.app_name}')"

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class ReplicaID:
    """A replica, for its whole life."""

    unique_id: str
    deployment_id: DeploymentID

    def to_full_id_str(self) -> str:
        """With the deployment and the application, `#` between them."""
        return f"{_FULL_ID_PREFIX}{self.deployment_id.app_name}#{self.deployment_id.name}#{self.unique_id}"

    @staticmethod
    def is_full_id_str(text: str) -> bool:
        return text.startswith(_FULL_ID_PREFIX)

    @classmethod
    def from_full_id_str(cls, text: str) -> ReplicaID:
        """Of what `to_full_id_str` gives. Raises ValueError for anything else."""
        names = text.removeprefix(_FULL_ID_PREFIX).split("#")
        if not cls.is_full_id_str(text) or len(names) not in (2, 3):
            raise ValueError(f"{text!r} is no full id of a replica\nwrite one as to_full_id_str() gives it")
        app_name, name, unique_id = ["", *names][-3:]
        return cls(unique_id, DeploymentID(name, app_name))

    def __str__(self) -> str:
        of = self.deployment_id
        return f"Replica(id='{self.unique_id}', deployment='{of.name}', app='{of.app_name}')"

    def __repr__(self) -> str:
        return str(self)


@dataclass(order=True)
class TimeStampedValue:
    """A point of a metric."""

    timestamp: float
    value: float = field(compare=False)


@dataclass(frozen=True)
class ReplicaRank:
    """Which of the replicas of its deployment it is, from 0 on."""

    rank: int = 0
    node_rank: int = 0
    local_rank: int = 0


@dataclass(frozen=True)
class ReplicaContext:
    """The replica that runs now."""

    replica_id: ReplicaID
    servable_object: Any = None
    """The object of the deployment's class, or the function."""
    rank: ReplicaRank = field(default_factory=ReplicaRank)
    world_size: int = 1
    """Replicas that the deployment shall have, not those that there are."""
    code_version: str | None = None
    gang_context: GangContext | None = None
    """Which of its gang it is; absent where its deployment has no gangs."""
    max_ongoing_requests: int = 5

    @property
    def app_name(self) -> str:
        return self.replica_id.deployment_id.app_name

    @property
    def deployment(self) -> str:
        return self.replica_id.deployment_id.name

    @property
    def replica_tag(self) -> str:
        return self.replica_id.unique_id


@dataclass(frozen=True)
class DeploymentActorContext:
    """The actor that runs now."""

    deployment_id: DeploymentID
    actor_name: str
    code_version: str | None = None

    @property
    def app_name(self) -> str:
        return self.deployment_id.app_name

    @property
    def deployment(self) -> str:
        return self.deployment_id.name


_OF_ACTOR = "RAY_SERVE_INTERNAL_DEPLOYMENT_"


def get_deployment_actor_context() -> DeploymentActorContext | None:
    """None where this process is no actor of a deployment."""
    told = [os.environ.get(_OF_ACTOR + name) for name in ("NAME", "APP_NAME", "ACTOR_NAME")]
    if not all(told):
        return None
    name, app_name, actor_name = map(str, told)
    return DeploymentActorContext(DeploymentID(name, app_name), actor_name, os.environ.get(f"{_OF_ACTOR}CODE_VERSION"))


class Children:
    """The calls that a request has made and that have not ended."""

    # Most requests make none: what all share costs them nothing.
    _lock = threading.Lock()
    _calls: set[Future[Any]] | None = None
    _is_cancelled = False

    def add(self, call: Future[Any]) -> None:
        """Ends with its request from now on; at once, if the request has been cancelled."""
        with self._lock:
            is_late = self._is_cancelled
            if not is_late:
                if self._calls is None:
                    self._calls = set()
                self._calls.add(call)
        if is_late:
            call.cancel()
        else:
            call.add_done_callback(self._discard)

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
            calls = list(self._calls or ())
        for call in calls:
            call.cancel()

    def _discard(self, call: Future[Any]) -> None:
        with self._lock:
            if self._calls is not None:
                self._calls.discard(call)


@dataclass(frozen=True)
class RequestContext:
    """The request that is worked on now; calls that it makes inherit from it."""

    route: str = ""
    request_id: str = ""
    _internal_request_id: str = ""
    app_name: str = ""
    multiplexed_model_id: str = ""
    session_id: str = ""
    is_http_request: bool = False
    grpc_context: Any = None
    children: Children | None = field(default=None, compare=False, repr=False)
    """What whoever runs the request cancels with it; absent outside of a request."""
    native: _tyndall.Context | None = field(default=None, compare=False, repr=False)
    """What calls of the request hand on; absent outside of a replica."""


_NO_REQUEST = RequestContext()

_serve_request_context: contextvars.ContextVar[RequestContext] = contextvars.ContextVar(
    "serve_request_context", default=_NO_REQUEST
)
_serve_batch_request_context: contextvars.ContextVar[tuple[RequestContext, ...]] = contextvars.ContextVar(
    "serve_batch_request_context", default=()
)

# A process of its own has one replica; in local testing mode each call says whose it is.
_replica_of_process: ReplicaContext | None = None
_replica_of_call: contextvars.ContextVar[ReplicaContext | None] = contextvars.ContextVar(
    "serve_replica_context", default=None
)


def _get_serve_request_context() -> RequestContext:
    return _serve_request_context.get()


def _enter_request(native: _tyndall.Context, app_name: str, *, is_http: bool, grpc_context: Any = None) -> Children:
    """Makes this the request of the task that runs now; gives the calls that are to end with it."""
    children = Children()
    entered = object.__new__(RequestContext)
    # Each request does this: the constructor of a frozen class sets one field after the other.
    entered.__dict__.update(
        route=native.root_path or "/",
        request_id=native.request_id,
        _internal_request_id="",
        app_name=app_name,
        multiplexed_model_id=native.multiplexed_model_id,
        session_id=native.session_id,
        is_http_request=is_http,
        grpc_context=grpc_context,
        children=children,
        native=native,
    )
    _serve_request_context.set(entered)
    return children


def _set_request_context(**changes: Any) -> None:
    """Changes fields of the current request's context, for what runs in it from now on."""
    _serve_request_context.set(replace(_serve_request_context.get(), **changes))


def _get_internal_replica_context() -> ReplicaContext | None:
    return _replica_of_call.get() or _replica_of_process


def _set_internal_replica_context(context: ReplicaContext | None) -> None:
    """Says which replica this process is."""
    global _replica_of_process
    _replica_of_process = context


def get_replica_context() -> ReplicaContext:
    """The replica that runs this.

    Raises RayServeException outside of a replica.
    """
    context = _get_internal_replica_context()
    if context is None:
        raise RayServeException(
            "`serve.get_replica_context()` may only be called from within a Serve replica.\n"
            "call it in a method of a deployment"
        )
    return context


def get_multiplexed_model_id() -> str:
    """The model that the current request means, in a batch the one that all its requests mean; else an empty text."""
    batch = _serve_batch_request_context.get()
    return batch[0].multiplexed_model_id if batch else _serve_request_context.get().multiplexed_model_id
