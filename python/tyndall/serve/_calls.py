"""Calls to replicas in other processes: pickles on their way, and what they end with."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, Protocol, TypeVar

from tyndall import _tyndall

from ._responses import END, LEFT_OUT, Stream
from .context import DeploymentID, _get_serve_request_context
from .exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RayTaskError,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from .handle import CallOptions, Router

T = TypeVar("T")

of_process: _tyndall.Caller | None = None
"""The replica's own way to deployments."""

loads = pickle.loads


def dumps(value: Any) -> bytes:
    """A pickle; of what only cloudpickle can write, such as a lambda, one of its."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:
        import cloudpickle  # type: ignore[import-untyped]

        try:
            pickled: bytes = cloudpickle.dumps(value)
        except Exception as error:
            raise TypeError(
                f"{type(value).__name__} cannot go to another process: {error}\n"
                "pass and return what can be pickled, such as numbers, texts, lists, arrays"
            ) from error
        return pickled


# --- Errors -----------------------------------------------------------------------------------------------------------


def cancelled(request_id: str) -> str:
    return json.dumps({"kind": "request_cancelled", "request_id": request_id})


def written(error: BaseException) -> str:
    """An exception, for whoever called."""
    text = "".join(traceback.format_exception(error)).rstrip()
    if not isinstance(error, Exception):
        # What would end a process, such as SystemExit, is not to end the caller's.
        return json.dumps({"kind": "user_error", "message": f"{text}\nraise an Exception for the caller to handle"})
    told = {"kind": "user_error", "message": text}
    try:
        told["exception"] = base64.b64encode(dumps(error)).decode()
    except Exception:
        # The text tells what it was.
        pass
    return json.dumps(told)


def read(told: str, deployment_id: DeploymentID, replica_id: str | None = None) -> BaseException:
    """The exception that a call ends with, at this replica if it was chosen before."""
    error = json.loads(told)
    kind, message = error["kind"], error.get("message", "")
    if kind == "user_error":
        return _raised(error, message)
    if kind == "back_pressure":
        return BackPressureError(
            error["num_queued_requests"], error["max_queued_requests"], error["status_code"], error.get("retry_after_s")
        )
    if kind == "deployment_unavailable":
        return DeploymentUnavailableError(deployment_id, error["reason"], error.get("retry_after_s"))
    if kind == "replica_unavailable":
        return ReplicaUnavailableError(replica_id, message)
    if kind == "request_cancelled":
        return RequestCancelledError(error["request_id"])
    if kind == "timeout":
        return TimeoutError(f"Request {error['request_id']} timed out after {error['timeout_s']}s.")
    return RayServeException(message)


def _raised(error: dict[str, Any], message: str) -> BaseException:
    """What the deployment's code has raised, with the traceback from there as its cause."""
    remote = RayTaskError(message)
    if "exception" in error:
        try:
            raised: BaseException = loads(base64.b64decode(error["exception"]))
        except Exception:
            return remote
        raised.__cause__ = remote
        return raised
    return remote


# --- The way to replicas ----------------------------------------------------------------------------------------------


class _Target:
    """What is called, and how, as the extension reads it."""

    __slots__ = (
        "application",
        "context",
        "deployment",
        "is_model",
        "method",
        "multiplexed_model_id",
        "session_id",
        "timeout_s",
    )

    def __init__(self, of: DeploymentID, method: str, options: CallOptions, is_model: bool = False) -> None:
        self.application = of.app_name
        self.deployment = of.name
        self.method = method
        self.context = _get_serve_request_context().native or _tyndall.Context(options.request_id)
        self.multiplexed_model_id = options.multiplexed_model_id
        self.session_id = options.session_id
        self.timeout_s = None
        self.is_model = is_model


def routers(caller: _tyndall.Caller, thread: int | None) -> Callable[[DeploymentID, str | None], Router]:
    """Makes routers that call by `caller`; `thread` is that of the loop in which Rust's outcomes arrive."""
    if thread is not None:
        global of_process
        of_process = caller

    def make(deployment_id: DeploymentID, model: str | None) -> Router:
        if model is None:
            return _Router(caller, thread, deployment_id)
        from ._model_calls import ModelRouter

        return ModelRouter(caller, thread, deployment_id, model)

    return make


