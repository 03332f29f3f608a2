"""Ray Serve's Python API.

Names are loaded when they are asked for, so that a process that only describes an application does not load what one
that serves it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _logging as _logging

# Not when they are asked for: the module `deployment` would come before the decorator of that name.
from .deployment import Application, Deployment, deployment

if TYPE_CHECKING:
    from .api import (
        RunTarget,
        delete,
        get_app_handle,
        get_deployment_actor,
        get_deployment_actor_context,
        get_deployment_handle,
        get_trace_context,
        run,
        run_many,
        shutdown,
        shutdown_async,
        start,
        status,
    )
    from .api import _run as _run
    from .api import _run_many as _run_many
    from .batching import batch
    from .config import ControllerOptions, HTTPOptions, TracingConfig
    from .context import get_multiplexed_model_id, get_replica_context
    from .http import ingress
    from .multiplex import multiplexed

_NAMES = {
    "_run": "api",
    "_run_many": "api",
    "ControllerOptions": "config",
    "HTTPOptions": "config",
    "TracingConfig": "config",
    "RunTarget": "api",
    "batch": "batching",
    "delete": "api",
    "get_app_handle": "api",
    "get_deployment_actor": "api",
    "get_deployment_actor_context": "api",
    "get_deployment_handle": "api",
    "get_multiplexed_model_id": "context",
    "get_replica_context": "context",
    "get_trace_context": "api",
    "ingress": "http",
    "multiplexed": "multiplex",
    "run": "api",
    "run_many": "api",
    "shutdown": "api",
    "shutdown_async": "api",
    "start": "api",
    "status": "api",
}
"""Which module has a name."""

_MODULES = ("autoscaling_policy", "config", "context", "exceptions", "handle", "metrics", "schema")
"""Modules that Ray's package has as attributes without an import of their own."""

__all__ = [
    "Application",
    "ControllerOptions",
    "Deployment",
    "HTTPOptions",
    "RunTarget",
    "TracingConfig",
    "batch",
    "delete",
    "deployment",
    "get_app_handle",
    "get_deployment_actor",
    "get_deployment_actor_context",
    "get_deployment_handle",
    "get_multiplexed_model_id",
    "get_replica_context",
    "get_trace_context",
    "ingress",
    "multiplexed",
    "run",
    "run_many",
    "shutdown",
    "shutdown_async",
    "start",
    "status",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_NAMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_MODULES})
