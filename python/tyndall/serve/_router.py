"""The way from this process to replicas, which whoever starts the process says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .context import DeploymentID
from .exceptions import RayServeException

if TYPE_CHECKING:
    from .handle import Router

Make = Callable[[DeploymentID, "str | None"], "Router"]
"""Of a deployment, and the id of the model where it is one."""

_make: Make | None = None
_models: dict[DeploymentID, str] = {}

own_runtime_dir: Path | None = None
"""Of the server whose replica this process is."""


def install(make: Make | None) -> None:
    """From now on handles get their routers from `make`."""
    global _make
    _make = make


def is_replica_in(runtime_dir: Path) -> None:
    """What this process reads of its server it gets by the socket there."""
    global own_runtime_dir
    own_runtime_dir = runtime_dir


def know_models(models: dict[DeploymentID, str]) -> None:
    """Which deployments of the application are models, for handles that are made from names alone."""
    _models.update(models)


def router_of(deployment_id: DeploymentID, model: str | None = None) -> Router:
    """Raises RayServeException where nobody has said how replicas are reached, and no server runs."""
    model = model or _models.get(deployment_id)
    if _make is not None:
        return _make(deployment_id, model)
    from ._admin import ServerUnreachable

    try:
        return _of_server()(deployment_id, model)
    except ServerUnreachable as error:
        raise RayServeException(
            f"there is no way from this process to {deployment_id}\n"
            "use the handle in a replica that got it with its `bind`, or the one that `serve.run` gives"
        ) from error


_servers: dict[str, Make] = {}
"""By the directory of a server's sockets: what this process calls it by."""


def _of_server() -> Make:
    """The way from a process that is no replica, such as a script, through the server that runs."""
    from tyndall import _tyndall

    from . import _calls, _server

    runtime_dir = _server.runtime_dir()
    if runtime_dir not in _servers:
        caller = _tyndall.connect(runtime_dir, f"driver-{os.getpid()}", "default")
        _servers[runtime_dir] = _calls.routers(caller, None)
    return _servers[runtime_dir]
