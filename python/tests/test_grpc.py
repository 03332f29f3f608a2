"""Calls of gRPC as the proxy brings them to a replica: in both ways, and for all kinds of methods."""

import asyncio
import base64
import pickle
import threading

import grpc
import pytest
from grpc_replica import DEADLINE_S, Open, Whole, Words, both, framed, protos, replica, told, words  # noqa: F401

from tyndall import serve
from tyndall.serve.context import _get_serve_request_context
from tyndall.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
    gRPCStatusError,
)
from tyndall.serve.grpc_util import RayServegRPCContext, gRPCInputStream

# --- Kinds of methods -------------------------------------------------------------------------------------------------


@both
def test_one_message_has_one_answer(replica, words, way):
    source = replica(Words).carry_out(way("/words.Words/Say", [framed(words.Ask(text="a"))]))
    (answer,) = source.answers(words.Told)
    # A plain method runs beside the loop.
    assert answer.text == "A" and answer.number != threading.get_native_id()
    assert source.end == {"code": 0, "details": "", "metadata": [["request_id", "request-1"]]}
    if way is Whole:
        assert source.answer_headers == {"content-type": "application/x-tyndall-grpc"} and source.sends == []
    else:
        assert source.closes == [1000]


@both
def test_one_message_has_many_answers(replica, words, way):
    source = replica(Words).carry_out(way("/words.Words/Count", [framed(words.Ask(text="a", count=3))]))
    assert [answer.number for answer in source.answers(words.Told)] == [0, 1, 2]
    assert source.end["code"] == 0
    if way is Whole:
        # Each as it comes, and the end by itself.
        assert [len(one.get("body", b"")) > 0 for one in source.sends] == [False, True, True, True, True]
        assert [one.get("more_body") for one in source.sends] == [None, True, True, True, False]


@both
@pytest.mark.parametrize("count", [0, 1, 40])
def test_many_messages_have_one_answer(replica, words, way, count):
    frames = [framed(words.Ask(text=str(number))) for number in range(count)]
    source = replica(Words).carry_out(way("/words.Words/Join", frames))
    (answer,) = source.answers(words.Told)
    assert (answer.text, answer.number) == (" ".join(map(str, range(count))), count)


@both
def test_many_messages_have_many_answers(replica, words, way):
    frames = [framed(words.Ask(text=text)) for text in "abc"]
    source = replica(Words).carry_out(way("/words.Words/Echo", frames))
    assert [answer.text for answer in source.answers(words.Told)] == ["a", "b", "c"]


def test_a_conversation_goes_back_and_forth(replica, words):
    there = replica(Words)
    source = Open("/words.Words/Echo")
    there.begin(source)

    async def talk():
        for number, text in enumerate("abc", 1):
            source.tell(framed(words.Ask(text=text)))
            while len(source.frames()) < number:
                await asyncio.sleep(0)
        source.ends()
        await source.is_closed.wait()

    there.run(talk())
    assert [answer.text for answer in source.answers(words.Told)] == ["a", "b", "c"]


@pytest.mark.parametrize("part_bytes", [1, 4, 7])
def test_a_body_comes_in_parts_of_any_size(replica, words, part_bytes):
    frames = [framed(words.Ask(text=text)) for text in ("first", "", "third")]
    source = replica(Words).carry_out(Whole("/words.Words/Join", frames, part_bytes=part_bytes))
    assert [answer.text for answer in source.answers(words.Told)] == ["first  third"]


def test_a_function_answers_whatever_is_called(replica, words):
    there = replica(lambda ask: told(ask.text))
    source = there.carry_out(Whole("/words.Plain/__call__", [framed(words.Ask(text="x"))]))
    assert [answer.text for answer in source.answers(words.Told)] == ["x"]


def test_a_plain_generator_streams(replica, words):
    class Plain:
        def Count(self, ask):  # noqa: N802
            yield from (told(number=number) for number in range(ask.count))

        def __call__(self, ask):
            return told("called")

    there = replica(Plain)
    source = there.carry_out(Whole("/words.Words/Count", [framed(words.Ask(count=2))]))
    assert [answer.number for answer in source.answers(words.Told)] == [0, 1]
    source = there.carry_out(Whole("/words.Plain/__call__", [framed(words.Ask())]))
    assert [answer.text for answer in source.answers(words.Told)] == ["called"]


# --- The context ------------------------------------------------------------------------------------------------------

