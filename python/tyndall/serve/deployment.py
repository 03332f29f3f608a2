"""Deployments and applications: what `@serve.deployment` makes, and what `bind` makes of that."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, overload

from . import _options
from ._checks import derived_name, shown
from ._options import DEFAULT, Default
from .config import (
    AutoscalingConfig,
    BackpressureConfig,
    DeploymentActorConfig,
    GangSchedulingConfig,
    LoggingConfig,
    RequestRouterConfig,
)

__all__ = ["Application", "Deployment", "deployment"]

logger = logging.getLogger("tyndall.serve")

_INTERNAL = object()


class Application:
    """A deployment with what it is made from, and all deployments in that.

    It goes to `serve.run`, or into `bind` of another deployment, which gets a handle in its place. The same application
    in two places is one deployment.
    """

    def __init__(self, bound: Deployment) -> None:
        if not isinstance(bound, Deployment):
            raise TypeError(f"an Application is made by `bind` of a deployment, not of {shown(bound)}")
        self._bound = bound

    def __repr__(self) -> str:
        return f"Application(name={self._bound.name!r})"


class Deployment:
    """A class or function with options; `@serve.deployment` makes it, `bind` makes an application of it."""

    def __init__(
        self,
        func_or_class: Any,
        options: Any = None,
        init: Any = None,
        *,
        _internal: object = None,
    ) -> None:
        # A class statement with a deployment among its bases ends here too: Python calls the base's type.
        if _internal is not _INTERNAL:
            raise RuntimeError(
                "a deployment is not constructed, called or subclassed directly\n"
                "decorate a class or function with @serve.deployment, and make an application of it with `.bind()`"
            )
        self._func_or_class: Callable[..., Any] = func_or_class
        self._options: dict[str, Any] = options
        self._init_args: tuple[Any, ...]
        self._init_kwargs: dict[str, Any]
        self._init_args, self._init_kwargs = init
        _options.rules(self._options)

    @classmethod
    def _make(
        cls,
        func_or_class: Callable[..., Any],
        options: dict[str, Any],
        init: tuple[tuple[Any, ...], dict[str, Any]] = ((), {}),
    ) -> Deployment:
        return cls(func_or_class, options, init, _internal=_INTERNAL)

    @property
    def name(self) -> str:
        given: str | None = self._options.get("name")
        return given or derived_name(getattr(self._func_or_class, "__name__", ""))

    @property
    def version(self) -> None:
        """Versions are told by the code and its options."""
        return None

    @property
    def func_or_class(self) -> Callable[..., Any]:
        return self._func_or_class

    @property
    def num_replicas(self) -> int:
        given = self._options.get("num_replicas")
        return given if isinstance(given, int) else 1

    @property
    def user_config(self) -> Any:
        return self._options.get("user_config")

    @property
    def max_ongoing_requests(self) -> int:
        count: int = self._options.get("max_ongoing_requests", 5)
        return count

    @property
    def max_queued_requests(self) -> int:
        count: int = self._options.get("max_queued_requests", -1)
        return count

    @property
    def backpressure_config(self) -> BackpressureConfig:
        return self._options.get("backpressure_config") or BackpressureConfig()

    @property
    def ray_actor_options(self) -> dict[str, Any]:
        return _options.actor_options(self._options)

    @property
    def init_args(self) -> tuple[Any, ...]:
        return self._init_args

    @property
    def init_kwargs(self) -> dict[str, Any]:
        return self._init_kwargs

    @property
    def logging_config(self) -> dict[str, Any] | None:
        given: LoggingConfig | None = self._options.get("logging_config")
        return None if given is None else given.to_dict()

    @property
    def user_configured_option_names(self) -> set[str]:
        """The options that were set, as opposed to those that have their defaults."""
        return set(self._options)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            f"the deployment {self.name!r} is not constructed or called directly\n"
            f"make an application of it with `.bind()`, or call its `.func_or_class`"
        )

    def bind(self, *args: Any, **kwargs: Any) -> Application:
        """An application of this deployment, which is made from these arguments.

        Applications in them, however deep, become handles.
        """
        if not inspect.isclass(self._func_or_class) and (args or kwargs):
            raise ValueError(
                f"the deployment {self.name!r} is a function, and `bind` of a function takes no arguments\n"
                "make it a class that takes them in __init__"
            )
        return Application(self._make(self._func_or_class, self._options, (args, kwargs)))

    def options(
        self,
        func_or_class: Callable[..., Any] | None = None,
        name: Default | str = DEFAULT,
        version: Default | str = DEFAULT,
        num_replicas: Default | int | str | None = DEFAULT,
        ray_actor_options: Default | Mapping[str, Any] | None = DEFAULT,
        placement_group_bundles: Default | list[dict[str, float]] | None = DEFAULT,
        placement_group_strategy: Default | str | None = DEFAULT,
        placement_group_bundle_label_selector: Default | list[dict[str, str]] | None = DEFAULT,
        max_replicas_per_node: Default | int | None = DEFAULT,
        user_config: Default | Any | None = DEFAULT,
        max_ongoing_requests: Default | int = DEFAULT,
        max_queued_requests: Default | int = DEFAULT,
        backpressure_config: Default | Mapping[str, Any] | BackpressureConfig | None = DEFAULT,
        autoscaling_config: Default | Mapping[str, Any] | AutoscalingConfig | None = DEFAULT,
        graceful_shutdown_wait_loop_s: Default | float = DEFAULT,
        graceful_shutdown_timeout_s: Default | float = DEFAULT,
        health_check_period_s: Default | float = DEFAULT,
        health_check_timeout_s: Default | float = DEFAULT,
        logging_config: Default | Mapping[str, Any] | LoggingConfig | None = DEFAULT,
        request_router_config: Default | Mapping[str, Any] | RequestRouterConfig | None = DEFAULT,
        max_constructor_retry_count: Default | int = DEFAULT,
        gang_scheduling_config: Default | Mapping[str, Any] | GangSchedulingConfig | None = DEFAULT,
        deployment_actors: Default | list[DeploymentActorConfig | dict[str, Any]] | None = DEFAULT,
        rolling_update_percentage: Default | float = DEFAULT,
        max_surge_percent: Default | int = DEFAULT,
        tyndall: Default | Mapping[str, Any] | None = DEFAULT,
        _init_args: Default | tuple[Any, ...] = DEFAULT,
        _init_kwargs: Default | dict[str, Any] = DEFAULT,
        _internal: bool = False,
    ) -> Deployment:
        """A copy with these options; those that are not given stay as they are, None takes one back."""
        given = dict(locals())
        args = self._init_args if isinstance(_init_args, Default) else _init_args
        kwargs = self._init_kwargs if isinstance(_init_kwargs, Default) else _init_kwargs
        for name_of_none in ("self", "func_or_class", "_init_args", "_init_kwargs", "_internal"):
            del given[name_of_none]
        options = {**self._options, **_options.checked(given)}
        if num_replicas == "auto" and autoscaling_config is DEFAULT:
            # What the code said of autoscaling lies over what `auto` means.
            options["autoscaling_config"] = AutoscalingConfig.auto(self._options.get("autoscaling_config"))
        elif isinstance(num_replicas, int) and options.get("autoscaling_config") is not None:
            logger.warning(
                f"num_replicas={num_replicas} of deployment {self.name!r} has no effect: its autoscaling_config "
                "holds. To fix the number, set autoscaling_config=None too."
            )
        return self._make(func_or_class or self._func_or_class, options, (args, kwargs))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Deployment):
            return NotImplemented
        return all(getattr(self, one) == getattr(other, one) for one in _COMPARED)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Deployment(name={self.name})"


_COMPARED = (
    "name",
    "func_or_class",
    "num_replicas",
    "user_config",
    "max_ongoing_requests",
    "max_queued_requests",
    "backpressure_config",
    "ray_actor_options",
    "init_args",
    "init_kwargs",
    "logging_config",
    "_options",
)


@overload
def deployment(func_or_class: Callable[..., Any], /) -> Deployment: ...


@overload
def deployment(
    *,
    name: Default | str = DEFAULT,
    version: Default | str = DEFAULT,
    num_replicas: Default | int | str | None = DEFAULT,
    ray_actor_options: Default | Mapping[str, Any] | None = DEFAULT,
    placement_group_bundles: Default | list[dict[str, float]] | None = DEFAULT,
    placement_group_strategy: Default | str | None = DEFAULT,
    placement_group_bundle_label_selector: Default | list[dict[str, str]] | None = DEFAULT,
    max_replicas_per_node: Default | int | None = DEFAULT,
    user_config: Default | Any | None = DEFAULT,
    max_ongoing_requests: Default | int = DEFAULT,
    max_queued_requests: Default | int = DEFAULT,
    backpressure_config: Default | Mapping[str, Any] | BackpressureConfig | None = DEFAULT,
    autoscaling_config: Default | Mapping[str, Any] | AutoscalingConfig | None = DEFAULT,
    graceful_shutdown_wait_loop_s: Default | float = DEFAULT,
    graceful_shutdown_timeout_s: Default | float = DEFAULT,
    health_check_period_s: Default | float = DEFAULT,
    health_check_timeout_s: Default | float = DEFAULT,
    logging_config: Default | Mapping[str, Any] | LoggingConfig | None = DEFAULT,
    request_router_config: Default | Mapping[str, Any] | RequestRouterConfig | None = DEFAULT,
    max_constructor_retry_count: Default | int = DEFAULT,
    gang_scheduling_config: Default | Mapping[str, Any] | GangSchedulingConfig | None = DEFAULT,
    deployment_actors: Default | list[DeploymentActorConfig | dict[str, Any]] | None = DEFAULT,
    rolling_update_percentage: Default | float = DEFAULT,
    max_surge_percent: Default | int = DEFAULT,
    tyndall: Default | Mapping[str, Any] | None = DEFAULT,
) -> Callable[[Callable[..., Any]], Deployment]: ...


def deployment(*targets: Any, **options: Any) -> Deployment | Callable[[Callable[..., Any]], Deployment]:
    """Makes a deployment of a class or function, with or without options.

    Raises ValueError with the option, the cause and the cure, and TypeError for what is no class or function.
    """
    if len(targets) > 1:
        raise TypeError("@serve.deployment takes one class or function; options are given by name")
    checked = _options.checked(options)

    def decorator(target: Callable[..., Any]) -> Deployment:
        if isinstance(target, Deployment) or not (inspect.isclass(target) or inspect.isroutine(target)):
            raise TypeError(
                f"@serve.deployment must be called on a class or function, not on {shown(target)}\n"
                "write it on the line before `class` or `def`; options are given by name"
            )
        return Deployment._make(target, checked)

    return decorator(targets[0]) if targets else decorator
