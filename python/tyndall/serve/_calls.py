"""Calls to replicas in other processes: pickles on their way, and what they end with."""

from __future__ import annotations

import base64
import json
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any

from tyndall import _tyndall

from ._responses import END, Stream
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

"""Where the request that is worked on now comes from."""

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


def read(told: str, deployment_id: DeploymentID) -> BaseException:
    """The exception that a call ends with."""
    error = json.loads(told)
    kind, message = error["kind"], error.get("message", "")
    if kind == "user_error":
        return _raised(error, message)
    if kind == "back_pressure":
        return BackPressureError(
            error["num_queued_requests"], error["max_queued_requests"], error["status_code"], error.get("retry_after_s")
        )
    if kind == "deployment_unavailable":
        return DeploymentUnavailableError(deployment_id, error["reason"])
    if kind == "replica_unavailable":
        return ReplicaUnavailableError(None, message)
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
        return self._call(_Target(self._deployment_id, method, options), dumps((args, kwargs)), _loaded)

    def _call(self, target: _Target, body: bytes, load: Callable[[bytes], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        of = self._deployment_id

        def done(response: bytes | None, error: str | None) -> None:
            try:
                if response is None:
                    assert error is not None, "an outcome is one of both"
                    future.set_exception(read(error, of))
                else:
                    _finish(future, response, load)
            except InvalidStateError:
                # It was cancelled a moment before.
                pass

        calling = self._caller.call(target, body, self._is_in_loop(), done)
        future.add_done_callback(lambda ended: calling.cancel() if ended.cancelled() else None)
        return future

    def stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Stream:
        return self._stream(_Target(self._deployment_id, method, options), dumps((args, kwargs)), _loaded)

    def _stream(self, target: _Target, body: bytes, load: Callable[[bytes], Any]) -> Stream:
        items = self._caller.stream(target, body, self._is_in_loop())
        return _Items(items, self._deployment_id, load)

    def _is_in_loop(self) -> bool:
        return self._thread is not None and threading.get_ident() == self._thread


def _loaded(response: bytes) -> Any:
    return loads(response)


def _finish(future: Future[Any], response: bytes, load: Callable[[bytes], Any]) -> None:
    try:
        value = load(response)
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(value)


class _Items:
    """Items come several at a time; whoever iterates gets them one by one."""

    def __init__(self, items: _tyndall.Items, deployment_id: DeploymentID, load: Callable[[bytes], Any]) -> None:
        self._items = items
        self._load = load
        self._deployment_id = deployment_id
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
                future.set_exception(read(error, self._deployment_id))
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
