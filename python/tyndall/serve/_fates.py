"""What becomes of options that Ray has and Tyndall does not carry out.

It is what a config file says of them: most are accepted and warned of, because what they ask for is there anyway or
because one machine has no use for it; a few are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ._checks import shown
from .config import DEFAULT_POLICY, DEFAULT_ROUTER, REPLICA_QUEUE_LENGTH

_NO_RAY_NODES = "this machine is the only node"
_NO_CODE = "nothing is installed for an application; what it needs is in its Python"
_NO_ROUTER = "the built-in rule has no arguments, and gives a request its replica as soon as one has room"

IGNORED: Final[dict[str, tuple[Any, str]]] = {
    "graceful_shutdown_wait_loop_s": (2.0, "the end of the last request is an event"),
    "placement_group_strategy": (None, _NO_RAY_NODES),
    "placement_group_bundle_label_selector": (None, _NO_RAY_NODES),
    "ray_actor_options.accelerator_type": (None, _NO_RAY_NODES),
    "ray_actor_options.label_selector": (None, _NO_RAY_NODES),
    "ray_actor_options.fallback_strategy": (None, _NO_RAY_NODES),
    "ray_actor_options.runtime_env.pip": (None, _NO_CODE),
    "ray_actor_options.runtime_env.uv": (None, _NO_CODE),
    "ray_actor_options.runtime_env.conda": (None, _NO_CODE),
    "ray_actor_options.runtime_env.image_uri": (None, _NO_CODE),
    "ray_actor_options.runtime_env.container": (None, _NO_CODE),
    "autoscaling_config.metrics_interval_s": (10.0, "counts are exact and pushed at every change: nothing is sampled"),
}
"""By path: what has no effect, unless it says this default, and why."""

_OF_THE_SERVER = "the server names it, starts it again, and ends it with its deployment"
_WITH_REPLICAS = "write it under ray_actor_options of the deployment: an actor runs where its replicas do"

IGNORED_OF_ACTORS: Final[dict[str, tuple[Any, str]]] = {
    "name": (None, _OF_THE_SERVER),
    "namespace": (None, _OF_THE_SERVER),
    "lifetime": (None, _OF_THE_SERVER),
    "get_if_exists": (False, _OF_THE_SERVER),
    "max_restarts": (0, _OF_THE_SERVER),
    "max_task_retries": (0, "a call that was under way fails: what it did is not known"),
    "accelerator_type": (None, _NO_RAY_NODES),
    "label_selector": (None, _NO_RAY_NODES),
    "fallback_strategy": (None, _NO_RAY_NODES),
    "scheduling_strategy": (None, _NO_RAY_NODES),
    "runtime_env.pip": (None, _NO_CODE),
    "runtime_env.uv": (None, _NO_CODE),
    "runtime_env.conda": (None, _NO_CODE),
    "runtime_env.image_uri": (None, _NO_CODE),
    "runtime_env.container": (None, _NO_CODE),
}
"""As above, of `actor_options` in `deployment_actors`."""

REFUSED_OF_ACTORS: Final[dict[str, str]] = {
    "concurrency_groups": "leave it out: all methods share max_concurrency",
    "runtime_env.working_dir": _WITH_REPLICAS,
    "runtime_env.py_modules": _WITH_REPLICAS,
}
"""By path: what cannot be carried out, and what to do."""

CARRIED_OUT_OF_ACTORS: Final = (
    "num_cpus",
    "num_gpus",
    "memory",
    "resources",
    "max_concurrency",
    "max_pending_calls",
    "runtime_env",
)

RESERVED_VARIABLES: Final = tuple(
    f"RAY_SERVE_INTERNAL_DEPLOYMENT_{name}" for name in ("APP_NAME", "NAME", "ACTOR_NAME", "CODE_VERSION")
)
"""An actor gets these from the server, as under Ray."""

CAPACITY_QUEUES: Final = (
    "ray.serve.experimental.capacity_queue.CapacityQueue",
    "tyndall.serve.experimental.capacity_queue.CapacityQueue",
)
"""Of Ray's actors the one that a router here does the work of, as code and files name it."""

PREFIX_CACHE: Final = tuple(
    f"{package}.serve.llm.request_router.PrefixCacheAffinityRouter" for package in ("ray", "tyndall")
)
"""Paths of the router of models, which the server's proxy carries out."""

FOR_MODELS: Final = (
    "PrefixCacheAffinityRouter is for models\nwrite it in the deployment_config of a model, or leave it out"
)

POLICIES: Final = (
    "tyndall.policies:ongoing_requests",
    "tyndall.policies:queue_length",
    "tyndall.policies:tokens",
    "tyndall.policies:time_to_first_token",
    DEFAULT_POLICY,
    REPLICA_QUEUE_LENGTH,
)
"""Autoscaling policies of a deployment that are built in."""

