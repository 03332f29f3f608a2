"""Dynamic batching: single calls in, one call with lists of all of them.

Rust forms the batches; here is what an item is, and how the function's results reach those who called. All calls of one
function in one event loop share a queue, whichever object they are made on.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace
from typing import Any, overload

from tyndall import _tyndall

from . import _calls
from ._batch_types import Batched, BatchedMethod, Decorator, R, S, T
from .context import _serve_batch_request_context, _serve_request_context
from .exceptions import BackPressureError, RayServeException

__all__ = ["batch"]


class _End:
    """Comes after the last result. A class: a decorated function may be pickled with what it refers to."""


@overload
def batch(
    _func: Callable[[S, list[T]], Coroutine[Any, Any, list[R]]], /
) -> BatchedMethod[T, Coroutine[Any, Any, R]]: ...


@overload
def batch(_func: Callable[[list[T]], Coroutine[Any, Any, list[R]]], /) -> Batched[T, Coroutine[Any, Any, R]]: ...


@overload
def batch(
    *,
    max_batch_size: int = ...,
    batch_wait_timeout_s: float = ...,
    max_concurrent_batches: int = ...,
    batch_size_fn: Callable[[list[Any]], int] | None = ...,
) -> Decorator: ...


@overload
def batch(
    _func: Callable[..., Any] | None = ...,
    /,
    max_batch_size: int = ...,
    batch_wait_timeout_s: float = ...,
    max_concurrent_batches: int = ...,
    batch_size_fn: Callable[[list[Any]], int] | None = ...,
) -> Any: ...


def batch(
    _func: Any = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
) -> Any:
    """Makes a coroutine function, or an async generator, of lists one of single values.

    A batch starts when it has `max_batch_size` items, or `batch_wait_timeout_s` after its first one was taken;
    `batch_size_fn` measures it otherwise than by its number of items. The function gets a list for each of its
    parameters, and gives a list of as many results; a generator yields such lists, with the class `StopIteration` in the
    place of an item that is done.

    Raises TypeError and ValueError for what the parameters cannot be.
    """
    if _func is not None and not callable(_func):
        raise TypeError("@serve.batch can only be used to decorate functions or methods.\nname its parameters")
    if _func is not None and not inspect.iscoroutinefunction(_func):
        raise TypeError("Functions decorated with @serve.batch must be 'async def'")
    size, wait = _checked_size(max_batch_size), _checked_wait(batch_wait_timeout_s)
    if not isinstance(max_concurrent_batches, int) or max_concurrent_batches < 1:
        raise TypeError(f"max_concurrent_batches must be an integer >= 1, got {max_concurrent_batches}")
    if batch_size_fn is not None and not callable(batch_size_fn):
        raise TypeError(f"batch_size_fn must be a callable or None, got {type(batch_size_fn).__name__}")

    def decorate(func: Any) -> Any:
        return _decorated(func, _Queues(func, size, wait, max_concurrent_batches, batch_size_fn))

    return decorate if _func is None else decorate(_func)


def _checked_size(size: Any) -> int:
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError("max_batch_size must be integer >= 1")
    if size < 1:
        raise ValueError("max_batch_size must be an integer >= 1")
    return size


def _checked_wait(wait: Any) -> float:
    if not isinstance(wait, (int, float)) or isinstance(wait, bool):
        raise TypeError("batch_wait_timeout_s must be a float >= 0")
    if not wait >= 0:
        raise ValueError("batch_wait_timeout_s must be a float >= 0")
    return float(wait)


class _Item:
    """A call that waits for its part of a batch."""

    __slots__ = ("args", "future", "more")

    def __init__(self, args: tuple[Any, ...], future: asyncio.Future[Any], more: asyncio.Queue[Any] | None) -> None:
        self.args = args
        """In the order of the function's parameters."""
        self.future = future
        """The result; of a generator, whether it failed."""
        self.more = more
        """Of a generator: its results, as they come."""

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            # A generator's caller asks for it later, or not at all.
            self.future.exception()
        if self.more is not None:
            self.more.put_nowait(_End)

    def finish(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)
        if self.more is not None:
            self.more.put_nowait(_End)


