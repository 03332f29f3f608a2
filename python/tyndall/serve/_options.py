"""Options of a deployment: what each takes, what does not go together, and how a config file writes them.

Options are kept as they were set and nothing else, so that a config file can tell what the code says from what is a
default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from . import _checks as checks
from ._model import Model, plain, unknown
from .config import (
    AutoscalingConfig,
    BackpressureConfig,
    DeploymentActorConfig,
    GangSchedulingConfig,
    LoggingConfig,
    RequestRouterConfig,
)


class Default(Enum):
    """Stands where nothing was set, as None can be set."""

    VALUE = 1

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.VALUE

_PLACEMENT_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


def _num_replicas(name: str, value: Any) -> int | str | None:
    if value is None or value == "auto":
        return "auto" if value else None
    if value == 0:
        raise ValueError(
            "num_replicas is expected to larger than 0\nfor none while idle set autoscaling_config with min_replicas 0"
        )
    accepted = 'a whole number from 1 on, or "auto"'
    try:
        count: int = checks.whole(1)(name, value)
    except checks.OptionTypeError:
        raise checks.wrong_type(name, value, accepted) from None
    except ValueError:
        raise checks.misfit(name, value, accepted) from None
    return count


def _autoscaling(name: str, value: Any) -> AutoscalingConfig:
    return AutoscalingConfig.parse(name, value)


def _max_ongoing(name: str, value: Any) -> int:
    if value is None:
        raise ValueError(f"`{name}` must be non-null, got None.\nleave it out for 5")
    count: int = checks.whole(1)(name, value)
    return count


def _max_queued(name: str, value: Any) -> int:
    accepted = "-1 (no limit) or a whole number from 1 on"
    try:
        count: int = checks.whole(-1)(name, value)
    except checks.OptionTypeError:
        raise checks.wrong_type(name, value, accepted) from None
    except ValueError:
        raise checks.misfit(name, value, accepted) from None
    if count == 0:
        raise checks.misfit(name, value, accepted)
    return count


_ACTOR_OPTIONS: dict[str, checks.Check] = {
    "accelerator_type": checks.nullable(checks.text),
    "fallback_strategy": checks.nullable(checks.listed(checks.json_mapping)),
    "label_selector": checks.nullable(checks.texts),
    "memory": checks.nullable(checks.NOT_NEGATIVE),
    "num_cpus": checks.nullable(checks.NOT_NEGATIVE),
    "num_gpus": checks.nullable(checks.NOT_NEGATIVE),
    "resources": checks.nullable(checks.amounts),
    "runtime_env": checks.nullable(checks.json_mapping),
}


def _actor_options(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise checks.OptionTypeError(f'Got invalid type "{type(value)}" for {name}. Expected a dictionary.')
    for key in value:
        if key not in _ACTOR_OPTIONS:
            allowed = ", ".join(_ACTOR_OPTIONS)
            raise ValueError(f"Specifying {key!r} in {name} is not allowed. Allowed options: {allowed}")
    given = {key: _ACTOR_OPTIONS[key](f"{name}[{key!r}]", one) for key, one in value.items()}
    environment = given.get("runtime_env") or {}
    if "env_vars" in environment:
        checks.texts(f"{name}['runtime_env']['env_vars']", environment["env_vars"])
    return given


def _bundles(name: str, value: Any) -> list[dict[str, float]]:
    bundles: list[dict[str, float]] = checks.listed(checks.amounts)(name, value)
    if not bundles or not all(bundles):
        raise checks.misfit(name, value, "a list of at least one dictionary, such as [{'CPU': 1.0}]; none is empty")
    return bundles


def _actors(name: str, value: Any) -> list[DeploymentActorConfig]:
    actors: list[DeploymentActorConfig] = checks.listed(DeploymentActorConfig.parse)(name, value)
    names = [actor.name for actor in actors]
    for one in names:
        if names.count(one) > 1:
            raise ValueError(f"{name} has two actors that are called {one!r}\ngive each its own name")
    return actors


OWN: Final[dict[str, checks.Check]] = {
    "pinned": checks.boolean,
    "priority": checks.whole(-1_000_000, 1_000_000),
    "min_residency_s": checks.NOT_NEGATIVE,
    "automatic_rollback": checks.boolean,
    "startup_timeout_s": checks.POSITIVE,
    "request_timeout_s": checks.nullable(checks.POSITIVE),
    "max_constructor_retry_count": checks.whole(1),
    "preload": checks.listed(checks.module),
    "warm_processes": checks.nullable(checks.whole(0, 64)),
}
"""Options that Ray does not have."""


def _own(name: str, value: Any) -> dict[str, Any]:
    given = checks.mapping(name, value)
    for key in given:
        if key not in OWN:
            raise unknown(name, key, list(OWN))
    return {key: OWN[key](f"{name}[{key!r}]", one) for key, one in given.items()}


CHECKS: Final[dict[str, checks.Check]] = {
    "name": checks.deployment_name,
    "num_replicas": _num_replicas,
    "autoscaling_config": checks.nullable(_autoscaling),
    "ray_actor_options": checks.nullable(_actor_options),
    "placement_group_bundles": checks.nullable(_bundles),
    "placement_group_strategy": checks.nullable(checks.word(*_PLACEMENT_STRATEGIES)),
    "placement_group_bundle_label_selector": checks.nullable(checks.listed(checks.texts)),
    "max_replicas_per_node": checks.nullable(checks.whole(1, 100)),
    "user_config": checks.nullable(checks.json_value),
    "max_ongoing_requests": _max_ongoing,
    "max_queued_requests": _max_queued,
    "backpressure_config": checks.nullable(BackpressureConfig.parse),
    "graceful_shutdown_wait_loop_s": checks.NOT_NEGATIVE,
    "graceful_shutdown_timeout_s": checks.NOT_NEGATIVE,
    "health_check_period_s": checks.POSITIVE,
    "health_check_timeout_s": checks.POSITIVE,
    "logging_config": checks.nullable(LoggingConfig.parse),
    "request_router_config": checks.nullable(RequestRouterConfig.parse),
    "max_constructor_retry_count": checks.whole(1),
    "gang_scheduling_config": checks.nullable(GangSchedulingConfig.parse),
    "deployment_actors": checks.nullable(_actors),
    "rolling_update_percentage": checks.number(0.0, 1.0, above=True),
    "max_surge_percent": checks.whole(0, 100),
    "tyndall": checks.nullable(_own),
}

_MAX_SHOWN_CHARS: Final = 4096
"""Of one argument of an actor. Processes are told the description as words of a command line, which has a limit."""

_NO_VERSION = (
    "`version` in `@serve.deployment` has been removed. Versions are told by the code and its options.\nleave it out"
)


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were set, in their own form; what is `DEFAULT` is left out.

    Raises ValueError, for a wrong type one that is a TypeError too, with the option, the cause and the cure.
    """
    given = {name: value for name, value in given.items() if value is not DEFAULT}
    if "version" in given:
        raise ValueError(_NO_VERSION)
    for name in given:
        if name not in CHECKS:
            raise unknown("a deployment", name, list(CHECKS))
    scaling, count = given.get("autoscaling_config"), given.get("num_replicas")
    if count == "auto":
        given["autoscaling_config"] = AutoscalingConfig.auto(scaling)
    options = {name: CHECKS[name](name, value) for name, value in given.items() if not _is_auto(name, count)}
    if count == "auto":
        options["autoscaling_config"] = given["autoscaling_config"]
    elif isinstance(options.get("num_replicas"), int) and options.get("autoscaling_config") is not None:
        raise ValueError(
            "Manually setting num_replicas is not allowed when autoscaling_config is provided.\n"
            'leave num_replicas out, or make it "auto"'
        )
    return options