METADATA = [
    ("application", "app"),
    ("request_id", "request-1"),
    ("multiplexed_model_id", "model-1"),
    ("traceparent", "00-1-2-01"),
    ("tracestate", "a=b"),
    ("colour", "blue"),
    ("raw-bin", base64.b64encode(b"\0\xff").decode().rstrip("=")),
]


@both
def test_the_code_gets_the_context_where_it_wants_it(replica, words, way):
    seen = []

    class Asks:
        def Say(self, ask, *, grpc_context):  # noqa: N802
            # Also in a thread, and by the context of the request.
            assert _get_serve_request_context().grpc_context is grpc_context
            seen.append(grpc_context)
            grpc_context.set_trailing_metadata([("key", "value"), ("raw-bin", b"\xff")])
            return told(serve.get_multiplexed_model_id())

        async def Count(self, ask, **others):  # noqa: N802
            assert others == {}
            yield told()

    ours = [("x-tyndall-grpc", "1"), ("x-request-id", "i"), ("host", "h"), ("te", "trailers"), ("content-type", "t")]
    there = replica(Asks)
    source = there.carry_out(way("/words.Words/Say", [framed(words.Ask())], [*METADATA, *ours]))
    assert [answer.text for answer in source.answers(words.Told)] == ["model-1"]
    assert source.end["metadata"] == [["request_id", "request-1"], ["key", "value"], ["raw-bin", "/w=="]]
    (context,) = seen
    assert isinstance(context, RayServegRPCContext)
    assert context.invocation_metadata() == [*METADATA[:-1], ("raw-bin", b"\0\xff")]
    assert (context.application(), context.request_id()) == ("app", "request-1")
    assert context.multiplexed_model_id() == "model-1"
    assert (context.traceparent(), context.tracestate()) == ("00-1-2-01", "a=b")
    assert context.peer() == "ipv4:127.0.0.1:5"
    assert (context.auth_context(), context.peer_identities(), context.peer_identity_key()) == ({}, None, None)
    assert there.carry_out(way("/words.Words/Count", [framed(words.Ask())])).end["code"] == 0


def test_a_context_without_metadata_knows_its_request(replica, words):
    seen = []

    def say(ask, grpc_context):
        seen.append(pickle.loads(pickle.dumps(grpc_context)))
        return told()

    replica(say).carry_out(Whole("/words.Words/Say", [framed(words.Ask())]))
    (context,) = seen
    assert (context.request_id(), context.application(), context.invocation_metadata()) == ("request-1", None, [])
    assert (context.code(), context.details()) == (0, "")


def test_a_context_is_made_of_one_of_the_library():
    class Library:
        auth_context = staticmethod(dict)
        code = staticmethod(lambda: 0)
        details = staticmethod(lambda: "")
        invocation_metadata = staticmethod(lambda: (("request_id", "r"), ("application", "a")))
        peer = staticmethod(lambda: "ipv4:1.2.3.4:5")
        peer_identities = peer_identity_key = staticmethod(lambda: None)
        trailing_metadata = staticmethod(lambda: (("k", "v"),))

    context = RayServegRPCContext(Library())
    assert (context.request_id(), context.application(), context.peer()) == ("r", "a", "ipv4:1.2.3.4:5")
    context.set_code(grpc.StatusCode.ABORTED)
    copied = pickle.loads(pickle.dumps(context))
    assert copied.code() is grpc.StatusCode.ABORTED and copied.trailing_metadata() == [("k", "v")]


# --- How calls end ----------------------------------------------------------------------------------------------------


def raising(error, code=None, details=None):
    def say(ask, grpc_context):
        if code is not None:
            grpc_context.set_code(code)
        if details is not None:
            grpc_context.set_details(details)
        if error is not None:
            raise error
        return told("an answer")

    return say


