"""Tasks by taskiq. It and the packages of its brokers are the user's own, and are imported where they are used."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import logging
import threading
import time
import typing
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from . import _checks as checks
from ._model import Model, option, required
from ._tasks import (
    CONSUMER_CONCURRENCY,
    STOP_TIMEOUT_S,
    AsyncCapability,
    TaskProcessorAdapter,
    TaskProcessorConfig,
    TaskResult,
    function,
    lacks,
    refuse_coroutine,
)

if TYPE_CHECKING:
    from ._taskiq_worker import Worker

__all__ = ["TaskiqAdapterConfig", "TaskiqTaskProcessorAdapter"]

logger = logging.getLogger("tyndall.serve")

T = TypeVar("T")


@dataclass(frozen=True)
class _Broker:
    """A kind of broker that taskiq has a package for."""

    path: str
    package: str
    required: tuple[str, ...]
    queue: str = "queue_name"
    """The argument that names the queue."""


_REDIS: Final = {
    "redis_stream": "RedisStreamBroker",
    "redis_list": "ListQueueBroker",
    "redis_pubsub": "PubSubBroker",
    "redis_stream_cluster": "RedisStreamClusterBroker",
    "redis_list_cluster": "ListQueueClusterBroker",
    "redis_stream_sentinel": "RedisStreamSentinelBroker",
    "redis_list_sentinel": "ListQueueSentinelBroker",
    "redis_pubsub_sentinel": "PubSubSentinelBroker",
}


def _redis(kind: str, name: str) -> _Broker:
    needs = ("sentinels", "master_name") if kind.endswith("sentinel") else ("url",)
    return _Broker(f"taskiq_redis:{name}", "taskiq-redis", needs)


_BROKERS: Final = {
    **{kind: _redis(kind, name) for kind, name in _REDIS.items()},
    "rabbitmq": _Broker("taskiq_aio_pika:AioPikaBroker", "taskiq-aio-pika", ()),
    "nats": _Broker("taskiq_nats:PullBasedJetStreamBroker", "taskiq-nats", ("servers",), queue="subject"),
    "kafka": _Broker(
        "taskiq_aio_kafka:AioKafkaBroker", "taskiq-aio-kafka", ("bootstrap_servers",), queue="kafka_topic"
    ),
}


@dataclass(kw_only=True)
class TaskiqAdapterConfig(Model):
    """By which broker of taskiq tasks come."""

    broker_type: str = required(checks.text)
    """Such as `redis_stream`, or `module:Class` of a broker that takes a `queue_name`, which Ray does not have."""
    broker_kwargs: dict[str, Any] | None = option(None, checks.nullable(checks.mapping))
    """What the broker is made from, such as its `url`; the queue is added."""
    result_backend_url: str | None = option(None, checks.nullable(checks.text))
    """Redis for results, whatever the broker is; without it a broker's own is used, if it has one."""