_OWN_POLICIES: Final = "tyndall.policies"


def without_effect(options: Mapping[str, Any]) -> Iterator[str]:
    """A line for each option that was set and has no effect."""
    for path, value in _paths(options):
        default, why = IGNORED.get(path, (value, ""))
        if value != default:
            yield f"{path} has no effect: {why}"
    for actor in options.get("deployment_actors") or ():
        yield from _of_actor(actor)
    router = options.get("request_router_config") or {}
    if router.get("request_router_class", DEFAULT_ROUTER) == DEFAULT_ROUTER:
        for key in router:
            if key != "request_router_class":
                yield f"request_router_config.{key} has no effect: {_NO_ROUTER}"
    environment = (options.get("ray_actor_options") or {}).get("runtime_env") or {}
    for key in environment:
        path = f"ray_actor_options.runtime_env.{key}"
        if key not in ("env_vars", "working_dir", "py_modules") and path not in IGNORED:
            yield f"{path} has no effect: it is unknown"


def _of_actor(actor: Mapping[str, Any]) -> Iterator[str]:
    if is_capacity_queue(actor["actor_class"]):
        yield "CapacityQueue has no effect: CapacityQueueRouter keeps its tokens itself"
        return
    options = actor.get("actor_options") or {}
    before = f"actor_options of the deployment actor {actor['name']!r}"
    for path, value in _paths(options):
        default, why = IGNORED_OF_ACTORS.get(path, (value, ""))
        if value != default:
            yield f"{path} in {before} has no effect: {why}"
    for key in options:
        if key not in (*CARRIED_OUT_OF_ACTORS, *IGNORED_OF_ACTORS, *REFUSED_OF_ACTORS):
            yield f"{key!r} in {before} is not known and has no effect"


def is_capacity_queue(path: str) -> bool:
    """Whether it is the class of an actor that its router does without."""
    return path.replace(":", ".") in CAPACITY_QUEUES


def scaling(options: Mapping[str, Any]) -> Iterator[str]:
    """A line where replicas take fewer requests than they shall have."""
    config, ongoing = options.get("autoscaling_config"), options.get("max_ongoing_requests", 5)
    if config is not None and ongoing < config.target_ongoing_requests:
        yield (
            f"a replica takes {ongoing} requests and the target is {config.target_ongoing_requests:g}: only requests "
            "that wait can add replicas. Raise max_ongoing_requests above it."
        )


def refuse(options: Mapping[str, Any]) -> None:
    """Raises ValueError for the first option that cannot be carried out."""
    for actor in options.get("deployment_actors") or ():
        given, of = dict(_paths(actor.get("actor_options") or {})), f"of the deployment actor {actor['name']!r}"
        for path, cure in REFUSED_OF_ACTORS.items():
            if given.get(path):
                raise ValueError(f"{path} {of} cannot be carried out\n{cure}")
        for variable in given.get("runtime_env.env_vars") or ():
            if variable in RESERVED_VARIABLES:
                raise ValueError(f"{variable} {of} is the server's to set\nleave it out")
    scaling = options.get("autoscaling_config") or {}
    policy = (scaling.get("policy") or {}).get("policy_function", DEFAULT_POLICY)
    if not is_built_in(policy) and policy.replace(":", ".").startswith(_OWN_POLICIES):
        known = ", ".join(path for path in POLICIES if path.startswith(_OWN_POLICIES))
        raise ValueError(f"autoscaling_config.policy names {shown(policy)}, which is not there\nbuilt in are {known}")


def is_built_in(policy: str) -> bool:
    """Whether the server itself has the policy at this path."""
    return policy.replace(":", ".") in {known.replace(":", ".") for known in POLICIES}


def server_options(http: Mapping[str, Any]) -> Iterator[str]:
    """A line for each option of listeners that was set and has no effect.

    Raises ValueError for one that cannot be carried out.
    """
    for name in ("ssl_keyfile", "ssl_certfile", "ssl_keyfile_password", "ssl_ca_certs"):
        if http.get(name) is not None:
            raise ValueError(f"http_options.{name} cannot be carried out\nend TLS in front of the proxy")
    for name, (default, why) in _IGNORED_HTTP.items():
        if http.get(name, default) != default:
            yield f"http_options.{name} has no effect: {why}"


_IGNORED_HTTP: Final[dict[str, tuple[Any, str]]] = {
    "root_path": ("", "links are made from the route prefix alone"),
    "root_url": ("", "links are made from the route prefix alone"),
    "keep_alive_timeout_s": (90, "an idle connection costs nothing and stays until its client ends it"),
}


def _paths(options: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        path = f"{before}{key}"
        yield path, value
        if isinstance(value, Mapping):
            yield from _paths(value, f"{path}.")