@both
@pytest.mark.parametrize(
    ("error", "code", "details", "expected"),
    [
        (None, grpc.StatusCode.OK, "fine", (0, "fine")),
        (None, grpc.StatusCode.NOT_FOUND, "no such word", (5, "no such word")),
        (None, 5, None, (5, "")),
        (None, 99, None, (2, "")),
        (ValueError("why"), None, None, (13, "why")),
        (ValueError("why"), grpc.StatusCode.NOT_FOUND, None, (5, "why")),
        (ValueError("why"), grpc.StatusCode.OK, "own", (13, "own")),
        (SystemExit("over"), None, None, (13, "over")),
        (BackPressureError(2, 1), None, None, (8, str(BackPressureError(2, 1)))),
        (BackPressureError(2, 1), grpc.StatusCode.ABORTED, "own", (10, "own")),
        (DeploymentUnavailableError("D"), None, None, (14, "D is unavailable because it failed to deploy.")),
        (ReplicaUnavailableError("r"), None, None, (14, "Replica r is no longer available.")),
        (TimeoutError("late"), None, None, (4, "late")),
        (asyncio.TimeoutError(), None, None, (4, "Request timed out.")),
        (RequestCancelledError("r"), None, None, (1, "Request r was cancelled.")),
        (gRPCStatusError(ValueError("why"), grpc.StatusCode.NOT_FOUND), None, None, (5, "why")),
        (gRPCStatusError(ValueError("why"), grpc.StatusCode.NOT_FOUND, "d"), None, None, (5, "d")),
    ],
)
def test_the_status_tells_what_happened(replica, words, way, error, code, details, expected, warned):
    source = replica(raising(error, code, details)).carry_out(way("/words.Words/Say", [framed(words.Ask())]))
    assert (source.end["code"], source.end["details"]) == expected
    assert source.end["metadata"] == [["request_id", "request-1"]]
    assert len(source.answers(words.Told)) == (1 if expected[0] == 0 else 0)
    assert [line for line in warned() if line == "Request failed."] == ["Request failed."] * (expected[0] == 13)


@both
def test_a_stream_that_fails_ends_with_its_status_after_its_answers(replica, words, way):
    class Broken:
        async def Count(self, ask, grpc_context):  # noqa: N802
            yield told("before")
            grpc_context.set_trailing_metadata([("left", "1")])
            raise ValueError("midway")

    source = replica(Broken).carry_out(way("/words.Words/Count", [framed(words.Ask())]))
    assert [answer.text for answer in source.answers(words.Told)] == ["before"]
    assert source.end == {"code": 13, "details": "midway", "metadata": [["request_id", "request-1"], ["left", "1"]]}


@pytest.mark.parametrize(("text", "kept"), [("x" * 4096, 4096), ("x" * 5000, 4096), ("ä" * 5000, 1295), ("\ud800", 1)])
def test_details_are_as_long_as_clients_take(replica, words, text, kept):
    source = replica(raising(ValueError(text))).carry_out(Whole("/words.Words/Say", [framed(words.Ask())]))
    details = source.end["details"]
    assert len(details) <= 4096 and details.endswith("... [truncated]") == (len(text) > 4096)
    assert len(details) == kept or len(details) > kept / 2


@both
@pytest.mark.parametrize(
    ("path", "frames", "code", "details"),
    [
        ("/words.Words/Nothing", [b""], 12, "/words.Words/Nothing is not known; services are: words.Plain, words"),
        ("/words.Words/Absent", [b""], 12, "Tried to call a method 'Absent' that does not exist."),
        ("/words.Words/Say", [], 12, "none came"),
        ("/words.Words/Say", [b"", b""], 12, "several came"),
        ("/words.Words/Say", [b"\xff"], 13, "a message cannot be decoded"),
        ("/words.Words/Join", [b"\xff"], 13, "a message cannot be decoded"),
    ],
)
def test_what_cannot_be_carried_out_is_told(replica, warned, way, path, frames, code, details):
    source = replica(Words).carry_out(way(path, [framed(one) for one in frames]))
    assert source.end["code"] == code and details in source.end["details"]
    assert warned() == []


def test_frames_that_are_none_are_told(replica):
    there = replica(Words)
    for body in (b"\0\0", framed(b"abc")[:-1]):
        assert "in the midst of a message" in there.carry_out(Whole("/words.Words/Say", [body])).end["details"]
    assert there.carry_out(Open("/words.Words/Say", [b"\0\0\0\0\5a"])).end["code"] == 13
    assert "flags 0x40" in there.carry_out(Whole("/words.Words/Say", [framed(b"", 0x40)])).end["details"]


@both
def test_an_answer_of_another_type_is_told(replica, words, warned, way):
    source = replica(lambda ask: ["text"]).carry_out(way("/words.Words/Say", [framed(words.Ask())]))
    assert source.end["code"] == 13
    assert source.end["details"].startswith("the deployment gave list, which is no message of the method's type")
    assert warned() == ["Request failed."]


def test_metadata_that_is_none_is_told(replica, words):
    def say(ask, grpc_context):
        grpc_context.set_trailing_metadata([("key",)])
        return told()

    end = replica(say).carry_out(Whole("/words.Words/Say", [framed(words.Ask())])).end
    assert end == {"code": 13, "details": "the trailing metadata is none", "metadata": [["request_id", "request-1"]]}


# --- Clients that leave -----------------------------------------------------------------------------------------------