class TaskiqTaskProcessorAdapter(TaskProcessorAdapter):
    """Sends and takes tasks with a broker of taskiq, on an event loop in a thread of its own."""

    async_capabilities = frozenset(AsyncCapability) - {AsyncCapability.CANCEL_TASK}

    def __init__(self, config: TaskProcessorConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taskiq = config.adapter_config
        if not isinstance(taskiq, TaskiqAdapterConfig):
            raise TypeError(
                f"TaskProcessorConfig.adapter_config is of type {type(taskiq).__name__}\n"
                "make it a TaskiqAdapterConfig, or name another adapter"
            )
        self._config = config
        self._taskiq: TaskiqAdapterConfig = taskiq
        self._broker: Any = None
        self._concurrency = CONSUMER_CONCURRENCY
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_started = False

    def initialize(self, consumer_concurrency: int = CONSUMER_CONCURRENCY) -> None:
        self._concurrency = consumer_concurrency
        self._broker = self._made(self._config.queue_name)

    # --- Where tasks are sent -----------------------------------------------------------------------------------------

    def enqueue_task_sync(self, task_name: str, args: Any = None, kwargs: Any = None, **options: Any) -> TaskResult:
        return self._on_loop(self._enqueue(task_name, args, kwargs, options)).result()

    async def enqueue_task_async(
        self, task_name: str, args: Any = None, kwargs: Any = None, **options: Any
    ) -> TaskResult:
        return await asyncio.wrap_future(self._on_loop(self._enqueue(task_name, args, kwargs, options)))

    async def _enqueue(self, name: str, args: Any, kwargs: Any, labels: dict[str, Any]) -> TaskResult:
        """`labels` are the options that taskiq has for a task."""
        from taskiq.kicker import AsyncKicker

        await self._start()
        kicker: Any = AsyncKicker(task_name=name, broker=self._broker, labels=dict(labels))
        task = await kicker.kiq(*(args or ()), **(kwargs or {}))
        return TaskResult(id=task.task_id, status="PENDING", created_at=time.time(), result=None)

    def get_task_status_sync(self, task_id: str) -> TaskResult:
        return self._on_loop(self._status(task_id)).result()

    async def get_task_status_async(self, task_id: str) -> TaskResult:
        return await asyncio.wrap_future(self._on_loop(self._status(task_id)))

    async def _status(self, task_id: str) -> TaskResult:
        """Raises RuntimeError where nobody keeps results."""
        from taskiq.result_backends.dummy import DummyResultBackend

        results = self._broker.result_backend
        if isinstance(results, DummyResultBackend):
            raise RuntimeError(
                "the status of a task is not known: its result is kept nowhere\n"
                "set result_backend_url of TaskiqAdapterConfig"
            )
        await self._start()
        if not await results.is_result_ready(task_id):
            return TaskResult(id=task_id, status="PENDING", result=None)
        found = await results.get_result(task_id)
        if found.is_err:
            return TaskResult(id=task_id, status="FAILURE", result=found.error)
        return TaskResult(id=task_id, status="SUCCESS", result=found.return_value)

    def cancel_task_sync(self, task_id: str) -> None:
        """Taskiq takes no task back."""
        raise NotImplementedError(
            "taskiq cannot cancel a task that was sent\n"
            "have the task itself ask whether it is wanted yet, or use Celery"
        )

    def get_metrics_sync(self) -> dict[str, Any]:
        """What this process knows of itself."""
        worker = self._worker
        return {
            "broker_type": self._taskiq.broker_type,
            "queue_name": self._config.queue_name,
            "concurrency": self._concurrency,
            "is_consuming": worker is not None and worker.is_alive(),
            "running_tasks": 0 if worker is None else worker.num_running,
            "waiting_retries": 0 if worker is None else worker.num_waiting,
        }

    async def get_metrics_async(self) -> dict[str, Any]:
        return self.get_metrics_sync()

    def health_check_sync(self) -> list[dict[str, Any]]:
        """Whether the broker can be reached, and the consumer of this process, if there is one. Raises what fails."""
        return self._on_loop(self._health()).result()

    async def health_check_async(self) -> list[dict[str, Any]]:
        return await asyncio.wrap_future(self._on_loop(self._health()))

    async def _health(self) -> list[dict[str, Any]]:
        await self._start()
        self.check_consumer()
        return [{f"taskiq@{self._config.queue_name}": {"ok": "pong"}}]

    # --- Where they are taken -----------------------------------------------------------------------------------------

    def register_task_handle(self, func: Callable[..., Any], name: str | None = None) -> None:
        refuse_coroutine(func)
        self._broker.register_task(_function(func), name or func.__name__)

    def start_consumer(self, **kwargs: Any) -> None:
        if self._worker is not None and self._worker.is_alive():
            logger.info("the taskiq consumer runs already")
            return
        from ._taskiq_worker import Worker

        names = (self._config.failed_task_queue_name, self._config.unprocessable_task_queue_name)
        queues = [None if name is None else self._made(name) for name in names]
        self._broker.is_worker_process = True
        self._worker = Worker(self._broker, self._concurrency, self._config.max_retries, queues[0], queues[1])
        # The broker is reached before anything else is said of it: what it raises is why a replica does not start.
        self._on_loop(self._start()).result()
        self._worker.start(self._own_loop())

    def stop_consumer(self, timeout: float = STOP_TIMEOUT_S) -> None:
        if self._worker is None or not self._worker.is_alive():
            logger.info("no taskiq consumer runs")
            return
        if not self._worker.stop(timeout):
            logger.warning("tasks are in progress after %g s; their broker gives them to others, if it can", timeout)
        self._close()

    def check_consumer(self) -> None:
        if self._worker is not None:
            self._worker.check()

    # --- The loop -----------------------------------------------------------------------------------------------------

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        """All of taskiq is on one loop, whose thread is a daemon: connections belong to it."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="serve-taskiq", daemon=True).start()
            return self._loop

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._own_loop())

    async def _start(self) -> None:
        if not self._is_started:
            self._is_started = True
            try:
                await self._broker.startup()
            except BaseException:
                self._is_started = False
                raise

    def _close(self) -> None:
        """Lets go of the broker; sending another task reaches it anew."""
        self._is_started = False
        try:
            self._on_loop(self._broker.shutdown()).result(STOP_TIMEOUT_S)
        except Exception:
            logger.warning("the connection to the broker did not close", exc_info=True)

    def _made(self, queue: str) -> Any:
        """A broker for a queue."""
        broker = _made(self._taskiq.broker_type, queue, self._taskiq.broker_kwargs or {})
        if self._taskiq.result_backend_url is not None:
            results = _imported("taskiq_redis:RedisAsyncResultBackend", "taskiq-redis")
            broker = broker.with_result_backend(results(redis_url=self._taskiq.result_backend_url))
        return broker


def _function(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler as taskiq wants it, which converts arguments by its annotations."""
    run = function(handler)
    # It writes into the function's module, which is not there for classes that came as a pickle.
    run.__module__ = __name__
    try:
        typing.get_type_hints(run)
    except NameError:
        # An annotation that cannot be looked up, as under `TYPE_CHECKING`, says nothing.
        run.__annotations__ = {}
        del run.__wrapped__  # type: ignore[attr-defined]
    return run


def _made(kind: str, queue: str, kwargs: dict[str, Any]) -> Any:
    """Raises ValueError for a kind that is not known or lacks an argument."""
    known = _BROKERS.get(kind)
    if known is None and ":" in kind:
        known = _Broker(kind, kind.partition(":")[0], ())
    if known is None:
        raise ValueError(
            f"there is no broker_type {kind!r}\n"
            f"use one of {', '.join(_BROKERS)}, or the path of a broker's class such as 'module:Class'"
        )
    if missing := [name for name in known.required if name not in kwargs]:
        raise ValueError(f"broker_kwargs of {kind!r} lack {', '.join(missing)}\nset them in TaskiqAdapterConfig")
    if kind == "redis_stream":
        # It reads a hundred messages otherwise, and a replica that ends keeps those that it has not begun.
        kwargs = {"xread_count": 1, **kwargs}
    return _imported(known.path, known.package)(**{**kwargs, known.queue: queue})


def _imported(path: str, package: str) -> Any:
    module, _, name = path.partition(":")
    try:
        importlib.import_module("taskiq")
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in ("taskiq", module):
            raise
        raise lacks(str(error.name), "taskiq" if error.name == "taskiq" else package) from None
