"""Options of deployments and of the server, by Ray Serve's names.

Wherever one of these records is taken, a dictionary with the same keys is taken too.
"""

from __future__ import annotations

import copy
import importlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, TypeVar

from . import _checks as checks
from ._model import Model, option, required

__all__ = [
    "AggregationFunction",
    "AutoscalingConfig",
    "AutoscalingContext",
    "AutoscalingPolicy",
    "BackpressureConfig",
    "ControllerOptions",
    "DeploymentActorConfig",
    "DeploymentMode",
    "EncodingType",
    "GangPlacementStrategy",
    "GangRuntimeFailurePolicy",
    "GangSchedulingConfig",
    "HTTPOptions",
    "LoggingConfig",
    "ProxyLocation",
    "RequestRouterConfig",
    "TracingConfig",
    "gRPCOptions",
]

DEFAULT_POLICY = "ray.serve.autoscaling_policy:default_autoscaling_policy"
REPLICA_QUEUE_LENGTH = "ray.serve.autoscaling_policy:replica_queue_length_autoscaling_policy"
DEFAULT_ROUTER = "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter"
DEFAULT_METRICS_INTERVAL_S = 10.0
AUTO_MAX_REPLICAS = 100


class ProxyLocation(str, Enum):
    """Where requests from outside are taken."""

    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"

    @classmethod
    def _missing_(cls, value: object) -> ProxyLocation | None:
        # The name before Ray 2.0.
        return cls.Disabled if value == "NoServer" else None


class EncodingType(str, Enum):
    """The form of log lines."""

    TEXT = "TEXT"
    JSON = "JSON"


class DeploymentMode(str, Enum):
    """The older name and words of `ProxyLocation`."""

    NoServer = "NoServer"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"


class AggregationFunction(str, Enum):
    """What of the look-back period counts."""

    MEAN = "mean"
    MAX = "max"
    MIN = "min"


class GangPlacementStrategy(str, Enum):
    PACK = "PACK"
    SPREAD = "SPREAD"


class GangRuntimeFailurePolicy(str, Enum):
    RESTART_GANG = "RESTART_GANG"
    RESTART_REPLICA = "RESTART_REPLICA"


def _member(of: type[Enum]) -> checks.Check:
    """A member of an enumeration, or its word."""
    known = checks.word(*(str(one.value) for one in of))

    def check(name: str, value: Any) -> Enum:
        return of(known(name, value))

    return check


def _policy_function(name: str, value: Any) -> str:
    """A path; of the functions in `tyndall.serve.autoscaling_policy` Ray's, by which the server knows them."""
    path: str = checks.import_path(name, value)
    module, _, function = path.replace(":", ".").rpartition(".")
    if module == f"{__package__}.autoscaling_policy":
        return f"ray.serve.autoscaling_policy:{function}"
    return path


C = TypeVar("C", bound="_WithCode")


class _WithCode(Model):
    """A record that names code, by its path or as it is."""

    code: ClassVar[str]
    """The field that does."""

    def check(self) -> None:
        given = self.__dict__[self.code]
        super().check()
        if not isinstance(given, str):
            # It goes along as it is: what is made inside of a function stands at no path.
            self.__dict__["_given"] = given

    @classmethod
    def parse(cls: type[C], name: str, value: Any) -> C:
        if not isinstance(value, cls):
            return super().parse(name, value)
        # With its name: what was pickled by value may have forgotten where it came from.
        copied = copy.copy(value)
        copied.__dict__["_set"] = set(value._set)
        return copied

    def _found(self) -> Callable[..., Any]:
        """The code itself. Raises ImportError or AttributeError where its path leads nowhere."""
        if "_given" in self.__dict__:
            given: Callable[..., Any] = self.__dict__["_given"]
            return given
        path = str(self.__dict__[self.code])
        separator = ":" if ":" in path else "."
        module, _, names = path.rpartition(separator)
        if module.startswith(_RAY_EXPERIMENTAL):
            module = f"{__package__}.experimental.{module.removeprefix(_RAY_EXPERIMENTAL)}"
        found: Any = importlib.import_module(_OWN_MODULES.get(module, module))
        for name in names.split("."):
            found = getattr(found, name)
        code: Callable[..., Any] = found
        return code


