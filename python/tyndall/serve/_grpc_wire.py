"""How calls of gRPC come to a replica, and how their answers go: as frames of a body or of a WebSocket.

A frame is a byte of flags, four of length and a message. The last one of an answer is marked and tells the status, of
which the proxy makes trailers. A call that was complete when it came is a request of HTTP. One whose client goes on is
a WebSocket, each message of which is a frame, and the text `end` says that there are no more.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from tyndall import _tyndall

from ._replica_log import AccessLog

_HEAD_BYTES: Final = 5
_COMPRESSED: Final = 0x01
_END: Final = 0x80
_CONTENT_TYPE: Final = "application/x-tyndall-grpc"
_MAX_MESSAGE_BYTES: Final = (1 << 31) - 1
_MAX_AHEAD: Final = 16
_MAX_AHEAD_BYTES: Final = 256 << 10
"""As much of a client's input is read before the code asks for it, to notice meanwhile when the client goes."""

_WINDOWS: Final = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
"""By encoding, what zlib calls it."""

_NOT_METADATA: Final = frozenset(
    (
        b"x-request-id",
        b"content-length",
        b"content-type",
        b"transfer-encoding",
        b"host",
        b"te",
        b"connection",
        b"upgrade",
        b"expect",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-timeout",
    )
)
_NOT_METADATA_PREFIXES: Final = (b"x-tyndall-", b"sec-websocket-", b"x-forwarded-")

OK: Final = 0
CANCELLED: Final = 1
DEADLINE_EXCEEDED: Final = 4
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14

CODES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


