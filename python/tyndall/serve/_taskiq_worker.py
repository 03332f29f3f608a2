"""Takes tasks from a broker of taskiq. Imported where taskiq is.

Taskiq's own receiver takes messages, at most as many as tasks may run, and runs them in threads. What it does not have
is done here: a task that fails waits for its next run without a place among those that run, and its message is
acknowledged when the next one has been sent. So a replica that is lost takes no task with it, where the broker has
acknowledgements.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final

from taskiq import AckableMessage
from taskiq.exceptions import NoResultError
from taskiq.kicker import AsyncKicker
from taskiq.message import TaskiqMessage
from taskiq.receiver import Receiver
from taskiq.utils import maybe_awaitable

from ._tasks import has_ended

logger = logging.getLogger("tyndall.serve")

RETRIES: Final = "_retries"
"""The label that counts the runs before this one."""

_MAX_BACKOFF_S: Final = 60

_again: contextvars.ContextVar[list[TaskiqMessage]] = contextvars.ContextVar("taskiq_again")
"""Of the message that is worked on: the task, where it is to run again."""


def backoff_s(retries: int) -> float:
    """How long a task waits that has run again so often."""
    return float(min(2 ** min(retries, 10), _MAX_BACKOFF_S))


class Worker:
    """Takes the tasks of one queue, on a loop that somebody else runs."""

    def __init__(self, broker: Any, concurrency: int, max_retries: int | None, failed: Any, unprocessable: Any) -> None:
        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="serve-task")
        self._receiver = _Receiver(broker, self._executor, concurrency, max_retries, failed, unprocessable)
        self._finish = asyncio.Event()
        self._ending = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: Future[None] | None = None

    @property
    def num_running(self) -> int:
        return self._receiver.num_running

    @property
    def num_waiting(self) -> int:
        return len(self._receiver.waiting)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work = asyncio.run_coroutine_threadsafe(self._run(), loop)

    def is_alive(self) -> bool:
        return self._work is not None and not self._work.done()

    def check(self) -> None:
        """Raises RuntimeError where it has ended and was not told to."""
        if self._work is not None and self._work.done() and not self._ending.is_set():
            raise has_ended(self._work.exception())

    def stop(self, timeout_s: float) -> bool:
        """Whether all tasks in progress were done in time."""
        assert self._work is not None, "it runs"
        assert self._loop is not None, "it runs"
        self._ending.set()
        self._loop.call_soon_threadsafe(self._receiver.end, self._finish)
        try:
            self._work.result(timeout_s)
        except FutureTimeoutError:
            # Python 3.10 has two of that name, and what the work raises may be one.
            return self._work.done()
        except Exception:
            logger.exception("the taskiq consumer failed")
        return True

    async def _run(self) -> None:
        try:
            await self._receiver.listen(self._finish)
        except BaseException:
            logger.exception("the taskiq consumer failed")
            raise
        finally:
            await self._receiver.ended()
            self._executor.shutdown(wait=False)


class _Receiver(Receiver):
    """Taskiq's receiver with retries, and with queues for what fails for good or cannot be run."""

    def __init__(
        self, broker: Any, executor: Any, concurrency: int, max_retries: int | None, failed: Any, unprocessable: Any
    ) -> None:
        super().__init__(broker, executor, max_async_tasks=concurrency, run_startup=False)
        self._max_retries = max_retries
        self._failed = failed
        self._unprocessable = unprocessable
        self._started: list[Any] = []
        self.num_running = 0
        self.waiting: set[asyncio.Task[None]] = set()
        self._is_over = asyncio.Event()

    async def callback(self, message: bytes | AckableMessage, raise_err: bool = False) -> None:
        """All of a message: it is acknowledged when everything that follows from it has been sent."""
        data, acknowledge = (message.data, message.ack) if isinstance(message, AckableMessage) else (message, None)
        again: list[TaskiqMessage] = []
        _again.set(again)
        self.num_running += 1
        try:
            if not await self._is_sent_on(data):
                await super().callback(data, raise_err)
        except Exception:
            # Its message stays with the broker.
            logger.exception("a message of taskiq could not be handled")
            return
        finally:
            self.num_running -= 1
        if again:
            waits = asyncio.get_running_loop().create_task(self._run_again(again[0], acknowledge))
            self.waiting.add(waits)
            waits.add_done_callback(self.waiting.discard)
        elif acknowledge is not None:
            await maybe_awaitable(acknowledge())

    async def run_task(self, target: Callable[..., Any], message: TaskiqMessage, ack_controller: Any = None) -> Any:
        result = await super().run_task(target, message, ack_controller)
        error = result.error
        if error is None or isinstance(error, NoResultError):
            return result
        retries = int(message.labels.get(RETRIES, 0))
        if self._max_retries is None or retries < self._max_retries:
            _again.get().append(message)
            # So taskiq keeps no result: there is none yet.
            result.error = NoResultError()
        elif self._failed is not None:
            told = "".join(traceback.format_exception(error))
            args = [message.task_id, str(error), str(message.args), str(message.kwargs), told]
            await self._send(self._failed, message.task_name, args)
            logger.error("the task %s failed for good: %s", message.task_id, error)
        return result

    async def _is_sent_on(self, data: bytes) -> bool:
        """Whether it is a message that nobody here can run; there may be a queue for such."""
        try:
            read = self.broker.formatter.loads(message=data)
            read.parse_labels()
        except Exception as error:
            name, task_id, why = "unreadable", None, str(error)
        else:
            if self.broker.find_task(read.task_name) is not None:
                return False
            name, task_id, why = read.task_name, read.task_id, "no handler has this name"
        if self._unprocessable is not None:
            await self._send(self._unprocessable, name, [name, task_id, repr(data), why, ""])
        logger.error("the task %s (%s) cannot be run: %s", name, task_id, why)
        return True

    async def _run_again(self, message: TaskiqMessage, acknowledge: Callable[[], Any] | None) -> None:
        """Sends it once more when its time has come, or at once where this replica ends."""
        retries = int(message.labels.get(RETRIES, 0))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._is_over.wait(), backoff_s(retries))
        labels = {**message.labels, RETRIES: retries + 1}
        kicker: Any = AsyncKicker(task_name=message.task_name, broker=self.broker, labels=labels)
        try:
            await kicker.with_task_id(message.task_id).kiq(*message.args, **message.kwargs)
        except Exception:
            logger.exception("the task %s could not be sent again; its broker has it yet, if it can", message.task_id)
            return
        if acknowledge is not None:
            await maybe_awaitable(acknowledge())

    def end(self, finish: asyncio.Event) -> None:
        """Nothing new is taken, and other replicas do what waits here."""
        finish.set()
        self._is_over.set()

    async def ended(self) -> None:
        """After the last task."""
        self._is_over.set()
        if self.waiting:
            await asyncio.wait(self.waiting)
        for queue in self._started:
            await queue.shutdown()

    async def _send(self, queue: Any, name: str, args: list[Any]) -> None:
        if queue not in self._started:
            self._started.append(queue)
            await queue.startup()
        kicker: Any = AsyncKicker(task_name=name, broker=queue, labels={})
        await kicker.kiq(*args)
