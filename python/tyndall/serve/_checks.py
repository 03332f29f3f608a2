"""What an option takes, as functions: each gets the option's name and a value, and gives the value back in its own
form or says in one line what is wrong and in another what to write.

They are those of the config file, so that an option that passes here passes there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Callable[[str, Any], Any]

MAX_COUNT = 1_000_000_000
_SHOWN_CHARS = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-:/]{0,127}", re.ASCII)


class OptionTypeError(TypeError, ValueError):
    """A value of the wrong type. Ray says some of these as a TypeError and some as a ValueError; this is both."""


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def misfit(name: str, value: object, accepted: str) -> ValueError:
    """A value of the right type and of no use."""
    return ValueError(f"{name} is {shown(value)}\nuse {accepted}")


def wrong_type(name: str, value: object, accepted: str) -> OptionTypeError:
    return OptionTypeError(f"{name} is {shown(value)}, of type {type(value).__name__}\nuse {accepted}")


def _as_number(value: object) -> float | int | None:
    """A number, also as a text, as it comes from the environment."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        # Numbers of other libraries say so themselves.
        return _converted(value) if hasattr(value, "__float__") and not isinstance(value, bool) else None
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return _converted(value)
    return value


def _converted(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def whole(least: int, most: int = MAX_COUNT) -> Check:
    """A whole number in these bounds; `2.0` is one."""
    accepted = f"a whole number from {least} on" if most >= MAX_COUNT else f"a whole number from {least} to {most}"

    def check(name: str, value: Any) -> int:
        number = _as_number(value)
        if number is None or number != number or number in (math.inf, -math.inf) or number != int(number):
            raise wrong_type(name, value, accepted)
        if not least <= number <= most:
            raise misfit(name, value, accepted)
        return int(number)

    return check


def number(least: float = 0.0, most: float = math.inf, *, above: bool = False) -> Check:
    """A finite number from `least`, or above it, to `most`."""
    accepted = f"a number {'above' if above else 'from'} {least:g}"
    accepted += f" and up to {most:g}" if most < math.inf else "" if above else " on"

    def check(name: str, value: Any) -> float:
        given = _as_number(value)
        if given is None:
            raise wrong_type(name, value, accepted)
        if not math.isfinite(given) or not least <= given <= most or (above and given == least):
            raise misfit(name, value, accepted)
        return float(given)

    return check


POSITIVE = number(above=True)
NOT_NEGATIVE = number()


def word(*words: str) -> Check:
    """One of these, in upper or lower case; also a member of an enumeration of them."""
    accepted = f"one of {', '.join(words)}"

    def check(name: str, value: Any) -> str:
        text = getattr(value, "value", value)
        if not isinstance(text, str):
            raise wrong_type(name, value, accepted)
        for one in words:
            if one.lower() == text.lower():
                return one
        raise misfit(name, value, accepted)

    return check


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong_type(name, value, "a text")
    return value


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(name, value, "True or False")
    return value


def mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise wrong_type(name, value, "a dictionary with texts as keys")
    return dict(value)


def amounts(name: str, value: Any) -> dict[str, float]:
    """Numbers by name."""
    return {key: NOT_NEGATIVE(f"{name}[{key!r}]", amount) for key, amount in mapping(name, value).items()}


def texts(name: str, value: Any) -> dict[str, str]:
    """Texts by name."""
    return {key: text(f"{name}[{key!r}]", value) for key, value in mapping(name, value).items()}


def listed(item: Check) -> Check:
    """A list of what `item` takes."""

    def check(name: str, value: Any) -> list[Any]:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
            raise wrong_type(name, value, "a list")
        return [item(f"{name}[{i}]", one) for i, one in enumerate(value)]

    return check


def nullable(check: Check) -> Check:
    """What `check` takes, or None."""

    def checked(name: str, value: Any) -> Any:
        return None if value is None else check(name, value)

    return checked


def json_value(name: str, value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is not JSON-serializable: {error}\nuse dictionaries with texts as keys, lists, texts, numbers, "
            "True, False and None"
        ) from None
    return value


def json_mapping(name: str, value: Any) -> dict[str, Any]:
    """A dictionary that can be JSON."""
    given = mapping(name, value)
    json_value(name, given)
    return given


def import_path(name: str, value: Any) -> str:
    """`module:attribute` or `module.attribute`; a class or function becomes its path."""
    if not isinstance(value, str):
        module, qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if not callable(value) or not module or not qualified:
            raise wrong_type(name, value, "an import path such as 'module:attribute', or what stands at one")
        return f"{module}:{qualified}"
    separator, most = (":", 1) if ":" in value else (".", len(value))
    if not 1 <= value.count(separator) <= most or value.startswith(separator) or value.endswith(separator):
        raise misfit(name, value, "an import path such as 'module:attribute'")
    return value


def module(name: str, value: Any) -> str:
    """The name of a module."""
    given = text(name, value)
    if not all(part.isidentifier() for part in given.split(".")):
        raise misfit(name, value, "the name of a module such as 'torch' or 'a.b'")
    return given


def deployment_name(name: str, value: Any) -> str:
    """What a config file, a metric and a path of the API can all say."""
    if not isinstance(value, str):
        raise OptionTypeError(f"{name} must be a string.\nit is {shown(value)}, of type {type(value).__name__}")
    if "#" in value:
        raise ValueError(f"Deployment names must not contain the '#' character. Current name: {value}")
    if not _NAME.fullmatch(value) or ".." in value:
        raise misfit(
            name,
            value,
            "1 to 128 letters, digits, '.', '_', '-', ':' or '/', the first of them a letter or digit",
        )
    return value


def derived_name(of: str) -> str:
    """The name of a deployment that is made from its class or function, as `<lambda>` has one too."""
    usable = re.sub(r"[^A-Za-z0-9._\-:/]+", "_", of).strip("_.-:/")
    return re.sub(r"\.\.+", ".", usable)[:128] or "deployment"