class Failure(Exception):
    """What a call ends with that never came to the code, or whose answer cannot go out."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code = code


# --- Frames -----------------------------------------------------------------------------------------------------------


def frame(message: bytes, flags: int = 0) -> bytes:
    if len(message) > _MAX_MESSAGE_BYTES:
        raise Failure(RESOURCE_EXHAUSTED, f"a message has {len(message)} bytes, and {_MAX_MESSAGE_BYTES} may go")
    return b"%c%b%b" % (flags, len(message).to_bytes(4, "big"), message)


def compressed_frame(message: bytes, encoding: str) -> bytes:
    packer = zlib.compressobj(wbits=_WINDOWS[encoding])
    return frame(packer.compress(message) + packer.flush(), _COMPRESSED)


def end_frame(code: int, details: str, metadata: Iterable[tuple[str, Any]]) -> bytes:
    """The last frame of an answer."""
    told = {"code": code, "details": details, "metadata": [_written(key, value) for key, value in metadata]}
    return frame(json.dumps(told).encode(), _END)


def _written(key: str, value: Any) -> list[str]:
    """Bytes go as base64, and only under keys that say so."""
    key = key.lower()
    if key.endswith("-bin"):
        raw = value.encode() if isinstance(value, str) else bytes(value)
        return [key, base64.b64encode(raw).decode()]
    return [key, value.decode() if isinstance(value, bytes) else str(value)]


def _unpacked(message: bytes, encoding: str) -> bytes:
    if encoding not in _WINDOWS:
        known = ", ".join(("identity", *_WINDOWS))
        raise Failure(UNIMPLEMENTED, f"messages come compressed by {encoding!r}, and known are {known}")
    unpacker = zlib.decompressobj(wbits=_WINDOWS[encoding])
    try:
        unpacked = unpacker.decompress(message, _MAX_MESSAGE_BYTES)
    except zlib.error as error:
        raise Failure(INTERNAL, f"a message is not compressed by {encoding}: {error}") from None
    if not unpacker.eof:
        raise Failure(INTERNAL, f"a message that is compressed by {encoding} has no end")
    return unpacked


# --- Ways -------------------------------------------------------------------------------------------------------------


class Wire(Protocol):
    """How a call came, and how its answer goes."""

    on_gone: Callable[[], None] | None
    """What is called when the client leaves, before the task is cancelled."""

    @property
    def path(self) -> str: ...
    @property
    def context(self) -> _tyndall.Context: ...
    def client(self) -> tuple[list[tuple[str, Any]], str]:
        """What the client has sent beside its messages, and where it is."""

    def encoding(self, wanted: str) -> str | None:
        """How answers can be compressed from now on, where that is asked for before the first; None for not at all."""

    async def open(self) -> None: ...
    async def receive(self) -> bytes | None:
        """The next message; None when there are no more."""

    async def send(self, frame: bytes) -> None:
        """An answer that others follow."""

    async def end(self, frames: bytes) -> None:
        """The last that goes to the client."""

    def close(self, has_failed: bool) -> None: ...
    def log(self, access: AccessLog, code: str) -> None: ...


class _Headers:
    """What comes beside the messages."""

    def __init__(self, source: _tyndall.HttpRequest | _tyndall.WebSocket) -> None:
        self._source = source
        self._known: dict[str, Any] | None = None
        self.on_gone: Callable[[], None] | None = None

    def _scope(self) -> dict[str, Any]:
        if self._known is None:
            self._known = self._source.scope()
        return self._known

    def header(self, name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in self._scope()["headers"] if key == name), "")

    def accepts(self, encoding: str) -> bool:
        return encoding in (one.strip() for one in self.header(b"grpc-accept-encoding").split(","))

    def client(self) -> tuple[list[tuple[str, Any]], str]:
        scope = self._scope()
        metadata: list[tuple[str, Any]] = []
        for key, value in scope["headers"]:
            if key in _NOT_METADATA or key.startswith(_NOT_METADATA_PREFIXES):
                continue
            if key.endswith(b"-bin"):
                # Several values may have been joined on the way.
                metadata += [(key.decode(), raw) for raw in map(_bytes_of, value.split(b","))]
            else:
                metadata.append((key.decode(), value.decode("latin-1")))
        return metadata, self.header(b"x-tyndall-peer")

    def message(self, flags: int, message: bytes) -> bytes:
        if flags == 0:
            return message
        if flags != _COMPRESSED:
            raise Failure(INTERNAL, f"a message has the flags {flags:#x}, which gRPC does not know")
        encoding = self.header(b"grpc-encoding") or "identity"
        if encoding == "identity":
            raise Failure(INTERNAL, "a message is compressed, and the call does not say how")
        return _unpacked(message, encoding)


def _bytes_of(text: bytes) -> bytes:
    """Of base64 without the signs at its end, which clients leave out."""
    text = text.strip()
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return text


class Body(_Headers):
    """A call that was complete when it came."""

    def __init__(self, request: _tyndall.HttpRequest) -> None:
        super().__init__(request)
        self._request = request
        self.path = request.path
        self.context = request.context
        self._bytes = b""
        self._begin = 0
        self._has_more = True
        self._is_begun = False
        self._encoding: str | None = None

    def encoding(self, wanted: str) -> str | None:
        if not self._is_begun and self.accepts(wanted):
            self._encoding = wanted
        return self._encoding

    async def open(self) -> None:
        pass

    async def receive(self) -> bytes | None:
        head = await self._take(_HEAD_BYTES)
        if not head:
            return None
        message = await self._take(int.from_bytes(head[1:], "big")) if len(head) == _HEAD_BYTES else None
        if message is None or len(message) < int.from_bytes(head[1:], "big"):
            raise Failure(INTERNAL, "the input ends in the midst of a message")
        return self.message(head[0], message)

    async def _take(self, count: int) -> bytes:
        """So many bytes, or fewer at the end."""
        missing = count - (len(self._bytes) - self._begin)
        if missing > 0 and self._has_more:
            parts = [self._bytes[self._begin :]]
            while missing > 0 and self._has_more:
                message = await self._request.receive()
                if message["type"] == "http.disconnect":
                    raise asyncio.CancelledError
                parts.append(message.get("body", b""))
                missing -= len(parts[-1])
                self._has_more = message.get("more_body", False)
            self._bytes, self._begin = b"".join(parts), 0
        taken = self._bytes[self._begin : self._begin + count]
        self._begin += len(taken)
        return taken

    async def send(self, frame: bytes) -> None:
        if not self._is_begun:
            self._is_begun = True
            headers = [(key.encode(), value.encode()) for key, value in self._answer_headers()]
            await self._request.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._request.send({"type": "http.response.body", "body": frame, "more_body": True})

    async def end(self, frames: bytes) -> None:
        if self._is_begun:
            await self._request.send({"type": "http.response.body", "body": frames, "more_body": False})
        elif self._encoding is None:
            self._request.reply(200, _CONTENT_TYPE, frames)
        else:
            self._request.reply_with(200, self._answer_headers(), frames)

    def _answer_headers(self) -> list[tuple[str, str]]:
        headers = [("content-type", _CONTENT_TYPE)]
        return headers if self._encoding is None else [*headers, ("grpc-encoding", self._encoding)]

    def close(self, has_failed: bool) -> None:
        self._request.close()

    def log(self, access: AccessLog, code: str) -> None:
        access.grpc(self._request, code)


class Conversation(_Headers):
    """A call whose client goes on while the code is at work. If it leaves before the end, the task is cancelled."""

    def __init__(self, socket: _tyndall.WebSocket) -> None:
        super().__init__(socket)
        self._socket = socket
        self._task: asyncio.Task[Any] | None = None
        self.path = socket.path
        self.context = socket.context
        self.is_gone = False
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._has_more = True
        self._is_over = False
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._encoding: str | None = None
        self._begun_at = time.perf_counter()

    @property
    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self._begun_at) * 1000

    def encoding(self, wanted: str) -> str | None:
        return self._encoding

    async def open(self) -> None:
        """The head of the answer goes before the code says how it compresses, and so names what the client can read."""
        self._encoding = next(filter(self.accepts, _WINDOWS), None)
        headers = [] if self._encoding is None else [(b"grpc-encoding", self._encoding.encode())]
        if not await self._told({"type": "websocket.accept", "headers": headers}):
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        """Reads a little ahead, until the client leaves."""
        try:
            while (message := await self._socket.receive())["type"] != "websocket.disconnect":
                if message["type"] == "websocket.connect":
                    continue
                if message.get("bytes") is None:
                    self._has_more = False
                else:
                    self._waiting.append(message["bytes"])
                    self._waiting_bytes += len(message["bytes"])
                self._changed.set()
                while len(self._waiting) >= _MAX_AHEAD or self._waiting_bytes >= _MAX_AHEAD_BYTES:
                    self._has_room.clear()
                    await self._has_room.wait()
        finally:
            if not self._is_over:
                self.is_gone = True
                if self.on_gone is not None:
                    self.on_gone()
                assert self._task is not None, "it listens for one"
                self._task.cancel()
            # Who waits for a message yet has seen the last one.
            self._has_more = False
            self._changed.set()

    async def receive(self) -> bytes | None:
        while not self._waiting:
            if not self._has_more or self.is_gone:
                return None
            self._changed.clear()
            await self._changed.wait()
        taken = self._waiting.popleft()
        self._waiting_bytes -= len(taken)
        self._has_room.set()
        if len(taken) < _HEAD_BYTES or int.from_bytes(taken[1:_HEAD_BYTES], "big") != len(taken) - _HEAD_BYTES:
            raise Failure(INTERNAL, "what came is no message of gRPC")
        return self.message(taken[0], taken[_HEAD_BYTES:])

    async def send(self, frame: bytes) -> None:
        if not await self._told({"type": "websocket.send", "bytes": frame}):
            raise asyncio.CancelledError

    async def end(self, frames: bytes) -> None:
        # The client may leave as soon as it has these.
        self._is_over = True
        begin = 0
        while begin < len(frames):
            length = _HEAD_BYTES + int.from_bytes(frames[begin + 1 : begin + _HEAD_BYTES], "big")
            await self.send(frames[begin : begin + length])
            begin += length
        await self._told({"type": "websocket.close", "code": 1000})

    async def _told(self, message: dict[str, Any]) -> bool:
        """Whether the client is there to hear it. The listener hears of its end too, a moment later."""
        try:
            await self._socket.send(message)
        except ConnectionError:
            self.is_gone = True
        return not self.is_gone

    def close(self, has_failed: bool) -> None:
        self._is_over = True
        if self._listener is not None:
            self._listener.cancel()
        self._socket.close(has_failed)

    def log(self, access: AccessLog, code: str) -> None:
        access.grpc_stream(self._socket, code, self.elapsed_ms)
