"""The way from this process to replicas, which whoever starts the process says."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._admin import ServerUnreachable
from .context import DeploymentID
from .exceptions import RayServeException

if TYPE_CHECKING:
    from .handle import Router

_make: Callable[[DeploymentID], Router] | None = None


def install(make: Callable[[DeploymentID], Router] | None) -> None:
    """From now on handles get their routers from `make`."""
    global _make
    _make = make


def router_of(deployment_id: DeploymentID) -> Router:
    """Raises RayServeException where nobody has said how replicas are reached, and no server runs."""
    if _make is not None:
        return _make(deployment_id)
    try:
        return _of_server()(deployment_id)
    except ServerUnreachable as error:
        raise RayServeException(
            f"there is no way from this process to {deployment_id}\n"
            "use the handle in a replica that got it with its `bind`, or the one that `serve.run` gives"
        ) from error


_servers: dict[str, Callable[[DeploymentID], Router]] = {}
"""By the directory of a server's sockets: what this process calls it by."""


def _of_server() -> Callable[[DeploymentID], Router]:
    """The way from a process that is no replica, such as a script, through the server that runs."""
    from tyndall import _tyndall

    from . import _calls, _server

    runtime_dir = _server.runtime_dir()
    if runtime_dir not in _servers:
        caller = _tyndall.connect(runtime_dir, f"driver-{os.getpid()}", "default")
        _servers[runtime_dir] = _calls.routers(caller, None)
    return _servers[runtime_dir]
