"""What tests of gRPC share: calls as the proxy brings them, and a replica that they come to."""

import asyncio
import json
import threading
from importlib import import_module

import pytest
from protos import FUNCTIONS, protos  # noqa: F401, a fixture

from tyndall import _tyndall
from tyndall.serve._replica import _Host
from tyndall.serve._user_callable import UserCallable
from tyndall.serve.grpc_util import gRPCInputStream

DEADLINE_S = 30


@pytest.fixture(autouse=True)
def words(protos, monkeypatch):  # noqa: F811, the fixture that is imported
    """The module of the messages; replicas know its services."""
    monkeypatch.setenv("TYNDALL_GRPC_SERVICER_FUNCTIONS", ",".join(FUNCTIONS))
    return import_module("words_pb2")


def framed(message, flags=0):
    raw = message if isinstance(message, bytes) else message.SerializeToString()
    return bytes([flags]) + len(raw).to_bytes(4, "big") + raw


class Source:
    """What both ways have."""

    def __init__(self, path, headers=()):
        self.path = path
        self.context = _tyndall.Context("request-1", "model-1", "session-1")
        self.headers = [(key.encode(), value.encode()) for key, value in headers]
        self.answer_headers = {}
        self.written = b""
        self.task = None
        self.is_closed = asyncio.Event()
        self.elapsed_ms = 1.0

    def set_task(self, task):
        self.task = task

    def scope(self):
        return {"headers": [*self.headers, (b"x-tyndall-peer", b"ipv4:127.0.0.1:5")]}

    def took(self, headers):
        text = lambda one: one.decode() if isinstance(one, bytes) else one  # noqa: E731
        self.answer_headers = {text(key): text(value) for key, value in headers}

    def frames(self):
        rest, found = self.written, []
        while rest:
            length = 5 + int.from_bytes(rest[1:5], "big")
            found.append((rest[0], rest[5:length]))
            rest = rest[length:]
        return found

    def answers(self, kind):
        return [kind.FromString(message) for flags, message in self.frames() if flags == 0]

    @property
    def end(self):
        assert [flags for flags, _ in self.frames() if flags & 0x80] == [0x80]
        flags, told = self.frames()[-1]
        assert flags == 0x80
        return json.loads(told)


class Whole(Source):
    """A request whose body is complete; it may come in parts."""

    def __init__(self, path, frames, headers=(), part_bytes=None):
        super().__init__(path, headers)
        body = b"".join(frames)
        size = part_bytes or len(body) or 1
        self.parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        self.sends = []

    async def receive(self):
        part = self.parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message):
        self.sends.append(message)
        if message["type"] == "http.response.start":
            assert message["status"] == 200
            self.took(message["headers"])
        else:
            assert self.answer_headers, "its head comes first"
            self.written += message["body"]

    def reply(self, status, content_type, body):
        self.reply_with(status, [("content-type", content_type)], body)

    def reply_with(self, status, headers, body):
        assert (status, self.written) == (200, b"")
        self.took(headers)
        self.written = body

    def close(self):
        self.is_closed.set()


class Open(Source):
    """A WebSocket on which the client goes on."""

    def __init__(self, path, frames=None, headers=()):
        super().__init__(path, headers)
        self.incoming = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.is_gone = False
        self.closes = []
        if frames is not None:
            for frame in frames:
                self.tell(frame)
            self.ends()

    def tell(self, frame):
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": frame, "text": None})

    def ends(self):
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": None, "text": "end"})

    def leaves(self):
        self.is_gone = True
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def receive(self):
        return await self.incoming.get()

    async def send(self, message):
        if self.is_gone:
            raise ConnectionError("the client is gone")
        if message["type"] == "websocket.accept":
            self.took(message["headers"])
        elif message["type"] == "websocket.send":
            # Each is one frame.
            assert int.from_bytes(message["bytes"][1:5], "big") == len(message["bytes"]) - 5
            self.written += message["bytes"]
        else:
            assert message == {"type": "websocket.close", "code": 1000}
            self.closes.append(message["code"])

    def close(self, has_failed):
        if not self.closes:
            self.closes.append(1011 if has_failed else 1000)
        self.is_closed.set()


class Replica:
    """A deployment that has started, without its threads."""

    def __init__(self, func_or_class):
        self.host = _Host(lambda _: None)
        self.host._app_name = "app"
        self.host._user = UserCallable(func_or_class, 8)
        self.run(self.host._user.start((), {}))

    def run(self, work):
        return self.host._loop.run_until_complete(asyncio.wait_for(work, DEADLINE_S))

    def begin(self, source):
        (self.host.grpc if isinstance(source, Whole) else self.host.grpc_stream)(source)

    def carry_out(self, source):
        self.begin(source)
        self.run(source.is_closed.wait())
        self.run(asyncio.sleep(0))
        assert not self.host._tasks
        return source

    def close(self):
        self.host._loop.close()


@pytest.fixture
def replica():
    made = []

    def make(func_or_class):
        made.append(Replica(func_or_class))
        return made[-1]

    yield make
    for one in made:
        one.close()


both = pytest.mark.parametrize("way", [Whole, Open])


def told(text="", number=0):
    return import_module("words_pb2").Told(text=text, number=number)


class Words:
    def Say(self, ask):  # noqa: N802, names of the service
        return told(ask.text.upper(), threading.get_native_id())

    async def Count(self, ask):  # noqa: N802
        for number in range(ask.count):
            yield told(ask.text, number)

    async def Join(self, asks):  # noqa: N802
        assert isinstance(asks, gRPCInputStream)
        texts = [ask.text async for ask in asks]
        assert asks.is_exhausted and not asks.is_cancelled()
        return told(" ".join(texts), len(texts))

    async def Echo(self, asks):  # noqa: N802
        async for ask in asks:
            yield told(ask.text)
