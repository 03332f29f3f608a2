"""Many models in one replica: those that were used last stay."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from . import _calls, context
from ._user_callable import _forget_destructor
from .context import get_multiplexed_model_id

__all__ = ["get_multiplexed_model_id", "multiplexed"]

logger = logging.getLogger("tyndall.serve")

Load = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Load)


@overload
def multiplexed(func: F) -> F: ...


@overload
def multiplexed(*, max_num_models_per_replica: int = ...) -> Callable[[F], F]: ...


def multiplexed(func: Any = None, max_num_models_per_replica: int = 3) -> Any:
    """Makes a coroutine function that loads a model of its id a cache of models, the latest used ones.

    Raises TypeError for what is no coroutine function of one id, and for a limit that is no whole number; ValueError for
    a limit that is neither -1, which is none, nor above 0.
    """
    if func is not None and not callable(func):
        raise TypeError("@serve.multiplexed is used with no arguments, or with max_num_models_per_replica by its name")
    if not isinstance(max_num_models_per_replica, int) or isinstance(max_num_models_per_replica, bool):
        raise TypeError("max_num_models_per_replica must be an integer.")
    if max_num_models_per_replica != -1 and max_num_models_per_replica <= 0:
        raise ValueError("max_num_models_per_replica must be positive.\nuse -1 for as many as there are")
    if func is None:
        return lambda given: _decorated(given, max_num_models_per_replica)
    return _decorated(func, max_num_models_per_replica)


def _decorated(func: Any, limit: int) -> Any:
    if not inspect.iscoroutinefunction(func):
        raise TypeError("@serve.multiplexed can only be used to decorate async functions or methods.\nadd `async`")
    names = list(inspect.signature(func).parameters)
    is_method = bool(names) and names[0] == "self"
    if len(names) != 1 + is_method:
        raise TypeError(
            "@serve.multiplexed functions take at exactly one parameter, the id of the model, beside `self`\n"
            f"{func.__name__} takes {names}"
        )
    kept = f"__serve_models_of_{func.__name__}__"
    of_function = _Models(func, limit)

    @functools.wraps(func)
    async def load(*args: Any, **kwargs: Any) -> Any:
        owner = args[0] if is_method and args else None
        given = [*args[is_method:], *kwargs.values()]
        if len(given) != 1 or (is_method and not args):
            raise TypeError(f"{func.__name__} takes one argument, the id of the model, and got {len(given)}")
        if context._get_internal_replica_context() is None:
            raise RuntimeError("@serve.multiplexed can only be used within a deployment\ncall it in a replica")
        models = of_function if owner is None else getattr(owner, kept, None)
        if models is None:
            models = _Models(functools.partial(func, owner), limit)
            setattr(owner, kept, models)
        return await models.get(given[0])

    return load


class _Models:
    """The models of one object. One loads, or goes, at a time."""

    def __init__(self, load: Load, limit: int) -> None:
        self._load = load
        self._limit = limit
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._loading: Counter[str] = Counter()
        self._lock = asyncio.Lock()
        _all_models.add(self)

    def ids(self) -> list[str]:
        return [*(+self._loading), *self._models]

    async def get(self, model_id: Any) -> Any:
        if not isinstance(model_id, str):
            raise TypeError("The model ID must be a string.")
        if not model_id:
            raise ValueError("The model ID cannot be empty.\nname one in the header serve_multiplexed_model_id")
        if _calls.of_process is not None:
            _calls.of_process.model_asked()
        if model_id not in self._models:
            self._loading[model_id] += 1
            _tell()
            try:
                await self._fill(model_id)
            finally:
                self._loading[model_id] -= 1
                _tell()
        self._models.move_to_end(model_id)
        return self._models[model_id]

    async def _fill(self, model_id: str) -> None:
        async with self._lock:
            # Somebody else may have loaded it meanwhile.
            while model_id not in self._models:
                if self._limit == -1 or len(self._models) < self._limit:
                    begun = time.monotonic()
                    self._models[model_id] = await self._load(model_id)
                    if _calls.of_process is not None:
                        _calls.of_process.model_loaded(time.monotonic() - begun)
                    logger.info("loaded model %r", model_id)
                else:
                    victim, model = self._models.popitem(last=False)
                    _tell()
                    logger.info("unloading model %r", victim)
                    begun = time.monotonic()
                    await _unload(model)
                    if _calls.of_process is not None:
                        _calls.of_process.model_unloaded(time.monotonic() - begun)


_all_models: weakref.WeakSet[_Models] = weakref.WeakSet()


def _tell() -> None:
    """Whoever chooses replicas hears which models are here, loaded or being loaded."""
    caller = _calls.of_process
    if caller is not None:
        caller.holds([model_id for models in list(_all_models) for model_id in models.ids()])


async def _unload(model: Any) -> None:
    """Calls the model's `__del__`, where it can be waited for, and only once."""
    unload = getattr(model, "__del__", None)
    if unload is None:
        return
    if inspect.iscoroutinefunction(unload):
        await unload()
    else:
        await asyncio.get_running_loop().run_in_executor(None, unload)
    _forget_destructor(model)