class Waits:
    """Notes how its calls end."""

    ended = None
    stream = None

    async def Say(self, ask):  # noqa: N802
        await self._wait()

    async def Join(self, asks):  # noqa: N802
        type(self).stream = asks
        await self._wait()

    async def Echo(self, asks):  # noqa: N802
        type(self).stream = asks
        async for ask in asks:
            yield told(ask.text)

    async def _wait(self):
        type(self).ended = "waits"
        try:
            await asyncio.sleep(DEADLINE_S)
        except asyncio.CancelledError:
            type(self).ended = "cancelled"
            raise


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.parametrize("method", ["Say", "Join"])
def test_a_client_that_leaves_cancels_the_code_while_that_computes(replica, words, method):
    Waits.ended = Waits.stream = None
    there, source = replica(Waits), Open(f"/words.Words/{method}", [framed(words.Ask())])
    there.begin(source)
    there.run(until(lambda: Waits.ended))
    source.leaves()
    there.run(source.is_closed.wait())
    assert Waits.ended == "cancelled" and source.closes == [1011]
    assert Waits.stream is None or Waits.stream.is_cancelled()
    assert not there.host._tasks


def test_a_call_that_came_whole_is_cancelled_by_its_task(replica, words):
    Waits.ended = None
    there, source = replica(Waits), Whole("/words.Words/Say", [framed(words.Ask())])
    there.begin(source)
    there.run(until(lambda: Waits.ended))
    there.host.cancel(source.task)
    there.run(source.is_closed.wait())
    assert Waits.ended == "cancelled" and source.written == b""


def test_a_client_that_leaves_in_the_midst_of_its_input_ends_it(replica, words):
    there, source = replica(Waits), Open("/words.Words/Echo")
    there.begin(source)
    source.tell(framed(words.Ask(text="a")))
    there.run(until(lambda: source.written))
    source.leaves()
    there.run(source.is_closed.wait())
    assert Waits.stream.is_cancelled()


def test_reading_after_the_end_of_the_call_is_no_error(replica, words):
    kept = []

    async def join(asks):
        kept.append(asks)
        kept.append(asyncio.ensure_future(asks.__anext__()))
        await asyncio.sleep(0)
        return told()

    async def after():
        stream, waiting = kept
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        assert stream.is_cancelled() and stream.is_exhausted
        await asyncio.wait([waiting])
        # A future does not hold the end of a loop as it is.
        assert isinstance(waiting.exception(), (StopAsyncIteration, RuntimeError))

    there = replica(join)
    source = Open("/words.Words/Join")
    there.carry_out(source)
    there.run(after())


def test_input_waits_until_the_code_asks(replica, words):
    gate = asyncio.Event()

    async def join(asks):
        await gate.wait()
        return told(number=len([ask async for ask in asks]))

    there, source = replica(join), Open("/words.Words/Join", [framed(words.Ask(text="a"))] * 100)
    there.begin(source)

    async def look():
        for _ in range(300):
            await asyncio.sleep(0)
        assert source.incoming.qsize() > 50
        gate.set()
        await source.is_closed.wait()

    there.run(look())
    assert [answer.number for answer in source.answers(words.Told)] == [100]


def test_a_stream_by_itself():
    async def numbers():
        for number in range(3):
            yield number

    async def read():
        stream = gRPCInputStream(numbers())
        assert [one async for one in stream] == [0, 1, 2] and stream.is_exhausted and not stream.is_cancelled()
        event = asyncio.Event()
        stream = gRPCInputStream(numbers(), cancel_event=event)
        assert await stream.__anext__() == 0
        event.set()
        assert stream.is_cancelled() and [one async for one in stream] == []
        stream = gRPCInputStream(numbers())
        stream.cancel()
        assert [one async for one in stream] == [] and stream.is_cancelled()

    asyncio.run(read())


# --- Log --------------------------------------------------------------------------------------------------------------


@both
def test_each_call_has_a_line(replica, words, way):
    lines = []

    class Access:
        def grpc(self, request, code):
            lines.append((request.path, code))

        def grpc_stream(self, socket, code, elapsed_ms):
            assert elapsed_ms >= 0
            lines.append((socket.path, code))

    there = replica(Words)
    there.host._access = Access()
    there.carry_out(way("/words.Words/Say", [framed(words.Ask())]))
    there.carry_out(way("/words.Words/Nothing", [framed(b"")]))
    assert lines == [("/words.Words/Say", "OK"), ("/words.Words/Nothing", "UNIMPLEMENTED")]
