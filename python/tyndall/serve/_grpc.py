"""Calls of gRPC in a replica: which method is meant, what it is given, and how the call ends.

Nothing of this is loaded before the first call. The library itself comes with the code that a service was generated as.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import urllib.parse
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from . import _grpc_reflection, _grpc_services
from ._grpc_services import Method
from ._grpc_wire import (
    CANCELLED,
    CODES,
    DEADLINE_EXCEEDED,
    INTERNAL,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    Failure,
    Wire,
    compressed_frame,
    end_frame,
    frame,
)
from ._user_callable import UserCallable
from .exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
    gRPCStatusError,
)
from .grpc_util import RayServegRPCContext, gRPCInputStream

logger = logging.getLogger("tyndall.serve")

_CONTEXT: Final = "grpc_context"
_COMPRESSIONS: Final = {1: "deflate", 2: "gzip"}
"""By the numbers that the library has for them."""

_MAX_DETAILS: Final = 4096
"""Characters of what an exception says."""
_MAX_DETAILS_BYTES: Final = 6 << 10
"""The same on the wire, where many characters take several: clients take 8 KiB of trailers."""
_CUT: Final = "... [truncated]"


def context_of(wire: Wire) -> RayServegRPCContext:
    """What the code is to know of a call."""
    return RayServegRPCContext._of_call(wire.context.request_id, wire.client)


class Service:
    """Answers for a deployment that has started."""

    def __init__(self, user: UserCallable) -> None:
        self._user = user
        self._table = _grpc_services.table(os.environ)
        self._has_reflection = os.environ.get(_grpc_services.REFLECTION) != "0"
        self._takes_context: dict[Any, bool] = {}

    async def answer(self, wire: Wire, context: RayServegRPCContext) -> str:
        """Carries out a call, from its first message to its status, whose name it gives."""
        await wire.open()
        last = b""
        try:
            last = await self._carry_out(wire, context)
            code, details = _code(context.code()), context.details()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            code, details = _status(error, context)
            # What a client sends is no fault of the code.
            if code == INTERNAL and not isinstance(error, Failure):
                logger.error("Request failed.", exc_info=error)
        if code != OK:
            # As the library has it: who gets an error gets no message.
            last = b""
        try:
            end = end_frame(code, _shortened(details), context.trailing_metadata())
        except Exception as error:
            logger.error("the trailing metadata of a call is none: it has to be pairs of texts", exc_info=error)
            code, last = INTERNAL, b""
            end = end_frame(code, "the trailing metadata is none", [("request_id", wire.context.request_id)])
        await wire.end(last + end)
        return CODES[code]

    async def _carry_out(self, wire: Wire, context: RayServegRPCContext) -> bytes:
        """Gives the only message of the answer; those of a stream are sent."""
        if wire.path.startswith(_grpc_reflection.PREFIXES):
            method, answer = self._reflection(wire.path)
            return await _send_all(wire, method, context, answer(_Messages(wire, method)))
        method = self._method(wire.path)
        name = wire.path.rpartition("/")[2]
        kwargs = {_CONTEXT: context} if self._wants_context(name) else {}
        if not method.takes_stream:
            return await self._call(wire, method, context, name, await _only(wire, method), kwargs)
        stream: gRPCInputStream[Any] = gRPCInputStream(_Messages(wire, method))
        wire.on_gone = stream.cancel
        try:
            return await self._call(wire, method, context, name, stream, kwargs)
        finally:
            # What the code has begun may hold it for longer than the call.
            stream.cancel()

    async def _call(
        self, wire: Wire, method: Method, context: RayServegRPCContext, name: str, given: Any, kwargs: dict[str, Any]
    ) -> bytes:
        if method.gives_stream:
            return await _send_all(wire, method, context, self._user.stream(name, (given,), kwargs))
        answer = await self._user.call(name, (given,), kwargs)
        # An answer beside an error does not go out, and may be anything.
        return _framed(wire, method, context, answer) if _code(context.code()) == OK else b""

    def _method(self, path: str) -> Method:
        method = self._table.methods.get(path)
        if method is not None:
            return method
        if self._table.problems:
            raise Failure(UNIMPLEMENTED, f"{path} is not known. {'; '.join(self._table.problems)}")
        known = ", ".join(self._table.services()) or "none"
        raise Failure(
            UNIMPLEMENTED,
            f"{path} is not known; services are: {known}. "
            "Name the add_…_to_server function of its service in grpc_servicer_functions",
        )

    def _wants_context(self, name: str) -> bool:
        """Whether the method that is called has a parameter for the context."""
        try:
            method = self._user.method(name)
        except RayServeException as error:
            raise Failure(UNIMPLEMENTED, str(error)) from None
        function = getattr(method, "__func__", method)
        try:
            known = self._takes_context.get(function)
        except TypeError:
            # An object that cannot be a key.
            return _has_parameter(method)
        if known is None:
            known = self._takes_context[function] = _has_parameter(method)
        return known

    def _reflection(self, path: str) -> tuple[Method, Any]:
        if path.rpartition("/")[2] != "ServerReflectionInfo":
            raise Failure(UNIMPLEMENTED, f"{path} is not known")
        if not self._has_reflection:
            raise Failure(UNIMPLEMENTED, "reflection is turned off; set enable_reflection of grpc_options")
        try:
            return _grpc_reflection.answers(path, self._table.services())
        except ImportError as error:
            cure = "pip install grpcio-reflection"
            raise Failure(UNIMPLEMENTED, f"reflection needs a package: {error}; {cure}") from None


def _has_parameter(method: Callable[..., Any]) -> bool:
    try:
        return _CONTEXT in inspect.signature(method).parameters
    except ValueError:
        # It is not written in Python, and says nothing.
        return False


# --- Messages ---------------------------------------------------------------------------------------------------------


async def _only(wire: Wire, method: Method) -> Any:
    """The message of a method that takes one."""
    message = await wire.receive()
    if message is None:
        raise Failure(UNIMPLEMENTED, "the method takes one message, and none came")
    if await wire.receive() is not None:
        raise Failure(UNIMPLEMENTED, "the method takes one message, and several came")
    return _decoded(method, message)


class _Messages:
    """All messages of a client, decoded when they are asked for."""

    def __init__(self, wire: Wire, method: Method) -> None:
        self._wire = wire
        self._method = method

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Any:
        message = await self._wire.receive()
        if message is None:
            raise StopAsyncIteration
        return _decoded(self._method, message)


def _decoded(method: Method, message: bytes) -> Any:
    if method.decode is None:
        return message
    try:
        return method.decode(message)
    except Exception as error:
        raise Failure(INTERNAL, f"a message cannot be decoded: {error}") from None


async def _send_all(
    wire: Wire, method: Method, context: RayServegRPCContext, answers: AsyncIterator[Any]
) -> bytes:
    """Sends the answers one by one, as they come."""
    try:
        async for answer in answers:
            await wire.send(_framed(wire, method, context, answer))
    finally:
        await answers.aclose()  # type: ignore[attr-defined]
    return b""


def _framed(wire: Wire, method: Method, context: RayServegRPCContext, answer: Any) -> bytes:
    message = _encoded(method, answer)
    wanted = _COMPRESSIONS.get(context._compression or 0)
    encoding = None if wanted is None else wire.encoding(wanted)
    return frame(message) if encoding is None else compressed_frame(message, encoding)


def _encoded(method: Method, answer: Any) -> bytes:
    """Raises TypeError for what is no message of the method's type."""
    cause = ""
    try:
        if method.encode is not None:
            return method.encode(answer)
        if isinstance(answer, bytes):
            return answer
        encoded: bytes = answer.SerializeToString()
        return encoded
    except Exception as error:
        cause = str(error)
    raise TypeError(f"the deployment gave {type(answer).__name__}, which is no message of the method's type: {cause}")