def _is_auto(name: str, count: Any) -> bool:
    """Whether the option is autoscaling under `num_replicas="auto"`, whose bounds hold for both together."""
    return name == "autoscaling_config" and bool(count == "auto")


def rules(options: Mapping[str, Any]) -> None:
    """What involves several options, of a deployment as it is then.

    Raises ValueError with the cause and the cure.
    """
    _placement(options)
    _gang(options)


def _placement(options: Mapping[str, Any]) -> None:
    bundles = options.get("placement_group_bundles")
    for name in ("placement_group_strategy", "placement_group_bundle_label_selector"):
        if options.get(name) is not None and bundles is None:
            raise ValueError(
                f"If `{name}` is provided, `placement_group_bundles` must also be provided.\n"
                "write the bundles, or leave it out"
            )
    if bundles is None:
        return
    if options.get("max_replicas_per_node") is not None:
        raise ValueError(
            "Setting max_replicas_per_node is not allowed when placement_group_bundles is provided.\n"
            "leave one of them out"
        )
    selectors = options.get("placement_group_bundle_label_selector")
    if selectors is not None and len(selectors) not in (1, len(bundles)):
        raise ValueError(
            f"placement_group_bundle_label_selector has {len(selectors)} entries for {len(bundles)} bundles\n"
            "write one for all, or one for each"
        )
    _first_bundle(actor_options(options), bundles[0])


