"""Tasks that deployments take from a queue: their records, the interface of adapters, and what a consumer is.

An adapter speaks to one task system, such as Celery. It is made in two places: where tasks are sent, and in each
replica of a consumer, which it brings the tasks of one queue. A consumer goes through these steps:

1. The replica makes its object as any other, and hands it its `user_config`.
2. `initialize_callable` makes the adapter, registers the methods that are handlers and starts the consumer; tasks run
   in threads of the adapter from now on.
3. Each health check asks the adapter whether tasks are still taken.
4. At the replica's end the adapter stops: nothing new is taken, tasks in progress have the rest of the drain time, and
   those that are not done by then go back to their queue. `__del__` of the object comes after that.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar, Final

from . import _checks as checks
from ._model import Model, option, required
from .context import _replica_of_call

logger = logging.getLogger("tyndall.serve")

CONSUMER_CONCURRENCY: Final = 5
"""Tasks at a time where nobody says how many, as `max_ongoing_requests` of a deployment."""

STOP_TIMEOUT_S: Final = 10.0

_CELERY: Final = "ray.serve.task_processor.CeleryTaskProcessorAdapter"
_RAY: Final = "ray.serve."


def _anything(_: str, value: Any) -> Any:
    return value


def _adapter(name: str, value: Any) -> Any:
    if isinstance(value, str) or callable(value):
        return value
    raise checks.wrong_type(name, value, "a class of TaskProcessorAdapter, or the path of one")


# --- Records ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class CeleryAdapterConfig(Model):
    """How Celery is reached, and what is set in it."""

    app_custom_config: dict[str, Any] | None = option(None, checks.nullable(checks.mapping))
    """Settings of the Celery application, but those that the adapter has to set itself."""
    task_custom_config: dict[str, Any] | None = option(None, checks.nullable(checks.mapping))
    """Options of every task."""
    broker_url: str = required(checks.text)
    backend_url: str = required(checks.text)
    broker_transport_options: dict[str, Any] | None = option(None, checks.nullable(checks.mapping))


@dataclass(kw_only=True)
class TaskProcessorConfig(Model):
    """A queue of tasks, and by what they come."""

    queue_name: str = required(checks.text)
    adapter: str | Callable[..., Any] = option(_CELERY, _adapter)
    adapter_config: Any = required(_anything)
    max_retries: int | None = option(3, checks.nullable(checks.whole(0)))
    """Runs after the first one, before a task has failed; with None there is no end to them."""
    failed_task_queue_name: str | None = option(None, checks.nullable(checks.text))
    """Where tasks go that have failed for good."""
    unprocessable_task_queue_name: str | None = option(None, checks.nullable(checks.text))
    """Where tasks go that nobody handles or can read."""


@dataclass(kw_only=True)
class TaskResult(Model):
    """What is known of a task."""

    id: str = required(checks.text)
    status: str = required(checks.text)
    created_at: float | None = option(None, checks.nullable(checks.number()))
    result: Any = required(_anything)


# --- Adapters ---------------------------------------------------------------------------------------------------------


class AsyncCapability(Enum):
    """What an adapter may also do as a coroutine."""

    ENQUEUE_TASK = auto()
    GET_TASK_STATUS = auto()
    CANCEL_TASK = auto()
    GET_METRICS = auto()
    HEALTH_CHECK = auto()


class TaskProcessorAdapter(ABC):
    """Speaks to a task system. A class of it is made from a `TaskProcessorConfig`, and connects to nothing yet."""

    async_capabilities: ClassVar[frozenset[AsyncCapability]] = frozenset()
    """Which of the coroutines below it has."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes what subclasses hand on."""

    def supports_async_capability(self, capability: AsyncCapability) -> bool:
        return capability in self.async_capabilities

    @abstractmethod
    def initialize(self, consumer_concurrency: int = CONSUMER_CONCURRENCY) -> None:
        """Makes it ready; a consumer runs at most this many tasks at a time."""

    @abstractmethod
    def register_task_handle(self, func: Callable[..., Any], name: str | None = None) -> None:
        """Has a function run the tasks of this name."""

    @abstractmethod
    def enqueue_task_sync(self, task_name: str, args: Any = None, kwargs: Any = None, **options: Any) -> TaskResult:
        """Sends a task; `options` are those of the task system."""

    @abstractmethod
    def get_task_status_sync(self, task_id: str) -> TaskResult:
        """What has become of a task."""

    @abstractmethod
    def start_consumer(self, **kwargs: Any) -> None:
        """Takes tasks from now on, in threads of its own."""

    @abstractmethod
    def stop_consumer(self, timeout: float = STOP_TIMEOUT_S) -> None:
        """Takes nothing new, and returns when the tasks in progress are done, or after so many seconds."""

    @abstractmethod
    def cancel_task_sync(self, task_id: str) -> None:
        """Has a task that waits not run."""

    @abstractmethod
    def get_metrics_sync(self) -> dict[str, Any]:
        """What the task system says of its consumers."""

    @abstractmethod
    def health_check_sync(self) -> list[dict[str, Any]]:
        """What consumers answer to a ping."""

    def check_consumer(self) -> None:
        """Raises where a consumer that was started takes no tasks any more; the replica is replaced then.

        Ray has no such method, so an adapter that was written for it is taken to go on.
        """

    async def enqueue_task_async(
        self, task_name: str, args: Any = None, kwargs: Any = None, **options: Any
    ) -> TaskResult:
        raise self._is_sync("enqueue_task")

    async def get_task_status_async(self, task_id: str) -> TaskResult:
        raise self._is_sync("get_task_status")

    async def cancel_task_async(self, task_id: str) -> None:
        raise self._is_sync("cancel_task")

    async def get_metrics_async(self) -> dict[str, Any]:
        raise self._is_sync("get_metrics")

    async def health_check_async(self) -> list[dict[str, Any]]:
        raise self._is_sync("health_check")

    def _is_sync(self, what: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} has no {what}_async\ncall {what}_sync, in a thread where there is a loop"
        )


