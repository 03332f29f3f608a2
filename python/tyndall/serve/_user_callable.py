"""A deployment's class or function at work: its object, and calls of its methods, on an event loop.

Coroutines run on the loop. What is not a coroutine runs in a pool of threads, so that it does not hold up the others.
Both see the request's context variables.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
import os
import sys
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from .exceptions import RayServeException

if TYPE_CHECKING:
    from ._tasks import Consumer

logger = logging.getLogger("tyndall.serve")

_NOTHING: Final = object()
_GENERATORS: Final = frozenset((types.GeneratorType, types.AsyncGeneratorType))


class UserCallable:
    """The object of a class, or a function. All coroutines of it run on one loop."""

    def __init__(self, func_or_class: Callable[..., Any], max_workers: int) -> None:
        self._func_or_class = func_or_class
        self._max_workers = max_workers
        self._target: Any = None
        self._for_loop: dict[Any, bool] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers, thread_name_prefix="serve-method")
        self._consumer_end: asyncio.Future[None] | None = None
        self._in_threads = os.environ.get("RAY_SERVE_RUN_SYNC_IN_THREADPOOL", "1") == "1"

    @property
    def target(self) -> Any:
        """The object of the class, or the function; None before `start`."""
        return self._target

    async def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Makes the object. `__init__` may be a coroutine; it runs on the loop in any case."""
        if inspect.isclass(self._func_or_class):
            self._target = await _made(self._func_or_class, args, kwargs)
        else:
            self._target = self._func_or_class

    async def reconfigure(self, user_config: Any, rank: Any) -> None:
        """Hands on what is to be known; nothing is called if there is nothing."""
        method = getattr(self._target, "reconfigure", None) if inspect.isclass(self._func_or_class) else None
        if method is None:
            if user_config is not None:
                raise RayServeException(
                    "user_config is set, and the deployment has no method `reconfigure`\n"
                    "give its class one, or leave user_config out"
                )
            return
        takes_rank = "rank" in inspect.signature(method).parameters
        if user_config is not None or takes_rank:
            await self._run(method, (user_config,), {"rank": rank} if takes_rank else {})

    def method(self, name: str) -> Callable[..., Any]:
        """What is called by this name. Raises RayServeException where the deployment has no such method."""
        if not inspect.isclass(self._func_or_class):
            # A function has no methods: it is called by whatever name.
            return self._func_or_class
        method = getattr(self._target, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
        methods = inspect.getmembers(self._func_or_class, callable)
        known = [one for one, _ in methods if not one.startswith("_") or one == "__call__"]
        raise RayServeException(f"Tried to call a method '{name}' that does not exist. Available methods: {known}.")

    async def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a method gives."""
        answer = await self._run(self.method(name), args, kwargs)
        if type(answer) in _GENERATORS:
            if inspect.isgenerator(answer):
                answer.close()
            raise TypeError(
                f"Method '{name}' returned a generator. You must use `handle.options(stream=True)` to call "
                "generators on a deployment."
            )
        return answer

    async def stream(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        """The items that a method gives."""
        answer = await self._run(self.method(name), args, kwargs)
        if inspect.isasyncgen(answer):
            try:
                async for item in answer:
                    yield item
            finally:
                await answer.aclose()
        elif inspect.isgenerator(answer):
            # One context for all items, as if one function ran, and one thread at a time.
            context, lock = contextvars.copy_context(), threading.Lock()

            def alone(step: Callable[..., Any], *given: Any) -> Any:
                with lock:
                    return context.run(step, *given)

            try:
                while (item := await self._in_pool(alone, next, answer, _NOTHING)) is not _NOTHING:
                    yield item
            finally:
                # It may be in the midst of an item; nobody waits for that.
                self._later(alone, answer.close)
        else:
            raise TypeError(
                f"Method '{name}' was called with `handle.options(stream=True)`, and did not return a generator."
            )

    def consume(self) -> None:
        """Takes tasks from now on, if it is a task consumer. Raises what its adapter raises."""
        if (consumer := _consumer(self._target)) is not None:
            # On the loop, as in Ray: an adapter may want to have it.
            consumer.initialize_callable(self._max_workers)

    async def check_health(self) -> None:
        """Raises what the deployment's own check raises, and where a task consumer takes no tasks any more."""
        if (consumer := _consumer(self._target)) is not None:
            consumer._check_consumer()
        check = getattr(self._target, "check_health", None) if inspect.isclass(self._func_or_class) else None
        if check is not None:
            await self._run(check, (), {})

    def stats(self, method: str) -> Callable[[], Awaitable[Any]] | None:
        """Asks the deployment what it says of itself; none where it has no such method."""
        is_class = inspect.isclass(self._func_or_class)
        record = getattr(self._target, method, None) if is_class else None
        return None if record is None else lambda: self._run(record, (), {})

    def give_back_tasks(self) -> None:
        """At the end of the process: tasks that a consumer has yet go back to their queue."""
        if (consumer := _consumer(self._target)) is not None:
            consumer._stop_consumer(0.0)

    def leave(self, consumer_timeout_s: float) -> None:
        """A task consumer takes nothing new from now on, and has so long for what it has taken."""
        if self._consumer_end is None and (consumer := _consumer(self._target)) is not None:
            self._consumer_end = asyncio.ensure_future(_ended(consumer, consumer_timeout_s))

    async def stop(self, consumer_timeout_s: float = 0.0) -> None:
        """Ends what a task consumer does, lets go of the object, and calls its `__del__`, once."""
        self.leave(consumer_timeout_s)
        if self._consumer_end is not None:
            await self._consumer_end
        target, self._target = self._target, None
        destructor = getattr(target, "__del__", None) if inspect.isclass(self._func_or_class) else None
        if destructor is not None:
            try:
                await self._run(destructor, (), {})
            except Exception:
                logger.exception("`__del__` of a deployment failed")
            _forget_destructor(target)
        self._pool.shutdown(wait=False)

    async def _run(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._in_threads or self._is_for_loop(method):
            answer = _without_stop(method, *args, **kwargs)
        else:
            context = contextvars.copy_context()
            answer = await self._in_pool(lambda: context.run(_without_stop, method, *args, **kwargs))
        # Nearly all of them are coroutines, and the question for all kinds takes longer.
        if type(answer) is not types.CoroutineType and not inspect.isawaitable(answer):
            return answer
        try:
            return await answer
        except StopAsyncIteration as error:
            raise _stopped(error) from error

    def _is_for_loop(self, method: Callable[..., Any]) -> bool:
        """Whether it gives up the loop by itself, or does nothing yet when it is called."""
        function = getattr(method, "__func__", method)
        try:
            known = self._for_loop.get(function)
        except TypeError:
            # An object that cannot be a key.
            return _is_async(method) or _is_generator(method)
        if known is None:
            known = self._for_loop[function] = _is_async(method) or _is_generator(method)
        return known

    async def _in_pool(self, step: Callable[..., Any], *args: Any) -> Any:
        if not self._in_threads:
            return step(*args)
        return await asyncio.get_running_loop().run_in_executor(self._pool, step, *args)

    def _later(self, step: Callable[..., Any], *args: Any) -> None:
        if self._in_threads:
            self._pool.submit(step, *args)
        else:
            step(*args)


def _without_stop(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return method(*args, **kwargs)
    except (StopIteration, StopAsyncIteration) as error:
        raise _stopped(error) from error


def _stopped(error: Exception) -> RuntimeError:
    """Python takes these for the end of a loop, and futures do not hold them."""
    return RuntimeError(f"the deployment raised {type(error).__name__}")


async def _made(of: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An object; its `__init__` may be a coroutine."""
    make: Any = of.__new__
    # Only a class that takes arguments there gets them there.
    target = make(of) if make is object.__new__ else make(of, *args, **kwargs)
    begin: Any = type(target).__init__
    begun = begin(target, *args, **kwargs)
    if inspect.isawaitable(begun):
        await begun
    return target


def _is_async(method: Callable[..., Any]) -> bool:
    called = method if inspect.isroutine(method) else type(method).__call__
    return inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called)


def _is_generator(method: Callable[..., Any]) -> bool:
    called = method if inspect.isroutine(method) else type(method).__call__
    return inspect.isgeneratorfunction(called)


def _forget_destructor(target: Any) -> None:
    """Python calls `__del__` when the object goes; it has been called."""
    try:
        target.__class__ = type(type(target).__name__, (type(target),), {"__del__": lambda _: None, "__slots__": ()})
    except TypeError:
        # An object with another layout keeps its class, and hears of its end twice.
        logger.debug("an object of %s hears of its end twice", type(target).__name__)


async def _ended(consumer: Consumer, timeout_s: float) -> None:
    try:
        # Not in the pool, whose threads may all be at work.
        await asyncio.to_thread(consumer._stop_consumer, timeout_s)
    except Exception:
        logger.exception("a task consumer did not stop")


def _consumer(target: Any) -> Consumer | None:
    """The object of a task consumer. Who has none does not load what consumers are, which takes memory."""
    tasks = sys.modules.get(f"{__package__}._tasks")
    return target if tasks is not None and isinstance(target, tasks.Consumer) else None
