"""Futures that follow others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

from .exceptions import RequestCancelledError


def failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def attempt(begin: Callable[[], Future[Any]]) -> Future[Any]:
    """What `begin` gives, or its exception as a future: whoever waits shall see it, not whoever asks."""
    try:
        return begin()
    except Exception as error:
        return failed(error)


def follow(inner: Future[Any], outer: Future[Any]) -> None:
    """The outer future ends as the inner one does, and cancelling the outer one cancels the inner one."""
    outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
    inner.add_done_callback(lambda done: _copy(done, outer))


def settled(one: Future[Any]) -> Future[Any]:
    """A future that has what the other one gives, or its exception as a value."""
    outer: Future[Any] = Future()

    def ended(done: Future[Any]) -> None:
        error = RequestCancelledError() if done.cancelled() else done.exception()
        outer.set_result(done.result() if error is None else error)

    one.add_done_callback(ended)
    return outer


def _copy(done: Future[Any], outer: Future[Any]) -> None:
    try:
        if done.cancelled():
            outer.cancel()
        elif error := done.exception():
            outer.set_exception(error)
        else:
            outer.set_result(done.result())
    except InvalidStateError:
        # It was cancelled a moment before.
        pass


def after(first: Sequence[Future[Any]], begin: Callable[[list[Any]], Future[Any]]) -> Future[Any]:
    """What `begin` makes of the results of all first ones, which are waited for together.

    The first that fails is the end of it.
    """
    outer: Future[Any] = Future()
    lock = threading.Lock()
    left = len(first)

    def ended(done: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            is_last = left == 0
        if outer.done():
            return
        if done.cancelled():
            follow(failed(RequestCancelledError()), outer)
        elif done.exception() is not None:
            _copy(done, outer)
        elif is_last:
            follow(attempt(lambda: begin([one.result() for one in first])), outer)

    for one in first:
        one.add_done_callback(ended)
    return outer
