"""Which methods of gRPC there are: those of the services whose `add_…_to_server` functions the server was told.

Generated code registers the methods of a service with a server. What stands here in place of one writes them down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

logger = logging.getLogger("tyndall.serve")

FUNCTIONS: Final = "TYNDALL_GRPC_SERVICER_FUNCTIONS"
"""The variable that has their import paths, with commas between them."""

REFLECTION: Final = "TYNDALL_GRPC_REFLECTION"
"""The variable that turns reflection off, where it is 0."""


@dataclass(frozen=True)
class Method:
    """A method, as its service has it."""

    takes_stream: bool
    gives_stream: bool
    decode: Callable[[bytes], Any] | None
    encode: Callable[[Any], bytes] | None


def paths(environ: Mapping[str, str]) -> list[str]:
    """The import paths that the server was told."""
    return [path.strip() for path in environ.get(FUNCTIONS, "").split(",") if path.strip()]


def imported(path: str) -> Callable[[Any, Any], None]:
    """The function at an import path.

    Raises what its import raises, and ValueError for what cannot be called.
    """
    from tyndall import _program

    function = _program.imported(path)
    if not callable(function):
        raise ValueError(
            f"{path!r} is no function but of type {type(function).__name__}\n"
            "name an `add_…_to_server` function in grpc_servicer_functions"
        )
    return function  # type: ignore[no-any-return]


def unusable(environ: Mapping[str, str]) -> Iterator[str]:
    """A line of cause and cure for each function that cannot be had."""
    for path in paths(environ):
        try:
            imported(path)
        except Exception as error:
            yield _unusable(path, error)


def _unusable(path: str, error: Exception) -> str:
    cause = str(error).partition("\n")[0] or type(error).__name__
    return (
        f"{path!r} of grpc_servicer_functions cannot be imported: {cause}; mend its path, "
        "or put its module where the application imports from"
    )


def checked(given: Iterable[str]) -> None:
    """Raises for the first function that this process cannot import, which is likely to be a slip."""
    for path in given:
        try:
            imported(path)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{path} of grpc_servicer_functions can't be imported: {str(error).partition(chr(10))[0]}\n"
                "mend its path, or generate its module from the .proto file again",
                name=error.name,
            ) from error


@dataclass(frozen=True)
class Table:
    """All methods, by their full names such as `/package.Service/Method`."""

    methods: dict[str, Method]
    problems: list[str]
    """Why some may be missing."""

    def services(self) -> list[str]:
        return sorted({name.split("/")[1] for name in self.methods})


def table(environ: Mapping[str, str]) -> Table:
    """The methods of the services that the server was told; what goes wrong is logged."""
    recorder = _Recorder()
    problems = []
    for path in paths(environ):
        try:
            imported(path)(_Servicer(), recorder)
        except Exception as error:
            problems.append(_unusable(path, error))
            logger.warning(problems[-1])
    return Table(recorder.methods, problems)


class _Servicer:
    """Stands for an object whose methods the service calls: it has all, and none is called."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class _Recorder:
    """What generated code takes for a server."""

    def __init__(self) -> None:
        self.methods: dict[str, Method] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        for handler in handlers:
            for name, method in getattr(handler, "_method_handlers", {}).items():
                self._add(name, method)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        for name, method in handlers.items():
            self._add(f"/{service}/{name}", method)

    def _add(self, name: str, handler: Any) -> None:
        self.methods[name] = Method(
            takes_stream=handler.request_streaming,
            gives_stream=handler.response_streaming,
            decode=handler.request_deserializer,
            encode=handler.response_serializer,
        )
