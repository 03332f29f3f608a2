"""What `ray.util` is: the package that has `ray.util.metrics`."""

from __future__ import annotations

from typing import Any, Final

from ._ray import absent

__path__: Final[list[str]] = []


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'ray.util' has no attribute {name!r}")
    raise AttributeError(absent(f"ray.util.{name}"))


# As `ray` has it.
__name__ = "ray.util"
