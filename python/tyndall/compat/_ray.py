"""What `ray` is: as much of Ray's core as programs for Ray Serve use."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Generator, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, Final, NoReturn

__version__: Final = "2.60.0"
"""The release whose API this is."""

__path__: Final[list[str]] = []
"""It has submodules."""

__all__ = ["ObjectRef", "get", "init", "is_initialized", "put", "shutdown"]

logger = logging.getLogger("tyndall.serve")

_is_initialized = False

_SUBMODULES: Final = ("exceptions", "serve", "util")

_WITHOUT_EFFECT: Final = ("ignore_reinit_error", "log_to_driver", "logging_level", "configure_logging", "namespace")
"""Arguments of `init` that say nothing about where code runs."""

_CURES: Final = {
    "ray.data": "prepare data in another program, or with the library that reads it",
    "ray.train": "train in another program, and serve what it writes",
    "ray.tune": "tune in another program, and serve what it writes",
    "ray.rllib": "train in another program, and serve what it writes",
    "ray.dag": "bind deployments into each other instead, with `.bind()`",
    "ray.workflow": "bind deployments into each other instead, with `.bind()`",
    "ray.job_submission": "run the program with Python, or deploy with `tyndall deploy`",
}
"""By module, what to do instead."""

_CURE: Final = "leave it out, or keep this part of the program on Ray; docs/migration.md says what is there"


def absent(name: str) -> str:
    """One line of cause and one of cure for what Ray has under this name."""
    return f"{name} is not there: tyndall.compat has what programs for Ray Serve use\n{_CURES.get(name, _CURE)}"


class ObjectRef:
    """A value that was put aside; reading it gives a copy, as from another process."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled
        self._id = uuid.uuid4().hex

    def hex(self) -> str:
        return self._id

    def _value(self) -> Any:
        import cloudpickle  # type: ignore[import-untyped]

        return cloudpickle.loads(self._pickled)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._value()
        yield  # It has a value already, and never waits.

    def __repr__(self) -> str:
        return f"ObjectRef({self._id})"


class Context:
    """What `init` gives."""

    dashboard_url: str | None = None
    address_info: dict[str, Any]

    def __init__(self) -> None:
        self.address_info = {}

    def disconnect(self) -> None:
        shutdown()

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutdown()


def init(address: str | None = None, *, ignore_reinit_error: bool = False, **options: Any) -> Context:
    """Starts nothing, as `serve.run` finds or starts the server; what would say where code runs is warned of.

    Raises RuntimeError at the second time, unless it is to be ignored.
    """
    global _is_initialized
    if _is_initialized and not ignore_reinit_error:
        raise RuntimeError("ray.init() was called before\ncall it once, or with ignore_reinit_error=True")
    given = {"address": address, **options}
    for name, value in given.items():
        if value not in (None, "auto", "local") and name not in _WITHOUT_EFFECT:
            logger.warning(f"ray.init({name}=...) has no effect: there is no cluster to start or join")
    _is_initialized = True
    return Context()


def is_initialized() -> bool:
    return _is_initialized


def shutdown(_exiting_interpreter: bool = False) -> None:
    """Ends what this process has started: applications in local testing mode, and the server if it is its own."""
    global _is_initialized
    from tyndall.serve import _local_testing, _server

    _is_initialized = False
    _local_testing.shutdown()
    if _server._own is not None and _server._own.runs():
        _server._own.end()


def put(value: Any) -> ObjectRef:
    """A copy of the value, put aside in this process."""
    import cloudpickle

    if isinstance(value, ObjectRef):
        raise TypeError("ray.put() takes no ObjectRef: it is one already\nuse the reference itself")
    return ObjectRef(cloudpickle.dumps(value))


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a reference or of a response of a handle; of a list of them, their values.

    Raises what the call has ended with, and TimeoutError.
    """
    from tyndall.serve.handle import DeploymentResponse, DeploymentResponseGenerator

    if isinstance(refs, ObjectRef):
        return refs._value()
    if isinstance(refs, DeploymentResponse):
        return refs.result(timeout_s=timeout)
    if isinstance(refs, Sequence) and not isinstance(refs, (str, bytes)):
        return [get(one, timeout=timeout) for one in refs]
    if isinstance(refs, DeploymentResponseGenerator):
        raise TypeError("ray.get() takes no stream of responses\niterate over it")
    raise TypeError(
        f"ray.get() got a {type(refs).__name__}\n"
        "it takes what `.remote()` of a handle gives, what ray.put() gives, and lists of these"
    )


def remote(*_: Any, **__: Any) -> NoReturn:
    """There are no tasks and no actors.

    Raises NotImplementedError.
    """
    raise NotImplementedError(
        "ray.remote is not there: Tyndall has deployments, and no tasks or actors\n"
        "make the function or class a deployment with @serve.deployment, bind it into the one that calls it, and call "
        "it by its handle; in deployment_actors name the class itself"
    )


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"ray.{name}")
    # Python and its tools ask for names like these of any module.
    if name.startswith("__"):
        raise AttributeError(f"module 'ray' has no attribute {name!r}")
    raise AttributeError(absent(f"ray.{name}"))


# `from ray import data` asks for what is below this name.
__name__ = "ray"
