"""Programs that were written for Ray Serve, unchanged: `import ray` and all below it mean Tyndall.

`install()` does it for this process, `python -m tyndall.compat SCRIPT` for a script, and the server for every
application that it starts. `ray.serve` is the module `tyndall.serve` itself, so classes are the same by either name. What
Ray has beyond serving is refused with a line of cause and one of cure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

__all__ = ["install", "is_installed"]

_OFF: Final = "TYNDALL_COMPAT"
"""The variable that leaves `ray` alone in applications that the server starts, where it is 0."""

_MODULES: Final = {
    "ray": "tyndall.compat._ray",
    "ray.exceptions": "tyndall.compat._exceptions",
    "ray.util": "tyndall.compat._util",
    "ray.util.metrics": "tyndall.serve.metrics",
    "ray.serve": "tyndall.serve",
    # Policies of applications are written with `DeploymentID`, which Ray has nowhere else.
    "ray.serve._private": "tyndall.compat._private",
    "ray.serve._private.common": "tyndall.serve.context",
    # Where Ray has the classes of `ray.serve.request_router`, and the one that is built in.
    "ray.serve._private.request_router": "tyndall.serve.request_router",
    "ray.serve._private.request_router.common": "tyndall.serve.request_router",
    "ray.serve._private.request_router.pow_2_router": "tyndall.serve.request_router",
    "ray.serve._private.request_router.replica_wrapper": "tyndall.serve.request_router",
    "ray.serve._private.request_router.request_router": "tyndall.serve.request_router",
}
"""By Ray's name; what is public below `ray.serve` has the same name here."""


def install() -> None:
    """From now on `ray` is Tyndall in this process, whether or not Ray is installed.

    Raises RuntimeError where Ray itself has been imported before.
    """
    if is_installed():
        return
    if "ray" in sys.modules:
        raise RuntimeError(
            "ray was imported before tyndall.compat.install()\n"
            "call it before anything imports ray, or run the program with `python -m tyndall.compat`"
        )
    sys.meta_path.insert(0, _Finder())


def is_installed() -> bool:
    """Whether `ray` is Tyndall in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def install_for_application() -> None:
    """As `install`, in a process that the server starts for an application, unless its environment says otherwise.

    It is not asked whether Ray can be found: a machine that moves from Ray has it, and its objects would be strangers
    here.
    """
    if os.environ.get(_OFF) != "0" and "ray" not in sys.modules:
        install()


def _ours(name: str) -> str | None:
    """The module that stands for one of Ray's; None where there is none."""
    if name in _MODULES:
        return _MODULES[name]
    if not name.startswith("ray.serve.") or "._" in name:
        return None
    ours = f"tyndall{name.removeprefix('ray')}"
    try:
        return ours if find_spec(ours) is not None else None
    except ModuleNotFoundError:
        # Its parent is no package.
        return None


class _Finder:
    """Finds everything below `ray`, so that no module of Ray itself comes between."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "ray" and not fullname.startswith("ray."):
            return None
        ours = _ours(fullname)
        loader: Any = _Refusal() if ours is None else _Alias(ours)
        return ModuleSpec(fullname, loader, is_package=True)


class _Alias:
    """Gives a module that has another name."""

    def __init__(self, ours: str) -> None:
        self._ours = ours

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._ours)
        self._attributes = {name: getattr(module, name, None) for name in ("__spec__", "__loader__", "__path__")}
        if spec.name == "ray.serve":
            # An import of `ray.serve.deployment` would put the module over the decorator of that name.
            sys.modules["ray.serve.deployment"] = sys.modules["tyndall.serve.deployment"]
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has been executed; the import system has only written the other name on it.
        for name, value in self._attributes.items():
            if value is not None:
                setattr(module, name, value)


class _Refusal:
    """Says that a module of Ray is not there, when it is imported.

    It is found nevertheless: libraries only ask whether there is, say, `ray.tune`, and do without.
    """

    def create_module(self, spec: ModuleSpec) -> None:
        from . import _ray

        raise ImportError(_ray.absent(spec.name), name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        raise NotImplementedError("it is never made")