class _Router:
    """Calls a deployment's replicas, wherever they are."""

    is_local = False

    def __init__(self, caller: _tyndall.Caller, thread: int | None, deployment_id: DeploymentID) -> None:
        self._caller = caller
        self._thread = thread
        self._deployment_id = deployment_id

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Future[Any]:
        target = self._target(method, options)
        return self._called(partial(self._caller.call, target, self._written(method, args, kwargs)))

    def stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Stream:
        target = self._target(method, options)
        body = self._written(method, args, kwargs, is_stream=True)
        return self._streamed(self._caller.stream(target, body, self._is_in_loop()))

    def choose_replica(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], is_stream: bool, options: CallOptions
    ) -> Future[_Place]:
        """A place that a replica keeps for a call; the arguments say what it is chosen for."""
        future: Future[_Place] = Future()

        def done(reservation: _tyndall.Reservation | None, error: str | None) -> None:
            try:
                if reservation is None:
                    assert error is not None, "an outcome is one of both"
                    future.set_exception(read(error, self._deployment_id))
                else:
                    future.set_result(_Place(self, method, reservation))
            except InvalidStateError:
                # It was cancelled a moment before.
                if reservation is not None:
                    reservation.give_back()

        target, body = self._target(method, options), self._hint(args, kwargs)
        return _ended_by(future, self._caller.reserve(target, body, is_stream, self._is_in_loop(), done))

    def broadcast(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions
    ) -> Future[list[Future[Any]]]:
        """A future for each replica that runs; cancelling one ends all."""
        opened: Future[list[Future[Any]]] = Future()
        parts: list[Future[Any]] = []

        def begun(count: int | None, error: str | None) -> None:
            try:
                if count is None:
                    assert error is not None, "an outcome is one of both"
                    opened.set_exception(read(error, self._deployment_id))
                else:
                    parts.extend(_ended_by(Future(), calling) for _ in range(count))
                    opened.set_result(parts)
            except InvalidStateError:
                # It was cancelled a moment before.
                pass

        def done(number: int, response: bytes | None, error: str | None) -> None:
            if response is None and error is None:
                with contextlib.suppress(InvalidStateError):
                    parts[number].set_result(LEFT_OUT)
            else:
                self._came(parts[number], response, error)

        target, body = self._target(method, options), self._written(method, args, kwargs)
        calling = _Later()
        calling.of(self._caller.broadcast(target, body, self._is_in_loop(), begun, done))
        return _ended_by(opened, calling)

    # What the other side understands.

    def _target(self, method: str, options: CallOptions) -> _Target:
        return _Target(self._deployment_id, method, options)

    def _written(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_stream: bool = False
    ) -> bytes:
        return dumps((args, kwargs))

    def _hint(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """What a replica is chosen for."""
        return dumps((args, kwargs))

    def _read(self, response: bytes) -> Any:
        return loads(response)

    def _read_item(self, item: bytes) -> Any:
        return loads(item)

    # ---

    def _called(
        self, begin: Callable[[bool, Callable[[bytes | None, str | None], None]], _Ending], replica_id: str | None = None
    ) -> Future[Any]:
        future: Future[Any] = Future()

        def done(response: bytes | None, error: str | None) -> None:
            self._came(future, response, error, replica_id)

        return _ended_by(future, begin(self._is_in_loop(), done))

    def _came(
        self, future: Future[Any], response: bytes | None, error: str | None, replica_id: str | None = None
    ) -> None:
        try:
            if response is None:
                assert error is not None, "an outcome is one of both"
                future.set_exception(read(error, self._deployment_id, replica_id))
            else:
                _finish(future, response, self._read)
        except InvalidStateError:
            # It was cancelled a moment before.
            pass

    def _streamed(self, items: _tyndall.Items, replica_id: str | None = None) -> Stream:
        return _Items(items, self._deployment_id, self._read_item, replica_id)

    def _is_in_loop(self) -> bool:
        return self._thread is not None and threading.get_ident() == self._thread


class _Ending(Protocol):
    """What ends a call."""

    def cancel(self) -> None: ...


class _Later:
    """Ends a call of which the begin may be told before it has an end."""

    _calling: _Ending | None = None
    _is_cancelled = False

    def of(self, calling: _Ending) -> None:
        self._calling = calling
        if self._is_cancelled:
            calling.cancel()

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._calling is not None:
            self._calling.cancel()


def _ended_by(future: Future[T], calling: _Ending) -> Future[T]:
    """Cancelling it ends the call."""
    future.add_done_callback(lambda ended: calling.cancel() if ended.cancelled() else None)
    return future


class _Place:
    """A place at a replica for one call of a method."""

    def __init__(self, router: _Router, method: str, reservation: _tyndall.Reservation) -> None:
        self._router = router
        self._method = method
        self._reservation = reservation

    @property
    def replica_id(self) -> str:
        return self._reservation.replica

    @property
    def replica_metadata(self) -> dict[str, Any]:
        return json.loads(self._reservation.metadata) or {}

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        body = self._router._written(self._method, args, kwargs)
        return self._router._called(partial(self._reservation.call, body), self.replica_id)

    def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Stream:
        body = self._router._written(self._method, args, kwargs, is_stream=True)
        items = self._reservation.stream(body, self._router._is_in_loop())
        return self._router._streamed(items, self.replica_id)

    def give_back(self) -> None:
        self._reservation.give_back()


def _finish(future: Future[Any], response: bytes, load: Callable[[bytes], Any]) -> None:
    try:
        value = load(response)
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(value)


class _Items:
    """Items come several at a time; whoever iterates gets them one by one."""

    def __init__(
        self,
        items: _tyndall.Items,
        deployment_id: DeploymentID,
        load: Callable[[bytes], Any],
        replica_id: str | None,
    ) -> None:
        self._items = items
        self._load = load
        self._deployment_id = deployment_id
        self._replica_id = replica_id
        self._ready: deque[bytes] = deque()
        self._error: str | None = None
        self._is_over = False

    def next(self) -> Future[Any]:
        future: Future[Any] = Future()
        if not self._take(future):
            self._items.next(lambda items, error, is_over: self._came(future, items, error, is_over))
        return future

    def _take(self, future: Future[Any]) -> bool:
        """Gives what is there."""
        try:
            if self._ready:
                _finish(future, self._ready.popleft(), self._load)
            elif self._error is not None:
                error, self._error = self._error, None
                future.set_exception(read(error, self._deployment_id, self._replica_id))
            elif self._is_over:
                future.set_result(END)
            else:
                return False
        except InvalidStateError:
            # It was cancelled a moment before.
            pass
        return True

    def _came(self, future: Future[Any], items: list[bytes], error: str | None, is_over: bool) -> None:
        self._ready.extend(items)
        self._error, self._is_over = error, is_over
        self._take(future)

    def cancel(self) -> None:
        self._items.cancel()