class _Queues:
    """The queues of a function, one for each event loop that it is called in."""

    def __init__(
        self,
        func: Any,
        size: int,
        wait: float,
        max_concurrent: int,
        size_fn: Callable[[list[Any]], int] | None,
    ) -> None:
        self.func = func
        self.size, self.wait = size, wait
        self.max_concurrent = max_concurrent
        self.size_fn = size_fn
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = weakref.WeakKeyDictionary()
        self._of_objects: weakref.WeakSet[_Queues] = weakref.WeakSet()

    def of(self, owner: Any, name: str) -> _Queues:
        """The object's, whose batches run its method. A replica has one object."""
        found: _Queues | None = getattr(owner, name, None)
        if found is None:
            func = functools.partial(_call_of, weakref.ref(owner), self.func)
            found = _Queues(func, self.size, self.wait, self.max_concurrent, self.size_fn)
            setattr(owner, name, found)
            self._of_objects.add(found)
        return found

    def here(self) -> _Queue:
        loop = asyncio.get_running_loop()
        queue = self._by_loop.get(loop)
        if queue is None:
            queue = self._by_loop[loop] = _Queue(self, loop)
        return queue

    def set_max_batch_size(self, size: int) -> None:
        """From the next batch on."""
        self.size = _checked_size(size)
        for queue in list(self._by_loop.values()):
            queue.batcher.set_max_batch_size(self.size)
        for queues in list(self._of_objects):
            queues.set_max_batch_size(size)

    def set_batch_wait_timeout_s(self, wait: float) -> None:
        """From the next batch on."""
        self.wait = _checked_wait(wait)
        for queue in list(self._by_loop.values()):
            queue.batcher.set_batch_wait_timeout_s(self.wait)
        for queues in list(self._of_objects):
            queues.set_batch_wait_timeout_s(wait)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Queues, (self.func, self.size, self.wait, self.max_concurrent, self.size_fn)


