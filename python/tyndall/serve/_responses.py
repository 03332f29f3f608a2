"""What `.remote()` gives: one answer, a stream of answers, or the answers of all replicas."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

from . import _futures
from .context import DeploymentID
from .exceptions import DeploymentUnavailableError, RayServeException, RequestCancelledError

R = TypeVar("R")

END: Final = object()
"""What a stream's future has after the last item."""

LEFT_OUT: Final = object()
"""What the future of a replica has that ended before a broadcast came to it."""

_NO_RESULTS = "Timed out waiting for broadcast results.\nallow more in timeout_s; the calls go on"


class Stream(Protocol):
    """The items of an answer, as a router gives them."""

    def next(self) -> Future[Any]:
        """The next item, or `END`; the one before has come."""
        ...

    def cancel(self) -> None:
        """No item is wanted any more; again and at the end it does nothing."""
        ...


def refuse_in_loop(instead: str = "await response") -> None:
    """Raises RuntimeError where waiting would hold up an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"Sync methods should not be called from within an `asyncio` event loop. Use `{instead}` instead.\n"
        "in a stream, use `async for`"
    )


def _wait(future: Future[Any], end: float | None) -> Any:
    """The future's result; TimeoutError if it has none by then."""
    remaining = None if end is None else max(0.0, end - time.monotonic())
    try:
        return future.result(remaining)
    except concurrent.futures.TimeoutError as error:
        # The code that was called may have raised one too.
        if future.done():
            raise
        raise TimeoutError("Timed out waiting for response.\nallow more in timeout_s, or cancel it") from error


async def _done(future: Future[Any]) -> None:
    """Waits until a future is done, whoever ends it: for one that ends in this loop without a way around it."""
    loop, here = asyncio.get_running_loop(), threading.get_ident()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def ended(_: Future[Any]) -> None:
        if threading.get_ident() == here:
            wake()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(ended)
    await waiter


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None or timeout_s < 0 else time.monotonic() + timeout_s