def refuse_coroutine(func: Callable[..., Any]) -> None:
    """Raises NotImplementedError for a handler that adapters with threads cannot run."""
    if inspect.iscoroutinefunction(func):
        raise NotImplementedError(
            f"the task handler {func.__name__!r} is async, and handlers run in threads\nmake it a plain method"
        )


def function(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method as a function: task systems write on it, and Celery counts `self` of a method as an argument."""

    @functools.wraps(handler)
    def run(*args: Any, **kwargs: Any) -> Any:
        return handler(*args, **kwargs)

    return run


def has_ended(why: BaseException | None) -> RuntimeError:
    """What is told where a consumer takes no tasks any more."""
    return RuntimeError(
        f"the task consumer has ended: {why or 'its broker is gone'}\nsee the log for why; the replica is replaced"
    )


def lacks(module: str, package: str | None = None) -> ModuleNotFoundError:
    """What is told where the user's task system is not installed."""
    return ModuleNotFoundError(
        f"there is no module {module}\ninstall it where tasks are sent and where replicas run: "
        f"pip install {package or module}",
        name=module,
    )


def made(config: TaskProcessorConfig, consumer_concurrency: int = CONSUMER_CONCURRENCY) -> TaskProcessorAdapter:
    """The adapter that a config names, ready to be used.

    Raises RuntimeError where it cannot be made or made ready, and TypeError for a class of something else.
    """
    of = _class(config.adapter)
    name = getattr(of, "__name__", type(of).__name__)
    try:
        adapter = of(config)
    except Exception as error:
        raise RuntimeError(f"the adapter {name} cannot be made: {error}") from error
    if not isinstance(adapter, TaskProcessorAdapter):
        raise TypeError(
            f"{name} gives {type(adapter).__name__}, which is no adapter\n"
            "make it a class of serve.task_processor.TaskProcessorAdapter"
        )
    try:
        adapter.initialize(consumer_concurrency)
    except Exception as error:
        raise RuntimeError(f"the adapter {name} cannot be made ready: {error}") from error
    return adapter


def _class(given: Any) -> Callable[..., Any]:
    """The class itself; of Ray's own adapters the one here, whether or not Ray is installed."""
    if not isinstance(given, str):
        if callable(given):
            made_of: Callable[..., Any] = given
            return made_of
        raise checks.wrong_type("TaskProcessorConfig.adapter", given, "a class, or the path of one")
    path = checks.import_path("TaskProcessorConfig.adapter", given)
    module, _, names = path.rpartition(":" if ":" in path else ".")
    if module.startswith(_RAY):
        module = f"{__package__}.{module.removeprefix(_RAY)}"
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found  # type: ignore[no-any-return]


# --- Consumers --------------------------------------------------------------------------------------------------------

IS_HANDLER: Final = "_is_task_handler"
TASK_NAME: Final = "_task_name"


class Consumer:
    """What `task_consumer` adds to a class."""

    task_processor_config: ClassVar[TaskProcessorConfig]
    _adapter: TaskProcessorAdapter

    def initialize_callable(self, consumer_concurrency: int) -> None:
        """Takes tasks from now on. Raises what the adapter raises."""
        adapter = made(type(self).task_processor_config, consumer_concurrency)
        for name, handler in _handlers(self):
            adapter.register_task_handle(handler, name)
        try:
            adapter.start_consumer()
        except Exception:
            logger.error("the task consumer did not start")
            raise
        self._adapter = adapter
        logger.info("tasks of the queue %r are taken", type(self).task_processor_config.queue_name)

    def _check_consumer(self) -> None:
        if (adapter := self.__dict__.get("_adapter")) is not None:
            adapter.check_consumer()

    def _stop_consumer(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Only one that has not stopped yet; another call may have less patience than one that waits."""
        if (adapter := self.__dict__.get("_adapter")) is not None and not self.__dict__.get("_is_stopped"):
            try:
                adapter.stop_consumer(timeout_s)
            finally:
                self._is_stopped = True

    def __del__(self) -> Any:
        self._stop_consumer()
        # The class that was decorated comes after this one.
        end = getattr(super(), "__del__", None)
        return None if end is None else end()


def _handlers(consumer: Consumer) -> Iterator[tuple[str, Callable[..., Any]]]:
    """By name of its tasks. Raises ValueError where two have one name."""
    known: dict[str, str] = {}
    for attribute, function in inspect.getmembers(type(consumer), inspect.isfunction):
        if not getattr(function, IS_HANDLER, False):
            continue
        name = getattr(function, TASK_NAME, attribute)
        if name in known:
            raise ValueError(
                f"{known[name]!r} and {attribute!r} both handle tasks named {name!r}\ngive one of them another name"
            )
        known[name] = attribute
        yield name, _in_replica(getattr(consumer, attribute))
    if not known:
        logger.warning(
            "the task consumer %r has no handler: no task of its queue can be run; decorate methods with @task_handler",
            type(consumer).__name__,
        )


def _in_replica(handler: Callable[..., Any]) -> Callable[..., Any]:
    """In local testing mode, where a process has several replicas, the adapter's threads are of the one that starts."""
    if _replica_of_call.get() is None or inspect.iscoroutinefunction(handler):
        return handler
    context = contextvars.copy_context()

    @functools.wraps(handler)
    def run(*args: Any, **kwargs: Any) -> Any:
        # A context is in one thread at a time.
        return context.copy().run(handler, *args, **kwargs)

    return run
