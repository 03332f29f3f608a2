"""HTTP/1.1 on a Unix socket in an asyncio loop, for questions of the server's own processes.

It knows what their client sends: a head, a body of a length that it names, and nothing more before the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import cast

logger = logging.getLogger("tyndall.serve")

Handle = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
"""Of a path and a body makes a status and a body."""

Upgrades = Mapping[str, Callable[[], asyncio.Protocol]]
"""By path: what takes a connection over that is one of HTTP no longer."""

_MAX_HEAD_BYTES = 64 << 10
_REASONS = {200: "OK", 204: "No Content", 404: "Not Found", 422: "Unprocessable Content", 500: "Internal Server Error"}


async def start(path: Path, handle: Handle, upgrades: Upgrades | None = None) -> asyncio.AbstractServer:
    """Answers there until it is closed."""
    path.unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: _Connection(handle, upgrades or {}), str(path), backlog=1024)


class _Connection(asyncio.Protocol):
    """One request after another."""

    def __init__(self, handle: Handle, upgrades: Upgrades) -> None:
        self._handle = handle
        self._upgrades = upgrades
        self._buffer = bytearray()
        self._head: tuple[str, int, int] | None = None
        """Its path, where the body begins, and where it ends."""
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            # Who asked went away.
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._next()
        except ValueError as error:
            logger.debug(f"what came is no request: {error}")
            self._close()

    def _next(self) -> None:
        """Begins with the next request, if all of it has come and the one before is answered."""
        if self._task is not None:
            return
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    raise ValueError("its head has no end")
                return
            self._head = _head(bytes(self._buffer[:end]), end + 4)
        path, begin, end = self._head
        if len(self._buffer) < end:
            return
        body = bytes(self._buffer[begin:end])
        del self._buffer[:end]
        self._head = None
        if path in self._upgrades:
            self._upgrade(self._upgrades[path]())
            return
        self._task = asyncio.get_running_loop().create_task(self._answer(path, body))

    def _upgrade(self, protocol: asyncio.Protocol) -> None:
        assert self._transport is not None, "something came on it"
        head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tyndall-calls\r\n\r\n"
        self._transport.write(head.encode())
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._buffer:
            protocol.data_received(bytes(self._buffer))

    async def _answer(self, path: str, body: bytes) -> None:
        try:
            status, answer = await self._handle(path, body)
        except Exception as error:
            logger.error(f"failed to answer {path}", exc_info=error)
            status, answer = 500, type(error).__name__.encode()
        if self._transport is None or self._transport.is_closing():
            return
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-length: {len(answer)}\r\n\r\n"
        # A 204 has no body, and says nothing of one.
        self._transport.write(
            f"HTTP/1.1 204 {_REASONS[204]}\r\n\r\n".encode() if status == 204 else head.encode() + answer
        )
        self._task = None
        try:
            self._next()
        except ValueError:
            self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _head(head: bytes, begin: int) -> tuple[str, int, int]:
    """Raises ValueError for one that is none."""
    first, *lines = head.split(b"\r\n")
    _, path, _ = first.decode("latin-1").split(" ")
    length = 0
    for header in lines:
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    if length < 0:
        raise ValueError("its body has a negative length")
    return path, begin, begin + length
