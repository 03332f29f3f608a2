"""Records of options: dataclasses that check what they get and know what was set."""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypeVar, cast

from ._checks import Check, OptionTypeError, wrong_type

_MISSING: Final = object()

logger = logging.getLogger("tyndall.serve")

M = TypeVar("M", bound="Model")


def option(default: Any, check: Check) -> Any:
    """A field with what it takes. A list or dictionary as default is a new one for each record."""
    metadata = {"check": check}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(check: Check) -> Any:
    """A field without a default."""

    def checked(name: str, value: Any) -> Any:
        if value is _MISSING:
            raise OptionTypeError(f"{name} is missing\nit has no default: write it")
        return check(name, value)

    return dataclasses.field(default=_MISSING, metadata={"check": checked})


def _near(key: str, known: list[str]) -> list[str]:
    """The one that it may have been meant for."""
    import difflib

    return difflib.get_close_matches(key, known, 1)


def unknown(name: str, key: str, known: list[str]) -> OptionTypeError:
    """A key that is none of those there are."""
    near = _near(key, known)
    cure = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
    return OptionTypeError(f"{key!r} is no field of {name}\n{cure}")


class Model:
    """What all records do.

    Subclasses are dataclasses with keywords only. A field that nobody set is not described, so that a config file can
    tell what the code says from what is a default.
    """

    is_open: ClassVar[bool] = False
    """Whether a dictionary may have other keys, which are warned of: Ray ignores them, so that an older one takes what
    newer ones know."""

    _set: set[str]

    def __new__(cls: type[M], *_: Any, **fields: Any) -> M:
        known = cls.field_names()
        for key in fields:
            if key not in known:
                raise unknown(cls.__name__, key, known)
        self = object.__new__(cls)
        self.__dict__["_set"] = set(fields)
        return self

    def __post_init__(self) -> None:
        self.check()

    def __setattr__(self, name: str, value: Any) -> None:
        # The record's own `__init__` assigns too; `_set` is corrected after it.
        self.__dict__[name] = value
        if self.__dict__.get("_made"):
            self._set.add(name)

    def check(self) -> None:
        """Brings all fields into their own form.

        Raises ValueError with the field, the cause and the cure.
        """
        for field in dataclasses.fields(cast(Any, self)):
            value = field.metadata["check"](f"{self._label()}{field.name}", self.__dict__[field.name])
            self.__dict__[field.name] = value
        self.rules()
        self.__dict__["_made"] = True

    def rules(self) -> None:
        """What involves several fields."""

    @classmethod
    def _label(cls) -> str:
        """Stands before a field's name in messages."""
        return f"{cls.__name__}."

    @classmethod
    def field_names(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cast(Any, cls))]

    @classmethod
    def parse(cls: type[M], name: str, value: Any) -> M:
        """A record of a dictionary or of a record, which is copied."""
        if isinstance(value, cls):
            return cls(**value.user_set())
        if not isinstance(value, Mapping):
            raise wrong_type(name, value, f"a dictionary or {cls.__name__}")
        return cls(**cls._known(value))

    @classmethod
    def _known(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of it is known, where other keys may be; a key that is near one of the known is not another one."""
        known = cls.field_names()
        others = [key for key in given if key not in known and not _near(key, known)]
        if not cls.is_open or not others:
            return given
        for key in others:
            logger.warning(f"{key!r} is no field of {cls.__name__} and has no effect")
        return {key: value for key, value in given.items() if key not in others}

    def user_set(self) -> dict[str, Any]:
        """The fields that were set, as they are."""
        return {name: self.__dict__[name] for name in self.field_names() if name in self._set}

    def to_dict(self, *, only_set: bool = False) -> dict[str, Any]:
        """As a config file has it."""
        names = [name for name in self.field_names() if not only_set or name in self._set]
        return {name: plain(self.__dict__[name], only_set) for name in names}

    # Code that was written for Ray's records, which are pydantic's, asks by these names.

    @property
    def model_fields_set(self) -> set[str]:
        return set(self._set)

    def model_dump(self, *, exclude_unset: bool = False, **_: Any) -> dict[str, Any]:
        return self.to_dict(only_set=exclude_unset)


def plain(value: Any, only_set: bool) -> Any:
    """A value of dictionaries, lists and what JSON has."""
    if isinstance(value, Model):
        return value.to_dict(only_set=only_set)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain(one, only_set) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one, only_set) for one in value]
    return value
