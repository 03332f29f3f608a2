"""Tasks by Celery. Celery is the user's own package, and is imported when the first adapter is made ready."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ._tasks import (
    CONSUMER_CONCURRENCY,
    STOP_TIMEOUT_S,
    AsyncCapability,
    CeleryAdapterConfig,
    TaskProcessorAdapter,
    TaskProcessorConfig,
    TaskResult,
    function,
    lacks,
    refuse_coroutine,
)
from .context import get_replica_context

if TYPE_CHECKING:
    from ._celery_worker import Worker

__all__ = ["AsyncCapability", "CeleryTaskProcessorAdapter", "TaskProcessorAdapter"]

logger = logging.getLogger("tyndall.serve")

_OWN_SETTINGS: Final = {
    "worker_pool": "threads",
    "worker_concurrency": CONSUMER_CONCURRENCY,
    # A result can be read when its task is done.
    "task_ignore_result": False,
    # A task leaves its queue when it is done, so that one whose replica is lost is run by another.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
}
"""What nobody else may set."""

_MAX_BACKOFF_S: Final = 60


class CeleryTaskProcessorAdapter(TaskProcessorAdapter):
    """Sends tasks with Celery, and takes them with a worker of it in a thread. It has no coroutines."""

    def __init__(self, config: TaskProcessorConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        celery = config.adapter_config
        if not isinstance(celery, CeleryAdapterConfig):
            raise TypeError(
                f"TaskProcessorConfig.adapter_config is of type {type(celery).__name__}\n"
                "make it a CeleryAdapterConfig, or name another adapter"
            )
        if taken := sorted(_OWN_SETTINGS.keys() & (celery.app_custom_config or {}).keys()):
            raise ValueError(
                f"app_custom_config has {taken}, which cannot be changed: the adapter sets them itself\n"
                "leave them out; max_ongoing_requests says how many tasks run at a time"
            )
        self._config = config
        self._celery: CeleryAdapterConfig = celery
        self._app: Any = None
        self._worker: Worker | None = None

    def initialize(self, consumer_concurrency: int = CONSUMER_CONCURRENCY) -> None:
        try:
            from celery import Celery, signals  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            if error.name != "celery":
                raise
            raise lacks("celery") from None
        config, celery = self._config, self._celery
        # Not the application that the user's own code means where it names none.
        self._app = Celery(
            config.queue_name, backend=celery.backend_url, broker=celery.broker_url, set_as_current=False
        )
        self._app.conf.update({**_OWN_SETTINGS, "worker_concurrency": consumer_concurrency})
        self._app.conf.update(celery.app_custom_config or {})
        queues = (config.queue_name, config.failed_task_queue_name, config.unprocessable_task_queue_name)
        self._app.conf.update(
            task_queues={name: _direct(name) for name in queues if name},
            task_routes={"*": {"queue": config.queue_name}},
        )
        if celery.broker_transport_options is not None:
            self._app.conf.update(broker_transport_options=celery.broker_transport_options)
        if config.failed_task_queue_name:
            signals.task_failure.connect(self._failed)

    # --- Where tasks are sent -----------------------------------------------------------------------------------------

    def enqueue_task_sync(self, task_name: str, args: Any = None, kwargs: Any = None, **options: Any) -> TaskResult:
        sent = self._app.send_task(task_name, args=args, kwargs=kwargs, queue=self._config.queue_name, **options)
        return TaskResult(id=sent.id, status=sent.status, created_at=time.time(), result=sent.result)

    def get_task_status_sync(self, task_id: str) -> TaskResult:
        found = self._app.AsyncResult(task_id)
        return TaskResult(id=found.id, status=found.status, result=found.result)

    def cancel_task_sync(self, task_id: str) -> None:
        """Has workers pass over the task; Celery tells them by brokers such as Redis and RabbitMQ only."""
        self._app.control.revoke(task_id)

    def get_metrics_sync(self) -> dict[str, Any]:
        """What each worker says of itself, by its name; nothing where none answers."""
        stats: dict[str, Any] = self._app.control.inspect().stats() or {}
        return stats

    def health_check_sync(self) -> list[dict[str, Any]]:
        """A dictionary for each worker that answers, such as `{"celery@…": {"ok": "pong"}}`."""
        answers: list[dict[str, Any]] = self._app.control.ping()
        return answers

    # --- Where they are taken -----------------------------------------------------------------------------------------

    def register_task_handle(self, func: Callable[..., Any], name: str | None = None) -> None:
        refuse_coroutine(func)
        options = {
            # Other applications of this process have handlers of their own.
            "shared": False,
            "autoretry_for": (Exception,),
            "retry_kwargs": {"max_retries": self._config.max_retries},
            # 1 s, 2 s, 4 s and so on.
            "retry_backoff": True,
            "retry_backoff_max": _MAX_BACKOFF_S,
            "retry_jitter": False,
            **(self._celery.task_custom_config or {}),
        }
        self._app.task(name=name or None, **options)(function(func))

    def start_consumer(self, **kwargs: Any) -> None:
        if self._worker is not None and self._worker.is_alive():
            logger.info("the Celery worker runs already")
            return
        from ._celery_worker import Worker

        name = f"{self._app.main}_{get_replica_context().replica_tag}"
        self._worker = Worker(self._app, name, self._config.queue_name, self._unprocessable)
        self._worker.start()
        logger.info("the Celery worker %s has started", name)

    def stop_consumer(self, timeout: float = STOP_TIMEOUT_S) -> None:
        if self._worker is None or not self._worker.is_alive():
            logger.info("no Celery worker runs")
            return
        if self._worker.stop(timeout):
            logger.info("the Celery worker has stopped")
        else:
            logger.warning("the Celery worker has tasks yet after %g s; they go back to their queue", timeout)

    def check_consumer(self) -> None:
        if self._worker is not None:
            self._worker.check()

    def _failed(
        self,
        sender: Any = None,
        task_id: Any = None,
        exception: Any = None,
        args: Any = None,
        kwargs: Any = None,
        einfo: Any = None,
        **_: Any,
    ) -> None:
        """A task has failed, and is not run again."""
        # Signals of Celery are those of the process, whichever application it is.
        if sender is None or sender.app is not self._app:
            return
        queue = self._config.failed_task_queue_name
        self._put(queue, sender.name, [task_id, str(exception), str(args), str(kwargs), str(einfo)])
        logger.error("the task %s failed for good and is in the queue %r: %s", task_id, queue, exception)

    def _unprocessable(self, name: str, task_id: Any, message: str, error: BaseException) -> None:
        """A message is no task that this consumer can run; it is lost unless there is a queue for such."""
        queue = self._config.unprocessable_task_queue_name
        if queue is not None:
            self._put(queue, name, [name, task_id, message, str(error), ""])
            logger.error("the task %s (%s) cannot be run and is in the queue %r: %s", name, task_id, queue, error)

    def _put(self, queue: str | None, name: str, args: list[Any]) -> None:
        try:
            self._app.send_task(name=name, queue=queue, args=args)
        except Exception:
            logger.exception("a task could not be moved to the queue %r: %s", queue, args)
            raise


def _direct(queue: str) -> dict[str, str]:
    """A queue with an exchange of its own name."""
    return {"exchange": queue, "exchange_type": "direct", "routing_key": queue}