_RAY_EXPERIMENTAL = "ray.serve.experimental."

_OWN_MODULES = {
    "ray.serve.async_inference_autoscaling_policy": f"{__package__}.async_inference_autoscaling_policy",
    "ray.serve.autoscaling_policy": f"{__package__}.autoscaling_policy",
    "ray.serve.request_router": f"{__package__}.request_router",
    "ray.serve._private.request_router": f"{__package__}.request_router",
}
"""By the names of Ray's modules, those that have what an application may name there."""


@dataclass(kw_only=True)
class AutoscalingPolicy(_WithCode):
    """Another way to decide how many replicas there are."""

    code: ClassVar[str] = "policy_function"

    policy_function: str | Callable[..., Any] = option(DEFAULT_POLICY, _policy_function)
    policy_kwargs: dict[str, Any] = option({}, checks.json_mapping)

    def is_default_policy_function(self) -> bool:
        return self.policy_function == DEFAULT_POLICY

    def get_policy(self) -> Callable[..., Any]:
        """The function or class itself. Raises ImportError or AttributeError where its path leads nowhere."""
        return self._found()


def _policy(name: str, value: Any) -> AutoscalingPolicy:
    return AutoscalingPolicy.parse(name, {} if value is None else value)


@dataclass(kw_only=True)
class AutoscalingConfig(Model):
    """When replicas come and go."""

    min_replicas: int = option(1, checks.whole(0))
    initial_replicas: int | None = option(None, checks.nullable(checks.whole(0)))
    max_replicas: int = option(1, checks.whole(1))
    target_ongoing_requests: float = option(2.0, checks.POSITIVE)
    metrics_interval_s: float = option(DEFAULT_METRICS_INTERVAL_S, checks.POSITIVE)
    look_back_period_s: float = option(30.0, checks.POSITIVE)
    smoothing_factor: float = option(1.0, checks.POSITIVE)
    upscale_smoothing_factor: float | None = option(None, checks.nullable(checks.POSITIVE))
    downscale_smoothing_factor: float | None = option(None, checks.nullable(checks.POSITIVE))
    upscaling_factor: float | None = option(None, checks.nullable(checks.POSITIVE))
    downscaling_factor: float | None = option(None, checks.nullable(checks.POSITIVE))
    downscale_delay_s: float = option(600.0, checks.NOT_NEGATIVE)
    downscale_to_zero_delay_s: float | None = option(None, checks.nullable(checks.NOT_NEGATIVE))
    upscale_delay_s: float = option(30.0, checks.NOT_NEGATIVE)
    aggregation_function: AggregationFunction | str = option(AggregationFunction.MEAN, _member(AggregationFunction))
    policy: AutoscalingPolicy | dict[str, Any] | None = option(None, _policy)

    def rules(self) -> None:
        least, most, initial = self.min_replicas, self.max_replicas, self.initial_replicas
        if most < least:
            raise ValueError(
                f"max_replicas ({most}) must be greater than or equal to min_replicas ({least})!\n"
                "raise max_replicas or lower min_replicas"
            )
        if initial is not None and not least <= initial <= most:
            raise ValueError(
                f"initial_replicas ({initial}) must lie between min_replicas ({least}) and max_replicas ({most})\n"
                "choose one between them, or leave it out"
            )
        if self.metrics_interval_s != DEFAULT_METRICS_INTERVAL_S:
            message = "metrics_interval_s has no effect: counts are exact and pushed at every change"
            warnings.warn(message, DeprecationWarning, stacklevel=4)
        if self.look_back_period_s <= self.metrics_interval_s and "look_back_period_s" in self._set:
            message = (
                f"look_back_period_s ({self.look_back_period_s:g}) is not above metrics_interval_s "
                f"({self.metrics_interval_s:g}), which Ray will refuse"
            )
            warnings.warn(message, FutureWarning, stacklevel=4)

    @classmethod
    def auto(cls, given: Any = None) -> AutoscalingConfig:
        """What `num_replicas="auto"` means, under what was set."""
        if isinstance(given, AutoscalingConfig):
            fields = given.user_set()
        elif isinstance(given, Mapping) or given is None:
            fields = dict(given or {})
        else:
            raise checks.wrong_type("autoscaling_config", given, "a dictionary or AutoscalingConfig")
        made = cls(**{"min_replicas": 1, "max_replicas": AUTO_MAX_REPLICAS, "target_ongoing_requests": 2, **fields})
        made._set = set(fields)
        return made

    @classmethod
    def default(cls) -> AutoscalingConfig:
        return cls.auto()

    def get_policy(self) -> AutoscalingPolicy:
        return _policy("policy", self.policy)

    def get_target_ongoing_requests(self) -> float:
        return self.target_ongoing_requests

    def get_upscaling_factor(self) -> float:
        return self.upscaling_factor or self.upscale_smoothing_factor or self.smoothing_factor

    def get_downscaling_factor(self) -> float:
        return self.downscaling_factor or self.downscale_smoothing_factor or self.smoothing_factor


