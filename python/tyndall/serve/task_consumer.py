"""Deployments that take tasks from a queue: `@task_consumer` on the class, `@task_handler` on the methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from ._tasks import IS_HANDLER, TASK_NAME, Consumer, TaskProcessorAdapter, TaskProcessorConfig, made

__all__ = ["instantiate_adapter_from_config", "task_consumer", "task_handler"]

C = TypeVar("C", bound=type[Any])
F = TypeVar("F", bound=Callable[..., Any])


def instantiate_adapter_from_config(task_processor_config: TaskProcessorConfig) -> TaskProcessorAdapter:
    """An adapter that is ready, for a program that sends tasks.

    Raises RuntimeError where it cannot be made, ValueError, ImportError or AttributeError where its path leads nowhere,
    and TypeError for what is no adapter.
    """
    return made(task_processor_config)


def task_consumer(*, task_processor_config: TaskProcessorConfig) -> Callable[[C], C]:
    """Has each replica of a class take tasks of a queue, at most `max_ongoing_requests` at a time.

    It stands below `@serve.deployment`. The class may answer requests as well.
    """

    def decorator(target: C) -> C:
        # Before the class, so that what it lets go of in `__del__` is no longer used. It may be a consumer already.
        bases = (target,) if issubclass(target, Consumer) else (Consumer, target)
        named = {
            "__module__": target.__module__,
            "__qualname__": target.__qualname__,
            "__doc__": target.__doc__,
            "task_processor_config": task_processor_config,
        }
        return type(target.__name__, bases, named)  # type: ignore[return-value]

    return decorator


@overload
def task_handler(_func: F) -> F: ...


@overload
def task_handler(_func: None = None, *, name: str | None = None) -> Callable[[F], F]: ...


def task_handler(_func: Any = None, *, name: str | None = None) -> Any:
    """Has a method run the tasks of this name, by default its own.

    Raises ValueError for a name that is no text, or an empty one.
    """
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ValueError(f"the name of a task is {name!r}\nuse a text that is not empty, or none for the method's own")

    def decorator(function: F) -> F:
        setattr(function, IS_HANDLER, True)
        setattr(function, TASK_NAME, name or function.__name__)
        return function

    return decorator if _func is None else decorator(_func)
