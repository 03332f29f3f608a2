"""Metrics of one's own, by Ray Serve's names.

They are kept in the process and read as a page in Prometheus's text form. In a replica each value also carries
`deployment`, `replica` and `application`.
"""

from __future__ import annotations

import bisect
import math
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from .context import _get_internal_replica_context, _get_serve_request_context

__all__ = ["Counter", "Gauge", "Histogram", "render"]

_PREFIX: Final = "ray_"
_PARTS: Final = ("_bucket", "_sum", "_count")
_RESERVED: Final = ("deployment", "replica", "application")
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)

Labels = tuple[tuple[str, str], ...]


@dataclass
class _Family:
    """All values of one name."""

    kind: str
    description: str
    boundaries: tuple[float, ...] = ()
    values: dict[Labels, Any] = field(default_factory=dict)
    """Numbers; of a histogram, a list of counts by bucket, the last of which is for what is above all, and the sum."""


class _Registry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.families: dict[str, _Family] = {}
        self.named: dict[str, _Family] = {}

    def family(self, name: str, kind: str, description: str, boundaries: tuple[float, ...]) -> _Family:
        """The same for all metrics of one name."""
        full = f"{name}_total" if kind == "counter" and not name.endswith("_total") else name
        with self.lock:
            known = self.named.get(name)
            if known is None:
                self._check_free(full, kind)
                known = self.families.setdefault(full, _Family(kind, description, boundaries))
                self.named[name] = known
        if (known.kind, known.boundaries) != (kind, boundaries):
            raise ValueError(
                f"the metric {name!r} is there as a {known.kind}"
                f"{f' with boundaries {list(known.boundaries)}' if known.boundaries else ''}\n"
                "give one of them another name"
            )
        return known

    def _check_free(self, name: str, kind: str) -> None:
        """A page names each series once, and a histogram has three."""
        taken = [f"{name}{suffix}" for suffix in _PARTS] if kind == "histogram" else []
        of_histogram = [name.removesuffix(suffix) for suffix in _PARTS if name.endswith(suffix)]
        others = [one for one in taken if one in self.families]
        others += [one for one in of_histogram if one in self.families and self.families[one].kind == "histogram"]
        if others:
            raise ValueError(f"the metrics {name!r} and {others[0]!r} have series of one name\ngive one another name")


_registry: Final = _Registry()


class Metric:
    """What all metrics do."""

    _kind: ClassVar[str]

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        self._begin(name, description, tag_keys, ())

    def _begin(self, name: str, description: str, keys: tuple[str, ...] | None, boundaries: tuple[float, ...]) -> None:
        if not name:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        if keys and not isinstance(keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(keys)}")
        for key in keys or ():
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
            if key in _RESERVED:
                raise ValueError(f"'{key}' tag is reserved for Ray Serve metrics\nit is added in replicas by itself")
            if not _LABEL.fullmatch(key):
                raise ValueError(f"the tag key {key!r} is no name\nuse letters, digits and _, the first no digit")
        self._name, self._description = name, description
        self._tag_keys = tuple(keys or ())
        self._default_tags: dict[str, str] = {}
        self._family: _Family | None = None
        if _NAME.fullmatch(name):
            self._family = _registry.family(name, self._kind, description, boundaries)
        else:
            # Ray goes on too.
            warnings.warn(
                f"Invalid metric name: {name}. It is not kept. Use letters, digits, _ and :, the first no digit.",
                stacklevel=4,
            )

    def set_default_tags(self, default_tags: Mapping[str, str]) -> None:
        """Values of tags that a call does not name."""
        for key, value in default_tags.items():
            self._known(key, value)
        self._default_tags = dict(default_tags)

    @property
    def info(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def _known(self, key: str, value: Any) -> None:
        if key not in self._tag_keys:
            raise ValueError(f"Unrecognized tag key {key}.\nname it in tag_keys of the metric {self._name!r}")
        if not isinstance(value, str):
            raise TypeError(f"Tag values must be str, got {type(value)}.")

    def _labels(self, tags: Mapping[str, str] | None) -> Labels:
        for key, value in (tags or {}).items():
            self._known(key, value)
        labels = {**self._default_tags, **(tags or {})}
        if "route" in self._tag_keys and "route" not in labels:
            labels["route"] = _get_serve_request_context().route
        if missing := [key for key in self._tag_keys if key not in labels]:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        replica = _get_internal_replica_context()
        if replica is not None:
            own = {"deployment": replica.deployment, "replica": replica.replica_tag, "application": replica.app_name}
            labels = {**labels, **own}
        return tuple(sorted(labels.items()))

    @staticmethod
    def _number(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"value must be int or float, got {type(value)}.")
        return float(value)


class Counter(Metric):
    """What only grows."""

    _kind = "counter"

    def inc(self, value: int | float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        number = self._number(value)
        if not number > 0:
            raise ValueError(f"value must be >0, got {value}")
        labels = self._labels(tags)
        if self._family is not None:
            with _registry.lock:
                self._family.values[labels] = self._family.values.get(labels, 0.0) + number


class Gauge(Metric):
    """What goes up and down."""

    _kind = "gauge"

    def set(self, value: int | float | None, tags: Mapping[str, str] | None = None) -> None:
        """Sets it; None changes nothing."""
        if value is None:
            return
        number, labels = self._number(value), self._labels(tags)
        if self._family is not None:
            with _registry.lock:
                self._family.values[labels] = number


class Histogram(Metric):
    """How values are spread."""

    _kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        if not boundaries:
            raise ValueError("a histogram needs boundaries\nwrite them, such as boundaries=[1.0, 2.0]")
        for i, one in enumerate(boundaries):
            if not self._number(one) > 0:
                raise ValueError(
                    f"Invalid `boundaries` argument at index {i}, {list(boundaries)}. Use positive values for the "
                    "arguments."
                )
        self._boundaries = tuple(sorted(float(one) for one in set(boundaries)))
        self._begin(name, description, tag_keys, self._boundaries)

    def observe(self, value: int | float, tags: Mapping[str, str] | None = None) -> None:
        number, labels = self._number(value), self._labels(tags)
        if self._family is None:
            return
        with _registry.lock:
            counts, total = self._family.values.get(labels) or ([0] * (len(self._boundaries) + 1), 0.0)
            # A bucket holds its own boundary.
            counts[bisect.bisect_left(self._boundaries, number)] += 1
            self._family.values[labels] = (counts, total + number)

    @property
    def info(self) -> dict[str, Any]:
        return {**super().info, "boundaries": list(self._boundaries)}


def render() -> str:
    """All metrics of this process as a page of Prometheus's text form."""
    with _registry.lock:
        lines = [line for name, family in sorted(_registry.families.items()) for line in _lines(name, family)]
    return "".join(f"{line}\n" for line in lines)


def _lines(name: str, family: _Family) -> list[str]:
    if not family.values:
        return []
    full = f"{_PREFIX}{name}"
    description = family.description.replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"# HELP {full} {description}", f"# TYPE {full} {family.kind}"]
    for labels, value in sorted(family.values.items()):
        if family.kind != "histogram":
            lines.append(f"{full}{_braces(labels)} {_shown(value)}")
            continue
        counts, total = value
        so_far = 0
        for boundary, count in zip((*family.boundaries, math.inf), counts, strict=True):
            so_far += count
            lines.append(f"{full}_bucket{_braces((*labels, ('le', _shown(boundary))))} {so_far}")
        lines.append(f"{full}_sum{_braces(labels)} {_shown(total)}")
        lines.append(f"{full}_count{_braces(labels)} {so_far}")
    return lines


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _shown(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(float(value))