@dataclass
class AutoscalingContext:
    """What a policy decides by."""

    deployment_id: Any
    deployment_name: str
    app_name: str | None
    current_num_replicas: int
    target_num_replicas: int
    running_replicas: list[Any] = field(default_factory=list)
    total_num_requests: float = 0.0
    total_queued_requests: float = 0.0
    aggregated_metrics: dict[str, dict[Any, float]] = field(default_factory=dict)
    raw_metrics: dict[str, dict[Any, list[Any]]] = field(default_factory=dict)
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 1
    policy_state: dict[str, Any] = field(default_factory=dict)
    last_scale_up_time: float | None = None
    last_scale_down_time: float | None = None
    current_time: float | None = None
    config: AutoscalingConfig | None = None

    @property
    def total_running_requests(self) -> float:
        return max(0.0, self.total_num_requests - self.total_queued_requests)


def _status_code(name: str, value: Any) -> int:
    code: int = checks.whole(0)(name, value)
    if code not in (503, 429):
        raise checks.misfit(name, value, "503 or 429")
    return code


@dataclass(kw_only=True)
class BackpressureConfig(Model):
    """The answer when the queue is full."""

    status_code: int = option(503, _status_code)
    retry_after_s: float | None = option(None, checks.nullable(checks.NOT_NEGATIVE))


def _router_class(name: str, value: Any) -> str:
    """A path; of the rule that is built in Ray's, by which the server knows it."""
    path: str = checks.import_path(name, value)
    return DEFAULT_ROUTER if is_built_in_router(path) else path


def is_built_in_router(path: str) -> bool:
    """Whether those who send requests know the router at this path themselves."""
    module, _, name = path.replace(":", ".").rpartition(".")
    return name == "PowerOfTwoChoicesRequestRouter" and module in (
        f"{__package__}.request_router",
        "ray.serve._private.request_router",
        "ray.serve._private.request_router.pow_2_router",
    )


@dataclass(kw_only=True)
class RequestRouterConfig(_WithCode):
    """How replicas are chosen."""

    code: ClassVar[str] = "request_router_class"

    request_router_class: str | Callable[..., Any] = option(DEFAULT_ROUTER, _router_class)
    request_router_kwargs: dict[str, Any] = option({}, checks.json_mapping)
    request_routing_stats_period_s: float = option(10.0, checks.POSITIVE)
    request_routing_stats_timeout_s: float = option(30.0, checks.POSITIVE)
    initial_backoff_s: float = option(0.025, checks.POSITIVE)
    backoff_multiplier: float = option(2.0, checks.POSITIVE)
    max_backoff_s: float = option(0.5, checks.POSITIVE)

    def is_default_request_router(self) -> bool:
        return self.request_router_class == DEFAULT_ROUTER

    def get_request_router_class(self) -> Callable[..., Any]:
        """The class itself. Raises ImportError or AttributeError where its path leads nowhere."""
        return self._found()