class _Queue:
    """The calls of a function in one loop."""

    def __init__(self, of: _Queues, loop: asyncio.AbstractEventLoop) -> None:
        self._func, self._size_fn = of.func, of.size_fn
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        # The loop must not keep what it is the key of.
        bridge = _tyndall.Bridge(_Weakly(self))
        loop.add_reader(bridge.fileno(), bridge.drain)
        weakref.finalize(self, _forget, weakref.ref(loop), bridge.fileno())
        measure = None if of.size_fn is None else self._measure
        self.batcher = _tyndall.Batcher(bridge, _calls.of_process, of.size, of.wait, of.max_concurrent, measure)

    def submit(self, item: _Item) -> None:
        """The item's caller has it taken out by cancelling its future."""
        waiting = self.batcher.submit(item, _serve_request_context.get().native or _of_local_call())
        item.future.add_done_callback(lambda future: waiting.cancel() if future.cancelled() else None)

    def refused(self, item: _Item, _message: str) -> None:
        item.fail(BackPressureError(65_536, 65_536))

    def batch(self, job: _tyndall.Job, given: tuple[list[_Item], str]) -> None:
        task = self._loop.create_task(self._run(job, given[0], given[1]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: _tyndall.Job, items: list[_Item], model: str) -> None:
        context = _serve_request_context.get()
        _serve_batch_request_context.set((replace(context, multiplexed_model_id=model),))
        try:
            lists = [list(values) for values in zip(*(item.args for item in items), strict=True)]
            called: Any = self._func(*lists)
            if hasattr(called, "__aiter__"):
                await _hand_out_items(called, items)
            else:
                _hand_out(await called, items)
        except asyncio.CancelledError:
            for item in items:
                item.future.cancel()
            raise
        except BaseException as error:
            for item in items:
                item.fail(error)
        finally:
            job.done()

    def _measure(self, items: list[_Item]) -> int:
        """On a thread of Rust's; what it raises goes to the item that was measured last."""
        assert self._size_fn is not None, "it measures"
        try:
            values = [item.args[0] if len(item.args) == 1 else item.args for item in items]
            size = int(self._size_fn(values))
            if size < 0:
                raise ValueError(f"batch_size_fn gave {size}\nlet it give 0 or more")
        except BaseException as error:
            self._loop.call_soon_threadsafe(items[-1].fail, error)
            raise
        return size


class _Weakly:
    """Hands on what arrives, as long as there is somebody."""

    def __init__(self, queue: _Queue) -> None:
        self._queue = weakref.ref(queue)

    def batch(self, job: _tyndall.Job, given: tuple[list[_Item], str]) -> None:
        queue = self._queue()
        if queue is not None:
            queue.batch(job, given)

    def refused(self, item: _Item, message: str) -> None:
        queue = self._queue()
        if queue is not None:
            queue.refused(item, message)


def _forget(loop: weakref.ref[asyncio.AbstractEventLoop], fd: int) -> None:
    alive = loop()
    if alive is not None and not alive.is_closed():
        alive.call_soon_threadsafe(alive.remove_reader, fd)


def _of_local_call() -> _tyndall.Context | None:
    """In local testing mode a call has no context of Rust's yet."""
    context = _serve_request_context.get()
    if not context.request_id:
        return None
    return _tyndall.Context(context.request_id, context.multiplexed_model_id, context.session_id)


def _hand_out(results: Any, items: list[_Item]) -> None:
    _check_length(results, items)
    for item, result in zip(items, results, strict=True):
        item.finish(result)


async def _hand_out_items(called: AsyncGenerator[Any, None], items: list[_Item]) -> None:
    left = dict(enumerate(items))
    async for results in called:
        _check_length(results, items)
        for place, item in list(left.items()):
            result = results[place]
            if result is StopIteration or result is StopAsyncIteration:
                left.pop(place).finish(None)
            elif item.future.done():
                # Its caller has gone.
                del left[place]
            elif item.more is not None:
                item.more.put_nowait(result)
    for item in left.values():
        item.finish(None)


def _check_length(results: Any, items: list[_Item]) -> None:
    try:
        length = len(results)
    except TypeError:
        raise RayServeException(
            f"Batched function gave a {type(results).__name__}, not a list\nreturn a list with a result for each item"
        ) from None
    if length != len(items):
        raise RayServeException(
            "Batched function doesn't preserve batch size. "
            f"The input list has length {len(items)} but the returned list has length {length}."
        )


# --- The function that callers see ------------------------------------------------------------------------------------


def _decorated(func: Any, queues: _Queues) -> Any:
    signature = inspect.signature(func)
    parameters = list(signature.parameters.values())
    is_method = bool(parameters) and parameters[0].name == "self"
    kept = f"__serve_batches_of_{func.__name__}__"

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any], *, is_stream: bool) -> _Item:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = tuple(bound.arguments.values())
        own = queues
        if is_method:
            own = queues.of(values[0], kept)
            values = values[1:]
        item = _Item(values, asyncio.get_running_loop().create_future(), asyncio.Queue() if is_stream else None)
        own.here().submit(item)
        return item

    if inspect.isasyncgenfunction(func):

        @functools.wraps(func)
        async def stream(*args: Any, **kwargs: Any) -> Any:
            item = begin(args, kwargs, is_stream=True)
            assert item.more is not None, "it streams"
            try:
                while (result := await item.more.get()) is not _End:
                    yield result
                if item.future.done() and not item.future.cancelled() and item.future.exception() is not None:
                    raise item.future.exception()  # type: ignore[misc]
            finally:
                item.future.cancel()

        called: Any = stream
    else:

        @functools.wraps(func)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await begin(args, kwargs, is_stream=False).future

        called = call
    called.set_max_batch_size = queues.set_max_batch_size
    called.set_batch_wait_timeout_s = queues.set_batch_wait_timeout_s
    called._get_max_batch_size = lambda: queues.size
    called._get_batch_wait_timeout_s = lambda: queues.wait
    return called


def _call_of(owner: weakref.ref[Any], func: Any, *lists: Any) -> Any:
    return func(owner(), *lists)
