"""A worker of Celery in a thread of a replica. Imported where Celery is.

It is Celery's worker without what its command adds: no signal handlers, which are the replica's, and no logging of
its own. A thread runs its loop, which takes messages and gives them to a pool of threads.

Its end is asked for by a callback that raises in the loop, as Celery's own flags for that hold for all workers of a
process. The loop then waits for the pool, and closes the connection, by which what has not been acknowledged goes back
to its queue.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery.concurrency.thread import TaskPool  # type: ignore[import-untyped]
from celery.exceptions import WorkerShutdown  # type: ignore[import-untyped]
from celery.worker.consumer import Consumer  # type: ignore[import-untyped]

from ._tasks import has_ended

logger = logging.getLogger("tyndall.serve")

Unprocessable = Callable[[str, Any, str, BaseException], None]
"""Takes a task's name and id where they are known, the message, and why it cannot be run."""


class Worker:
    """Takes the tasks of one queue."""

    def __init__(self, app: Any, name: str, queue: str, unprocessable: Unprocessable) -> None:
        self._app = app
        self._ending = threading.Event()
        self._error: BaseException | None = None

        def consumer(*args: Any, **kwargs: Any) -> Any:
            return _Consumer(*args, ending=self._ending, unprocessable=unprocessable, **kwargs)

        self._controller = app.WorkController(
            hostname=f"celery@{name}", queues=[queue], pool=_Threads, consumer_cls=consumer
        )
        # It must not keep the process: what it has goes back to the queue.
        self._thread = threading.Thread(target=self._run, name="serve-tasks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def check(self) -> None:
        """Raises RuntimeError where it has ended and was not told to."""
        if not self._thread.is_alive() and not self._ending.is_set():
            raise has_ended(self._error)

    def stop(self, timeout_s: float) -> bool:
        """Whether all tasks in progress were done in time; others go back to their queue."""
        self._ending.set()
        consumer = self._controller.consumer
        consumer.call_soon(_end)
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        # Taken from the consumer first, which closes it too when its thread comes to that.
        connection, consumer.connection = consumer.connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception:
                logger.warning("the broker gives the tasks to others when it finds the connection gone", exc_info=True)
        return False

    def _run(self) -> None:
        self._app.set_current()
        try:
            self._controller.start()
        except BaseException as error:
            self._error = error
            logger.exception("the Celery worker failed")


def _end() -> None:
    raise WorkerShutdown(0)


class _Threads(TaskPool):  # type: ignore[misc]
    """Celery's pool of threads, in which each belongs to the application: several may be in one process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.executor = ThreadPoolExecutor(
            self.limit, thread_name_prefix="serve-task", initializer=self.app.set_current
        )


class _Consumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, which loses no message that it cannot handle, and can be told to end while it connects."""

    def __init__(self, *args: Any, ending: threading.Event, unprocessable: Unprocessable, **kwargs: Any) -> None:
        self._ending = ending
        self._unprocessable = unprocessable
        super().__init__(*args, **kwargs)

    def ensure_connected(self, conn: Any) -> Any:
        # Celery asks its callback each second whether to go on trying.
        ensure = conn.ensure_connection

        def ensure_unless_ending(*args: Any, callback: Callable[[], None], **kwargs: Any) -> Any:
            def go_on() -> None:
                if self._ending.is_set():
                    _end()
                callback()

            return ensure(*args, callback=go_on, **kwargs)

        conn.ensure_connection = ensure_unless_ending
        return super().ensure_connected(conn)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        receive = super().create_task_handler(*args, **kwargs)

        def receive_unless_ending(message: Any) -> None:
            # The loop waits for messages yet when it is told to end, for two seconds at most.
            if self._ending.is_set():
                message.reject_log_error(logger, self.connection_errors, requeue=True)
            else:
                receive(message)

        return receive_unless_ending

    # The message is put into the other queue before it leaves its own: twice is better than never.

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        headers = message.headers if "task" in message.headers else message.payload
        self._unprocessable(headers["task"], headers.get("id"), _shown(message), exc)
        super().on_unknown_task(body, message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._unreadable(message, ValueError("the message is no task"))
        super().on_unknown_message(body, message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._unreadable(message, exc)
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._unreadable(message, exc)
        super().on_decode_error(message, exc)

    def _unreadable(self, message: Any, exc: Exception) -> None:
        headers = message.headers or {}
        self._unprocessable(headers.get("task") or "unreadable", headers.get("id"), _shown(message), exc)


def _shown(message: Any) -> str:
    """A message with what it carries, for whoever looks into the queue."""
    return f"{message!r} {message.body!r}"