_STANDARD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


_LEVELS = {level: logging.getLevelName(level) for level in (10, 20, 30, 40, 50)}


def _log_level(name: str, value: Any) -> int | str:
    """The name of a level, or its number where it has no name of its own."""
    accepted = f"one of {', '.join(_LEVELS.values())}, or a whole number from 0 to 100"
    if isinstance(value, str) and not value.isdecimal():
        value = logging.getLevelName(value.upper())
        if not isinstance(value, int):
            raise checks.misfit(name, value.removeprefix("Level "), accepted)
    try:
        level: int = checks.whole(0, 100)(name, value)
    except checks.OptionTypeError:
        raise checks.wrong_type(name, value, accepted) from None
    except ValueError:
        raise checks.misfit(name, value, accepted) from None
    return _LEVELS.get(level, level)


def _log_attributes(name: str, value: Any) -> list[str]:
    given = checks.listed(checks.text)(name, value)
    for one in given:
        if one not in _STANDARD_ATTRIBUTES:
            raise checks.misfit(name, one, "attributes that each of Python's log records has")
    return list(dict.fromkeys(given))


@dataclass(kw_only=True)
class LoggingConfig(Model):
    """Logs of replicas."""

    encoding: EncodingType | str = option(EncodingType.TEXT, _member(EncodingType))
    log_level: int | str = option("INFO", _log_level)
    logs_dir: str | None = option(None, checks.nullable(checks.text))
    enable_access_log: bool = option(True, checks.boolean)
    # Not compared, as in Ray: it changes nothing but the lines.
    additional_log_standard_attrs: list[str] = field(
        default_factory=list, compare=False, metadata={"check": _log_attributes}
    )


def _default_host() -> str:
    return os.environ.get("RAY_SERVE_DEFAULT_HTTP_HOST") or "127.0.0.1"


def _timeout(name: str, value: Any) -> float | None:
    """Seconds; none for 0 and less, as in Ray."""
    seconds: float = checks.number(-math.inf)(name, value)
    return seconds if seconds > 0 else None


def _middlewares(name: str, value: Any) -> list[Any]:
    if value:
        raise ValueError(f"{name} is no longer taken\nput the middleware into the ASGI application of the ingress")
    return []


def _no_cpus(name: str, value: Any) -> int:
    if value != 0:
        raise ValueError(f"{name} is {checks.shown(value)}: the proxy's CPUs are not set aside\nleave it out")
    return 0


def _proxy_location(name: str, value: Any) -> ProxyLocation:
    known = [one.value for one in ProxyLocation]
    return ProxyLocation(checks.word(*known, "NoServer")(name, value))


@dataclass(kw_only=True)
class HTTPOptions(Model):
    """The HTTP listener."""

    is_open: ClassVar[bool] = True

    host: str | None = field(default_factory=_default_host, metadata={"check": checks.nullable(checks.text)})
    port: int = option(8000, checks.whole(0, 65_535))
    middlewares: list[Any] = option([], _middlewares)
    location: ProxyLocation | str | None = option(None, checks.nullable(_proxy_location))
    num_cpus: int = option(0, _no_cpus)
    root_url: str = option("", checks.text)
    root_path: str = option("", checks.text)
    request_timeout_s: float | None = option(None, checks.nullable(_timeout))
    keep_alive_timeout_s: int = option(90, checks.whole(0, 86_400))
    ssl_keyfile: str | None = option(None, checks.nullable(checks.text))
    ssl_certfile: str | None = option(None, checks.nullable(checks.text))
    ssl_keyfile_password: str | None = option(None, checks.nullable(checks.text))
    ssl_ca_certs: str | None = option(None, checks.nullable(checks.text))

    def rules(self) -> None:
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ValueError("ssl_keyfile and ssl_certfile go together\nset both or neither")
        if self.location is not None:
            message = "HTTPOptions.location is deprecated; use proxy_location of serve.start"
            warnings.warn(message, DeprecationWarning, stacklevel=4)