def _first_bundle(actor: Mapping[str, Any], bundle: Mapping[str, float]) -> None:
    """A replica itself lies in the first bundle."""
    wanted = {
        "CPU": actor.get("num_cpus") or 0.0,
        "GPU": actor.get("num_gpus") or 0.0,
        **(actor.get("resources") or {}),
    }
    for resource, amount in wanted.items():
        if amount > bundle.get(resource, 0.0):
            raise ValueError(
                f"a replica takes {amount:g} {resource} (ray_actor_options), and the first of placement_group_bundles, "
                f"in which it lies, has {bundle.get(resource, 0.0):g}\nraise the bundle's {resource}, or lower the "
                "replica's"
            )


def _gang(options: Mapping[str, Any]) -> None:
    gang = options.get("gang_scheduling_config")
    if gang is None:
        return
    for name in ("max_replicas_per_node", "placement_group_strategy"):
        if options.get(name) is not None:
            raise ValueError(f"{name} is not allowed when gang_scheduling_config is provided.\nleave one of them out")
    # Where nothing is said of either, there is one replica.
    counts: dict[str, Any] = {"num_replicas": options.get("num_replicas") or 1}
    scaling = options.get("autoscaling_config")
    if isinstance(scaling, AutoscalingConfig):
        fields = ("min_replicas", "max_replicas", "initial_replicas")
        counts = {name: value for name, value in scaling.user_set().items() if name in fields}
    for name, count in counts.items():
        if isinstance(count, int) and count % gang.gang_size:
            raise ValueError(
                f"{name} ({count}) must be a multiple of gang_size ({gang.gang_size}).\nchoose a multiple of it"
            )


def actor_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a replica takes of its machine, with Ray's default of one CPU."""
    given = {key: value for key, value in (options.get("ray_actor_options") or {}).items() if value is not None}
    return {"num_cpus": 1, **given}


def written(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were set, by the names of a config file."""
    file: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Model):
            file[name] = _without_none(plain(value, only_set=True))
        elif name == "ray_actor_options" and value is not None:
            file[name] = _without_none(value)
        elif name == "deployment_actors" and value is not None:
            file[name] = [described_actor(one) for one in value]
        elif name == "max_constructor_retry_count":
            file["tyndall"] = {**file.get("tyndall", {}), name: value}
        elif name == "tyndall" and value is not None:
            file[name] = {**_without_none(value), **file.get(name, {})}
        elif value is not None:
            file[name] = plain(value, only_set=True)
    return file


def described_actor(actor: DeploymentActorConfig) -> dict[str, Any]:
    """As a config file has it; of what it is made from and JSON has not, or only at length, the names of types."""
    given = actor.to_dict(only_set=True)
    if "init_args" in given:
        given["init_args"] = [_as_json(one) for one in given["init_args"]]
    if "init_kwargs" in given:
        given["init_kwargs"] = {name: _as_json(one) for name, one in given["init_kwargs"].items()}
    if "actor_options" in given:
        options = given["actor_options"]
        given["actor_options"] = {name: _as_json(one) for name, one in options.items() if one is not None}
    return given


def _as_json(value: Any) -> Any:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        text = None
    if text is None or len(text) > _MAX_SHOWN_CHARS:
        return f"<{type(value).__module__}.{type(value).__qualname__}>"
    return json.loads(text)


def described(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were set, as a config file takes them."""
    file = written(options)
    if "autoscaling_config" in file:
        if isinstance(file.get("num_replicas"), int):
            # Ray's rule: a number that came later leaves the autoscaling of before in force.
            del file["num_replicas"]
        elif "num_replicas" in file and not file["autoscaling_config"]:
            del file["autoscaling_config"]
    return file


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