class _Response(Generic[R]):
    """What both kinds of answers do."""

    def __init__(self, request_id: str, by_reference: bool) -> None:
        self._request_id = request_id
        self._by_reference = by_reference
        self._cancelled = False

    @property
    def request_id(self) -> str:
        return self._request_id

    @property
    def by_reference(self) -> bool:
        return self._by_reference

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def _cancelled_error(self) -> BaseException:
        """By whom it was cancelled: whoever holds this, or the request that made the call."""
        return RequestCancelledError(self._request_id) if self._cancelled else asyncio.CancelledError()

    def _result(self, future: Future[Any], end: float | None = None) -> Any:
        try:
            return _wait(future, end)
        except concurrent.futures.CancelledError:
            raise self._cancelled_error() from None

    async def _awaited(self, future: Future[Any]) -> Any:
        try:
            if not future.done():
                await _done(future)
            return future.result()
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            # Whoever waits no longer wants the answer; of an answer that is there this changes nothing.
            future.cancel()
            raise self._cancelled_error() from None

    def _to_object_ref(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("there are no ObjectRefs: answers go by value\nawait the response, or pass it on as it is")

    _to_object_ref_sync = _to_object_ref

    def __reduce__(self) -> NoReturn:
        raise RayServeException(
            f"`{type(self).__name__}` cannot be pickled, and so not be inside of an argument.\n"
            "await it first and pass what it gives, or pass it as an argument of its own"
        )


class DeploymentResponse(_Response[R]):
    """The answer of a call, which is on its way.

    It can be awaited as often as one likes, be waited for with `result` outside of event loops, and be an argument of
    another call, which then begins when it is there.
    """

    def __init__(self, future: Future[Any], request_id: str = "", *, by_reference: bool = True) -> None:
        super().__init__(request_id, by_reference)
        self._future = future
        self._whole = future

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited(self._future).__await__()

    def result(self, *, timeout_s: float | None = None) -> R:
        """Waits for the answer.

        Raises what the deployment's code raised; TimeoutError after so many seconds, with the call going on; and
        RuntimeError in an event loop, which it would hold up.
        """
        refuse_in_loop()
        answer: R = self._result(self._future, _deadline(timeout_s))
        return answer

    def cancel(self) -> None:
        """Ends the call: one that waits is never sent, of one that runs the next `await` raises.

        Afterwards it does nothing.
        """
        if not self._cancelled:
            self._cancelled = True
            self._future.cancel()


class DeploymentResponseGenerator(_Response[R]):
    """The items of a call that streams, as they come: for `for` and `async for`, once."""

    def __init__(self, opened: Future[Stream], request_id: str = "", *, by_reference: bool = True) -> None:
        super().__init__(request_id, by_reference)
        self._opened = opened
        self._is_over = False
        # Stands for the whole stream, for whoever cancels it.
        self._whole: Future[None] = Future()
        self._whole.add_done_callback(lambda whole: _stop(opened) if whole.cancelled() else None)

    def __await__(self) -> NoReturn:
        raise TypeError("`DeploymentResponseGenerator` cannot be awaited directly.\nuse `async for`")

    def result(self, *, timeout_s: float | None = None) -> NoReturn:
        raise TypeError("`DeploymentResponseGenerator` has no result of its own.\nuse `for`, or `async for`")

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        if self._is_over:
            raise StopAsyncIteration
        try:
            stream: Stream = await self._awaited(self._opened)
            item = await self._awaited(stream.next())
        except BaseException:
            self._end()
            raise
        if item is END:
            self._end()
            raise StopAsyncIteration
        answer: R = item
        return answer

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        refuse_in_loop()
        if self._is_over:
            raise StopIteration
        try:
            item = self._result(self._result(self._opened).next())
        except BaseException:
            self._end()
            raise
        if item is END:
            self._end()
            raise StopIteration
        answer: R = item
        return answer

    def cancel(self) -> None:
        """Ends the call; what is asked for next raises RequestCancelledError. Afterwards it does nothing."""
        if not self._cancelled:
            self._cancelled = True
            self._whole.cancel()

    def _end(self) -> None:
        """After the last item, or an error, nobody works on it."""
        self._is_over = True
        self._whole.cancel()

    def __del__(self) -> None:
        # Whoever drops it wants no more items.
        self._whole.cancel()


def _stop(opened: Future[Stream]) -> None:
    """Cancels a stream, also one that is not there yet."""

    def cancel(done: Future[Stream]) -> None:
        if not done.cancelled() and done.exception() is None:
            done.result().cancel()

    if not opened.cancel():
        opened.add_done_callback(cancel)


class DeploymentBroadcastResponse:
    """The answers of all replicas that ran when it was asked for, in no order.

    `begin` gives a future of futures, one for each replica; of a replica that has ended before it began, it gives
    `LEFT_OUT`. Cancelling one of them ends all of them.
    """

    def __init__(
        self, begin: Callable[[], Future[list[Future[Any]]]], deployment_id: DeploymentID, request_id: str = ""
    ) -> None:
        self._deployment_id = deployment_id
        self._request_id = request_id
        self._opened = begin()
        self._whole = _whole(self._opened)

    @property
    def request_id(self) -> str:
        return self._request_id

    def results(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """Waits for all; the first exception is raised, or all are given in the answers' places.

        Raises DeploymentUnavailableError where no replica runs, and TimeoutError after so many seconds, with the calls
        going on.
        """
        refuse_in_loop("await response.results_async()")
        end = _end(timeout_s)
        future = self._collected(return_exceptions)
        try:
            answers: list[Any] = future.result(None if end is None else max(0.0, end - time.monotonic()))
        except concurrent.futures.TimeoutError as error:
            # The code that was called may have raised one too.
            if future.done():
                raise
            raise TimeoutError(_NO_RESULTS) from error
        return answers

    async def results_async(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """As `results`, in an event loop."""
        _end(timeout_s)
        future = self._collected(return_exceptions)
        if not future.done():
            try:
                await asyncio.wait_for(_done(future), timeout_s)
            except asyncio.TimeoutError as error:
                raise TimeoutError(_NO_RESULTS) from error
        answers: list[Any] = future.result()
        return answers

    def _collected(self, return_exceptions: bool) -> Future[list[Any]]:
        """All answers, once they are there. Cancelling it ends nothing."""

        def collected(opened: list[list[Future[Any]]]) -> Future[Any]:
            parts = [_futures.settled(part) for part in opened[0]] if return_exceptions else opened[0]
            return _futures.after(parts, lambda answers: self._present(answers))

        return _futures.after([self._opened], collected)

    def _present(self, answers: list[Any]) -> Future[list[Any]]:
        present = [answer for answer in answers if answer is not LEFT_OUT]
        if not present:
            raise DeploymentUnavailableError(
                self._deployment_id, "its replicas end.\ncall again when others have come"
            )
        return _futures.done(present)

    def __repr__(self) -> str:
        return f"DeploymentBroadcastResponse(deployment='{self._deployment_id.name}')"


def _end(timeout_s: float | None) -> float | None:
    """When no more is waited."""
    if timeout_s is not None and timeout_s < 0:
        raise ValueError(f"timeout_s must be None or non-negative.\nit is {timeout_s}")
    return _deadline(timeout_s)


def _whole(opened: Future[list[Future[Any]]]) -> Future[None]:
    """Stands for all parts, for whoever cancels them; it is done when they are."""
    whole: Future[None] = Future()
    lock = threading.Lock()

    def begun(done: Future[list[Future[Any]]]) -> None:
        if done.cancelled() or done.exception() is not None:
            whole.cancel()
            return
        parts = done.result()
        left = len(parts)

        def ended(_: Future[Any]) -> None:
            nonlocal left
            with lock:
                left -= 1
                is_last = left == 0
            if is_last and not whole.done():
                with contextlib.suppress(concurrent.futures.InvalidStateError):
                    whole.set_result(None)

        def cancelled(done: Future[None]) -> None:
            if done.cancelled():
                for part in parts:
                    part.cancel()

        for part in parts:
            part.add_done_callback(ended)
        whole.add_done_callback(cancelled)

    whole.add_done_callback(lambda done: opened.cancel() if done.cancelled() else None)
    opened.add_done_callback(begun)
    return whole