@dataclass(kw_only=True)
class gRPCOptions(Model):  # noqa: N801, Ray's name
    """The gRPC listener."""

    is_open: ClassVar[bool] = True

    port: int = option(9000, checks.whole(0, 65_535))
    grpc_servicer_functions: list[str] = option([], checks.listed(checks.import_path))
    request_timeout_s: float | None = option(None, checks.nullable(_timeout))
    enable_reflection: bool = option(True, checks.boolean)


def _env_vars_only(name: str, value: Any) -> dict[str, Any]:
    given = checks.mapping(name, value)
    if stray := [key for key in given if key != "env_vars"]:
        raise ValueError(f"{name} has {', '.join(stray)}\nonly env_vars may stand in it")
    return {key: checks.texts(f"{name}.{key}", one) for key, one in given.items()}


@dataclass(kw_only=True)
class ControllerOptions(Model):
    """The controller's environment."""

    runtime_env: dict[str, Any] | None = option(None, checks.nullable(_env_vars_only))


@dataclass(kw_only=True)
class TracingConfig(Model):
    """Export of spans."""

    enabled: bool | None = option(None, checks.nullable(checks.boolean))
    exporter_import_path: str | None = option(None, checks.nullable(checks.import_path))
    sampling_ratio: float = option(0.01, checks.number(0.0, 1.0))


@dataclass(kw_only=True)
class GangSchedulingConfig(Model):
    """Replicas that start and end together."""

    gang_size: int = required(checks.whole(1))
    gang_placement_strategy: GangPlacementStrategy | str = option(
        GangPlacementStrategy.PACK, _member(GangPlacementStrategy)
    )
    runtime_failure_policy: GangRuntimeFailurePolicy | str = option(
        GangRuntimeFailurePolicy.RESTART_GANG, _member(GangRuntimeFailurePolicy)
    )

    def rules(self) -> None:
        if self.runtime_failure_policy == GangRuntimeFailurePolicy.RESTART_REPLICA:
            raise NotImplementedError("runtime_failure_policy RESTART_REPLICA is not there\nuse RESTART_GANG")


def _actor_name(name: str, value: Any) -> str:
    if checks.text(name, value) == "":
        raise checks.misfit(name, value, "a name that is not empty")
    return str(value)


def _actor_options(name: str, value: Any) -> dict[str, Any]:
    """Those that are carried out in their own form, others as they are: what becomes of them is said when they are."""
    given = checks.mapping(name, {} if value is None else value)
    own = {key: _ACTOR_OPTIONS[key](f"{name}[{key!r}]", one) for key, one in given.items() if key in _ACTOR_OPTIONS}
    environment = own.get("runtime_env") or {}
    if "env_vars" in environment:
        checks.texts(f"{name}['runtime_env']['env_vars']", environment["env_vars"])
    return {**given, **own}


@dataclass(kw_only=True)
class DeploymentActorConfig(_WithCode):
    """An object in a process of its own, which all replicas of a version share."""

    code: ClassVar[str] = "actor_class"

    name: str = required(_actor_name)
    actor_class: str | Callable[..., Any] = required(checks.import_path)
    init_args: tuple[Any, ...] = option((), lambda _, value: () if value is None else tuple(value))
    init_kwargs: dict[str, Any] = option({}, lambda name, value: checks.mapping(name, value or {}))
    actor_options: dict[str, Any] = option({}, _actor_options)

    def get_actor_class(self) -> Callable[..., Any]:
        """The class itself. Raises ImportError or AttributeError where its path leads nowhere."""
        return self._found()


_ACTOR_OPTIONS: dict[str, checks.Check] = {
    "num_cpus": checks.nullable(checks.NOT_NEGATIVE),
    "num_gpus": checks.nullable(checks.NOT_NEGATIVE),
    "memory": checks.nullable(checks.NOT_NEGATIVE),
    "resources": checks.nullable(checks.amounts),
    "max_concurrency": checks.nullable(checks.whole(1)),
    "max_pending_calls": checks.whole(-1),
    "runtime_env": checks.nullable(checks.json_mapping),
}
