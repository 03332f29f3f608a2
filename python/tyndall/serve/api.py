"""What a program does with applications: run, look at, call and delete them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from . import _admin, _fates, _graph, _local_testing, _models
from ._admin import ServerUnreachable
from .config import ControllerOptions, HTTPOptions, LoggingConfig, ProxyLocation, TracingConfig, gRPCOptions
from .context import DeploymentActorContext, _get_internal_replica_context
from .context import get_deployment_actor_context as context_of_actor
from .deployment import Application
from .exceptions import RayServeException
from .handle import DeploymentHandle
from .schema import ServeStatus

if TYPE_CHECKING:
    from ._actors import ActorHandle

__all__ = [
    "RunTarget",
    "delete",
    "get_app_handle",
    "get_deployment_actor",
    "get_deployment_actor_context",
    "get_deployment_handle",
    "get_trace_context",
    "run",
    "run_many",
    "shutdown",
    "shutdown_async",
    "start",
    "status",
]

logger = logging.getLogger("tyndall.serve")

_DELETE_TIMEOUT_S = 60.0
_SHUTDOWN_TIMEOUT_S = 30.0
_BLOCKING_SLEEP_S = 10.0


@dataclass(frozen=True)
class RunTarget:
    """An application for `run_many`."""

    target: Application
    name: str = "default"
    route_prefix: str | None = "/"
    logging_config: Mapping[str, Any] | LoggingConfig | None = None
    external_scaler_enabled: bool = False


def start(
    proxy_location: str | ProxyLocation | None = None,
    http_options: Mapping[str, Any] | HTTPOptions | None = None,
    grpc_options: Mapping[str, Any] | gRPCOptions | None = None,
    logging_config: Mapping[str, Any] | LoggingConfig | None = None,
    tracing_config: Mapping[str, Any] | TracingConfig | None = None,
    controller_options: Mapping[str, Any] | ControllerOptions | None = None,
    **kwargs: Any,
) -> None:
    """Starts a server, or finds the one that runs, whose options stay as they are.

    Raises what the import of a function raises that `grpc_options` names, and ValueError for what is none.
    """
    for key in kwargs:
        if key in ("http_host", "http_port", "http_middlewares"):
            option = key.removeprefix("http_")
            raise ValueError(f'{key} is deprecated, please use serve.start(http_options={{"{option}": ...}}) instead.')
        raise TypeError(f"serve.start() got an unexpected keyword argument {key!r}")
    http = HTTPOptions.parse("http_options", http_options if http_options is not None else {})
    grpc = gRPCOptions.parse("grpc_options", grpc_options if grpc_options is not None else {})
    lines = list(_fates.server_options(http.to_dict(only_set=True)))
    if grpc.grpc_servicer_functions:
        from . import _grpc_services

        _grpc_services.checked(grpc.grpc_servicer_functions)
    if proxy_location is not None and ProxyLocation(proxy_location) is not ProxyLocation.EveryNode:
        lines.append("proxy_location has no effect: a machine has one proxy")
    if tracing_config is not None and TracingConfig.parse("tracing_config", tracing_config).enabled:
        lines.append("tracing_config has no effect: spans are not exported")
    lines += _controller_lines(controller_options)
    for line in lines:
        logger.warning(line)
    given = None if logging_config is None else LoggingConfig.parse("logging_config", logging_config)
    from . import _server

    _server.start(http_options=http, grpc_options=grpc, logging_config=given)


def _controller_lines(options: Mapping[str, Any] | ControllerOptions | None) -> list[str]:
    if options is None or not ControllerOptions.parse("controller_options", options).runtime_env:
        return []
    return ["controller_options has no effect: the controller runs no code of yours"]


def run(
    target: Application,
    blocking: bool = False,
    name: str = "default",
    route_prefix: str | None = "/",
    logging_config: Mapping[str, Any] | LoggingConfig | None = None,
    _local_testing_mode: bool = False,
    external_scaler_enabled: bool = False,
    controller_options: Mapping[str, Any] | ControllerOptions | None = None,
) -> DeploymentHandle[Any]:
    """Runs an application, in place of the one of that name, and gives a handle of its ingress.

    It returns when the application runs; with `blocking` it stays until Ctrl-C. Other applications stay as they are.
    Raises RuntimeError with the cause when the application does not come up.
    """
    one = RunTarget(target, name, route_prefix, logging_config, external_scaler_enabled)
    (handle,) = run_many(
        [one],
        blocking=blocking,
        _local_testing_mode=_local_testing_mode,
        controller_options=controller_options,
    )
    return handle


def _run(
    target: Application,
    *,
    _blocking: bool = True,
    name: str = "default",
    route_prefix: str | None = "/",
    logging_config: Mapping[str, Any] | LoggingConfig | None = None,
    _local_testing_mode: bool = False,
    external_scaler_enabled: bool = False,
    controller_options: Mapping[str, Any] | ControllerOptions | None = None,
) -> DeploymentHandle[Any]:
    """As `run`; without `_blocking` it returns when the ingress is there, running or not."""
    (handle,) = _run_many(
        [RunTarget(target, name, route_prefix, logging_config, external_scaler_enabled)],
        wait_for_applications_running=_blocking,
        _local_testing_mode=_local_testing_mode,
        controller_options=controller_options,
    )
    return handle


def run_many(
    targets: Sequence[RunTarget],
    blocking: bool = False,
    wait_for_ingress_deployment_creation: bool = True,
    wait_for_applications_running: bool = True,
    _local_testing_mode: bool = False,
    controller_options: Mapping[str, Any] | ControllerOptions | None = None,
) -> list[DeploymentHandle[Any]]:
    """Runs several applications at once; as `run` does each of them."""
    handles = _run_many(
        targets,
        wait_for_ingress_deployment_creation=wait_for_ingress_deployment_creation,
        wait_for_applications_running=wait_for_applications_running,
        _local_testing_mode=_local_testing_mode,
        controller_options=controller_options,
    )
    if blocking:
        _block()
    return handles


def _run_many(
    targets: Sequence[RunTarget],
    wait_for_ingress_deployment_creation: bool = True,
    wait_for_applications_running: bool = True,
    _local_testing_mode: bool = False,
    controller_options: Mapping[str, Any] | ControllerOptions | None = None,
) -> list[DeploymentHandle[Any]]:
    if not targets:
        raise ValueError("No applications provided.")
    names: list[str] = []
    for one in targets:
        _check_target(one, names)
        names.append(one.name)
    lines = _controller_lines(controller_options)
    if _local_testing_mode or os.environ.get("RAY_SERVE_FORCE_LOCAL_TESTING_MODE") == "1":
        return [_local_testing.run(one.target, one.name) for one in targets]
    for line in lines:
        logger.warning(line)
    built = [
        _graph.build(
            one.target,
            one.name,
            route_prefix=one.route_prefix,
            logging_config=one.logging_config,
            external_scaler_enabled=one.external_scaler_enabled,
        )
        for one in targets
    ]
    from . import _server

    _server.deploy(
        built,
        wait_for_ingress=wait_for_ingress_deployment_creation,
        wait_for_running=wait_for_applications_running,
    )
    return [_handle_of(one) for one in built]


def _handle_of(built: _graph.Built) -> DeploymentHandle[Any]:
    app = built.application
    model = _models.model_id(app.models[0]) if isinstance(app, _models.ModelApplication) else None
    return DeploymentHandle(built.ingress, built.name, model=model)


def _check_target(one: RunTarget, before: list[str]) -> None:
    if not isinstance(one, RunTarget):
        raise TypeError(f"`serve.run_many` expects RunTargets, not {type(one).__name__}\nmake a RunTarget of it")
    if not isinstance(one.name, str) or not one.name:
        raise RayServeException("Application name must a non-empty string.")
    if one.name in before:
        raise RayServeException(f"two of the applications are called {one.name!r}\ngive each its own name")
    if not isinstance(one.target, Application):
        raise TypeError(
            f"`serve.run` expects an `Application` returned by `Deployment.bind()`.\nit got {type(one.target).__name__}"
        )
    check_route_prefix(one.route_prefix)


def check_route_prefix(route_prefix: str | None) -> None:
    """Raises ValueError for what cannot stand before a path."""
    if route_prefix is None:
        return
    if not isinstance(route_prefix, str) or not route_prefix.startswith("/"):
        raise ValueError(f"Invalid route_prefix {route_prefix!r}, must start with a forward slash ('/').")
    if route_prefix != "/" and route_prefix.endswith("/"):
        raise ValueError(f"Invalid route_prefix {route_prefix!r}, may not end with a trailing '/'.")
    if "{" in route_prefix or "}" in route_prefix:
        raise ValueError(f"Invalid route_prefix {route_prefix!r}, may not contain wildcards.")


def _block() -> NoReturn:
    try:
        while True:
            time.sleep(_BLOCKING_SLEEP_S)
    except KeyboardInterrupt:
        logger.warning("Got KeyboardInterrupt; the applications go on. `serve.shutdown()` ends them.")
        raise


def delete(name: str, _blocking: bool = True) -> None:
    """Removes an application; its replicas finish what they have. One that is not there needs no removing.

    Raises TimeoutError if it has not gone after a minute.
    """
    if _local_testing.delete(name):
        return
    try:
        if not _admin.delete_application(name) or not _blocking:
            return
        is_gone = _admin.wait_until(lambda: name not in _admin.details()["applications"], _DELETE_TIMEOUT_S)
    except ServerUnreachable:
        return
    if not is_gone:
        raise TimeoutError(
            f"Application {name!r} was not deleted within {_DELETE_TIMEOUT_S:g}s\n"
            "it goes on being deleted; `serve.status()` says what it waits for"
        )


def shutdown() -> None:
    """Ends all applications and the server; where there is none it does nothing."""
    _local_testing.shutdown()
    at = _admin.address()
    try:
        _admin.shut_down(at)
    except ServerUnreachable:
        logger.info("Nothing to shut down: no server runs.")
        return
    if not _admin.wait_until(lambda: not _is_reachable(at), _SHUTDOWN_TIMEOUT_S):
        logger.warning(f"The server has not ended within {_SHUTDOWN_TIMEOUT_S:g}s; it goes on finishing requests.")


async def shutdown_async() -> None:
    """As `shutdown`, without holding up the event loop."""
    await asyncio.to_thread(shutdown)


def _is_reachable(at: str) -> bool:
    try:
        _admin.request("GET", "/-/healthz", at=at)
    except ServerUnreachable:
        return False
    except OSError:
        # An answer that says an error is an answer.
        return True
    return True


def status() -> ServeStatus:
    """What runs; empty where no server does."""
    try:
        return ServeStatus.from_details(_admin.details())
    except ServerUnreachable:
        return ServeStatus()


def get_app_handle(name: str) -> DeploymentHandle[Any]:
    """A handle of an application's ingress.

    Raises RayServeException where there is no such application.
    """
    if (local := _local_testing.handle_of(name)) is not None:
        return local
    application = _admin.details()["applications"].get(name)
    if application is None:
        raise RayServeException(f"Application '{name}' does not exist.")
    topology = application.get("deployment_topology") or {}
    if not topology.get("ingress_deployment"):
        raise RayServeException(f"Application '{name}' has no ingress yet.\nwait until `serve.status()` says RUNNING")
    ingress = topology["ingress_deployment"]
    return DeploymentHandle(ingress, name, model=_models.model_of(name, ingress))


def get_deployment_handle(
    deployment_name: str,
    app_name: str | None = None,
    _check_exists: bool = True,
    _record_telemetry: bool = True,
) -> DeploymentHandle[Any]:
    """A handle of a deployment; in a replica, of the replica's application where none is named.

    Raises KeyError where there is no such deployment.
    """
    replica = _get_internal_replica_context()
    if app_name is None:
        if replica is None:
            raise RayServeException(
                "Please specify an application name when getting a deployment handle outside of a Serve replica.\n"
                "pass it as app_name"
            )
        app_name = replica.app_name
    if (local := _local_testing.handle_of(app_name, deployment_name)) is not None:
        return local
    # A replica learns it from the answer to a call.
    if _check_exists and replica is None:
        application = _admin.details()["applications"].get(app_name) or {"deployments": {}}
        if deployment_name not in application["deployments"]:
            raise KeyError(f"Deployment '{deployment_name}' in application '{app_name}' does not exist.")
        return DeploymentHandle(deployment_name, app_name, model=_models.model_of(app_name, deployment_name))
    return DeploymentHandle(deployment_name, app_name)


def get_deployment_actor(actor_name: str) -> ActorHandle:
    """A handle of an actor of the replica's deployment; it stays good when the actor is started again.

    Raises RayServeException outside of a replica, and ValueError where the deployment has no actor of this name.
    """
    # Most replicas have none, and are spared the memory.
    from . import _actors, _local_actors

    replica = _get_internal_replica_context()
    if replica is None:
        raise _actors.not_a_replica()
    if _local_testing.is_running(replica.app_name):
        return _local_actors.handle_of(replica.replica_id.deployment_id, actor_name)
    return _actors.of_replica(actor_name)


def get_deployment_actor_context() -> DeploymentActorContext:
    """Which actor this process is. Raises RayServeException where it is none."""
    context = context_of_actor()
    if context is None:
        raise RayServeException(
            "`serve.get_deployment_actor_context()` may only be called from within a Ray Serve deployment actor.\n"
            "a replica has serve.get_replica_context()"
        )
    return context


def get_trace_context() -> Any:
    """The current OpenTelemetry context, where that library is there; else None."""
    try:
        from opentelemetry import context  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    return context.get_current() or None