# --- Status -----------------------------------------------------------------------------------------------------------


def _code(given: Any) -> int:
    """The number of a code, which may be one of the library's or a number already; no known one is UNKNOWN."""
    if given is None:
        return OK
    value = getattr(given, "value", given)
    number = value[0] if isinstance(value, tuple) else value
    return number if isinstance(number, int) and 0 <= number < len(CODES) else CODES.index("UNKNOWN")


def _status(error: BaseException, context: RayServegRPCContext) -> tuple[int, str]:
    """What a call ends with that raised an exception: what the code has set comes first."""
    code, details = _of_exception(error)
    return _code(context.code()) or code, str(context.details() or details)


def _of_exception(error: BaseException) -> tuple[int, str]:
    if isinstance(error, Failure):
        return error.code, str(error)
    if isinstance(error, gRPCStatusError):
        return _code(error.grpc_code) or INTERNAL, error.grpc_details or str(error)
    if isinstance(error, BackPressureError):
        return RESOURCE_EXHAUSTED, str(error)
    if isinstance(error, (DeploymentUnavailableError, ReplicaUnavailableError)):
        return UNAVAILABLE, str(error)
    if isinstance(error, RequestCancelledError):
        return CANCELLED, str(error)
    # Before Python 3.11 these are two.
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return DEADLINE_EXCEEDED, str(error) or "Request timed out."
    return INTERNAL, str(error)


def _shortened(details: Any) -> str:
    """As much of it as goes with the end of a call."""
    text = "" if details is None else str(details).encode(errors="replace").decode()
    kept = text[:_MAX_DETAILS]
    while len(urllib.parse.quote(kept, " ")) > _MAX_DETAILS_BYTES:
        kept = kept[: len(kept) * 3 // 4]
    return text if kept == text else kept[: -len(_CUT)] + _CUT
