"""The way from this process to replicas, which whoever starts the process says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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
    """Raises RayServeException where nobody has said how replicas are reached."""
    if _make is None:
        raise RayServeException(
            f"there is no way from this process to {deployment_id}\n"
            "use the handle in a replica that got it with its `bind`, or the one that `serve.run` gives"
        )
    return _make(deployment_id)
