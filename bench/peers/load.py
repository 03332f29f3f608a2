"""The load: requests over plain asyncio streams, the same for every server.

A client library would take a good part of the cores that the server under test computes on; this one
formats a request once and reads bytes. `closed_loop` is the only way in for rates.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from processes import PeerError

LIMIT_BYTES = 16 << 20


@dataclass
class Answer:
    """One answer and when it came, in seconds of `time.perf_counter`."""

    start_s: float
    first_byte_s: float
    end_s: float
    body: bytes

    def json(self) -> dict:
        """The body, read as JSON."""
        return json.loads(self.body)


@dataclass
class Stream:
    """Times of a streamed answer's events, in seconds of `time.perf_counter`; `[DONE]` is not among them."""

    start_s: float
    events_s: list[float]
    events: list[dict]


class Connection:
    """One keep-alive HTTP/1.1 connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80

    async def __aenter__(self) -> "Connection":
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=LIMIT_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def post(self, path: str, body: dict) -> Answer:
        """Sends, and reads the whole answer."""
        start_s = await self._send(path, body)
        parts, first_s = [], 0.0
        async for part in self._body(path):
            first_s = first_s or time.perf_counter()
            parts.append(part)
        return Answer(start_s, first_s, time.perf_counter(), b"".join(parts))

    async def stream(self, path: str, body: dict) -> Stream:
        """Sends, and reads server-sent events with the time of each."""
        start_s = await self._send(path, body)
        stream, rest = Stream(start_s, [], []), b""
        async for part in self._body(path):
            now = time.perf_counter()
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                data = line.removeprefix(b"data:").strip()
                if line.startswith(b"data:") and data != b"[DONE]":
                    stream.events_s.append(now)
                    stream.events.append(json.loads(data))
        return stream

    async def _send(self, path: str, body: dict) -> float:
        payload = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(payload)}\r\n\r\n"
        )
        start_s = time.perf_counter()
        self.writer.write(head.encode() + payload)
        await self.writer.drain()
        return start_s

    async def _body(self, path: str) -> AsyncIterator[bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
        chunked = headers.get("transfer-encoding") == "chunked"
        body = self._chunks() if chunked else self._sized(int(headers.get("content-length", 0)))
        status = int(head[0].split()[1])
        if status != 200:
            text = b"".join([part async for part in body]).decode(errors="replace")
            raise PeerError(f"{path} answered {status}: {text[:300]}")
        async for part in body:
            yield part

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
            chunk = await self.reader.readexactly(size + 2)
            if size == 0:
                return
            yield chunk[:-2]

    async def _sized(self, size: int) -> AsyncIterator[bytes]:
        if size:
            yield await self.reader.readexactly(size)


def post(url: str, path: str, body: dict, timeout_s: float) -> Answer:
    """One request on a connection of its own."""

    async def once() -> Answer:
        async with Connection(url) as connection:
            return await connection.post(path, body)

    return run(once(), timeout_s)


def stream(url: str, path: str, body: dict, timeout_s: float) -> Stream:
    """One streamed request on a connection of its own."""

    async def once() -> Stream:
        async with Connection(url) as connection:
            return await connection.stream(path, body)

    return run(once(), timeout_s)


def closed_loop(url: str, path: str, bodies: list[dict], concurrency: int, timeout_s: float) -> tuple[float, list[Answer]]:
    """Sends all bodies, `concurrency` at a time, each connection its next as soon as it has its answer.

    Returns the seconds from the first request to the last answer, and the answers.
    """

    async def worker(queue: list[dict], answers: list[Answer]) -> None:
        async with Connection(url) as connection:
            while queue:
                answers.append(await connection.post(path, queue.pop()))

    async def all_workers() -> list[Answer]:
        queue, answers = list(reversed(bodies)), []
        await asyncio.gather(*(worker(queue, answers) for _ in range(concurrency)))
        return answers

    answers = run(all_workers(), timeout_s)
    return max(a.end_s for a in answers) - min(a.start_s for a in answers), answers


def run(work, timeout_s: float):
    """Runs a coroutine to its end; what goes wrong on the wire becomes a PeerError."""
    try:
        return asyncio.run(asyncio.wait_for(work, timeout_s))
    except TimeoutError as error:
        raise PeerError(f"no answer within {timeout_s:.0f} s; --timeout raises that") from error
    except (OSError, EOFError) as error:
        raise PeerError(f"the connection broke: {error!r}") from error
