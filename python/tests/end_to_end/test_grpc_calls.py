"""gRPC from an unmodified client of the library to deployments and back."""

import asyncio
import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

import grpc
import pytest
from protos import FUNCTIONS, protos  # noqa: F401, a fixture
from servers import OwnServer, details, until

from tyndall import serve
from tyndall.serve import _server

LIMIT_S = 60
PING = "Ping /ray.serve.RayServeAPIService/ListApplications for available applications."


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def told(**fields):
    """An answer. Replicas import this module too, and have the generated ones only when they run."""
    return import_module("words_pb2").Told(**fields)


@serve.deployment(max_ongoing_requests=100)
class Words:
    """What a call does is the first word of its text."""

    def __init__(self, name: str = "one") -> None:
        self.name = name

    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, model_id: str) -> str:
        return model_id.upper()

    async def Say(self, ask, grpc_context):  # noqa: N802, names of the service
        what, _, rest = ask.text.partition(" ")
        return await getattr(self, f"_{what}")(rest, grpc_context)

    async def Count(self, ask, grpc_context):  # noqa: N802
        for number in range(ask.count):
            yield told(text=ask.text, number=number)
        if ask.text.startswith("wait "):
            await self._wait(ask.text.removeprefix("wait "), grpc_context)
        if ask.text == "fail":
            raise ValueError("midway")

    async def Join(self, asks):  # noqa: N802
        texts = [ask.text async for ask in asks]
        return told(text=" ".join(texts), number=len(texts))

    async def Echo(self, asks):  # noqa: N802
        async for ask in asks:
            yield told(text=ask.text)

    async def _name(self, rest, context):
        return told(text=self.name, number=os.getpid())

    async def _fail(self, rest, context):
        raise ValueError(rest)

    async def _ends(self, rest, context):
        """With what the code says, whether it raises an exception or not."""
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("no such word")
        context.set_trailing_metadata([("left", "1"), ("raw-bin", b"\0\xff")])
        if rest:
            raise ValueError(rest)
        return told()

    async def _fine(self, rest, context):
        context.set_details("fine")
        context.set_trailing_metadata([("left", "1")])
        return told(text="answer")

    async def _wait(self, path, context):
        """Notes in a file that it began, and how it ended."""
        Path(path).write_text("waits")
        try:
            await asyncio.sleep(LIMIT_S)
        except asyncio.CancelledError:
            Path(path).write_text("cancelled")
            raise
        return told()

    async def _tells(self, rest, context):
        context_words = (context.application(), context.request_id(), context.multiplexed_model_id())
        metadata = dict(context.invocation_metadata())
        model = await self.model(serve.get_multiplexed_model_id() or "none")
        return told(text="|".join(map(str, (*context_words, metadata.get("colour"), metadata.get("raw-bin"), model))))

    async def _long(self, rest, context):
        context.set_compression(grpc.Compression.Gzip)
        return told(text=rest * 2)

    async def _pause(self, rest, context):
        await asyncio.sleep(float(rest))
        return told(text=self.name)


# --- Servers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(protos, tmp_path_factory):  # noqa: F811, the fixture that is imported
    """A server with a listener for gRPC."""
    port = free_port()
    server = OwnServer(
        TYNDALL_GRPC_PORT=str(port),
        TYNDALL_GRPC_SERVICER_FUNCTIONS=",".join(FUNCTIONS),
        TYNDALL_HOME=str(tmp_path_factory.mktemp("home")),
    )
    server.grpc_port = port
    yield server
    server.end()


@pytest.fixture(autouse=True)
def _here(_alone, own, monkeypatch):
    monkeypatch.setenv("TYNDALL_ADDRESS", own.address)


@pytest.fixture
def channel(own):
    with grpc.insecure_channel(f"127.0.0.1:{own.grpc_port}") as channel:
        yield channel


@pytest.fixture
def words(channel):
    """The client of the service, and its messages."""
    stub = import_module("words_pb2_grpc").WordsStub(channel)
    stub.Ask = import_module("words_pb2").Ask
    return stub


@pytest.fixture
def run():
    """Runs applications for one test."""
    names = []

    def run(app=None, name="app"):
        names.append(name)
        return serve.run(Words.bind() if app is None else app, name=name, route_prefix=f"/{name}")

    yield run
    for name in set(names):
        serve.delete(name)


def failed(call, *args, **kwargs):
    """What a call ends with."""
    kwargs.setdefault("timeout", LIMIT_S)
    with pytest.raises(grpc.RpcError) as raised:
        answer = call(*args, **kwargs)
        if not hasattr(answer, "SerializeToString"):
            list(answer)
    return raised.value


# --- Kinds of methods -------------------------------------------------------------------------------------------------


def test_all_kinds_of_methods_are_carried_out(run, words):
    run()
    assert words.Say(words.Ask(text="name"), timeout=LIMIT_S).text == "one"
    assert [one.number for one in words.Count(words.Ask(count=50), timeout=LIMIT_S)] == list(range(50))
    for count in (0, 1, 100):
        joined = words.Join(iter([words.Ask(text="a")] * count), timeout=LIMIT_S)
        assert (joined.text, joined.number) == (" ".join("a" * count), count)
    asked = [words.Ask(text=text) for text in "abc"]
    assert [one.text for one in words.Echo(iter(asked), timeout=LIMIT_S)] == ["a", "b", "c"]


def test_a_conversation_goes_back_and_forth(run, words):
    run()
    asked = queue.Queue()
    answers = words.Echo(iter(asked.get, None), timeout=LIMIT_S)
    for number in range(20):
        asked.put(words.Ask(text=str(number)))
        assert next(answers).text == str(number)
    asked.put(None)
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def test_a_client_that_ends_its_input_late_gets_its_answer(run, words):
    run()

    def slowly():
        for text in "ab":
            time.sleep(0.1)
            yield words.Ask(text=text)
        time.sleep(0.1)

    assert words.Join(slowly(), timeout=LIMIT_S).text == "a b"


def test_messages_may_be_large(run, own):
    run()
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{own.grpc_port}", options=limits) as channel:
        stub, messages = import_module("words_pb2_grpc").WordsStub(channel), import_module("words_pb2")
        text = "x" * (8 << 20)
        joined = stub.Join(iter([messages.Ask(text=text)] * 2), timeout=LIMIT_S)
        assert len(joined.text) == 2 * len(text) + 1
        assert len(stub.Say(messages.Ask(text=f"long {text}"), timeout=LIMIT_S).text) == 2 * len(text)


def test_many_calls_share_a_connection(run, words):
    run()
    calls = [words.Say.future(words.Ask(text="pause 0.05"), timeout=LIMIT_S) for _ in range(300)]
    assert {call.result().text for call in calls} == {"one"}


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_messages_are_compressed_both_ways(run, words, compression):
    run()
    text = "x" * 100_000
    assert words.Say(words.Ask(text=f"long {text}"), compression=compression, timeout=LIMIT_S).text == text * 2
    assert words.Join(iter([words.Ask(text=text)]), compression=compression, timeout=LIMIT_S).text == text


# --- Which application ------------------------------------------------------------------------------------------------


def test_the_application_is_named_where_there_are_several(run, words):
    run()
    ask = words.Ask(text="name")
    assert words.Say(ask, timeout=LIMIT_S).text == "one"
    run(Words.bind("two"), name="second")
    for name, expected in (("app", "one"), ("second", "two")):
        assert words.Say(ask, metadata=[("application", name)], timeout=LIMIT_S).text == expected
    error = failed(words.Say, ask)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, f"Application metadata not set. {PING}")
    error = failed(words.Say, ask, metadata=[("application", "third")])
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details().startswith("Application 'third' not found.")
    assert "request_id" in dict(error.trailing_metadata())


def test_methods_that_are_not_there_are_told(run, words, channel):
    run()
    error = failed(words.Absent, words.Ask())
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED and "'Absent' that does not exist" in error.details()
    for path in ("/words.Words/Nothing", "/nothing.Nothing/Say"):
        error = failed(channel.unary_unary(path), b"")
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED and f"{path} is not known" in error.details()


def test_the_server_answers_for_itself(run, channel):
    from google.protobuf import field_mask_pb2, wrappers_pb2

    run()
    run(Words.bind("two"), name="second")
    # These have the same field.
    apps = channel.unary_unary("/ray.serve.RayServeAPIService/ListApplications")(b"", timeout=LIMIT_S)
    assert sorted(field_mask_pb2.FieldMask.FromString(apps).paths) == ["app", "second"]
    healthz = channel.unary_unary("/ray.serve.RayServeAPIService/Healthz")(b"", timeout=LIMIT_S)
    assert wrappers_pb2.StringValue.FromString(healthz).value == "success"


def test_clients_learn_what_there_is(run, channel):
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    run()
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"words.Words", "words.Plain", "ray.serve.RayServeAPIService"} <= set(database.get_services())
    assert "Words" in [service.name for service in database.FindFileContainingSymbol("words.Words").service]
    own = database.FindFileContainingSymbol("ray.serve.RayServeAPIService")
    assert [method.name for method in own.service[0].method] == ["ListApplications", "Healthz"]


# --- Metadata and status ----------------------------------------------------------------------------------------------


def test_metadata_reaches_the_code(run, words):
    run()
    metadata = [
        ("application", "app"),
        ("request_id", "mine"),
        ("multiplexed_model_id", "m"),
        ("colour", "blue"),
        ("raw-bin", b"\0\xff"),
    ]
    answer, call = words.Say.with_call(words.Ask(text="tells"), metadata=metadata, timeout=LIMIT_S)
    assert answer.text.split("|") == ["app", "mine", "m", "blue", str(b"\0\xff"), "M"]
    assert dict(call.trailing_metadata())["request_id"] == "mine"


def test_each_call_has_an_id(run, words):
    run()
    ids = set()
    for _ in range(3):
        answer, call = words.Say.with_call(words.Ask(text="tells"), timeout=LIMIT_S)
        one = dict(call.trailing_metadata())["request_id"]
        assert answer.text.split("|")[:3] == ["app", one, "None"]
        ids.add(one)
    error = failed(words.Say, words.Ask(text="fail why"))
    ids.add(dict(error.trailing_metadata())["request_id"])
    stream = words.Count(words.Ask(count=1), timeout=LIMIT_S)
    list(stream)
    ids.add(dict(stream.trailing_metadata())["request_id"])
    assert len(ids) == 5 and all(ids)


def test_an_exception_is_told(run, words):
    run()
    error = failed(words.Say, words.Ask(text="fail because of ä\n50%"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "because of ä\n50%")
    error = failed(words.Say, words.Ask(text=f"fail {'ä' * 5000}"))
    assert error.code() is grpc.StatusCode.INTERNAL and error.details().endswith("ä... [truncated]")
    stream = words.Count(words.Ask(text="fail", count=2), timeout=LIMIT_S)
    assert [next(stream).number, next(stream).number] == [0, 1]
    error = failed(lambda timeout: stream)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "midway")


@pytest.mark.parametrize("exception", ["", "an exception"])
def test_what_the_code_has_set_comes_first(run, words, exception):
    run()
    error = failed(words.Say, words.Ask(text=f"ends {exception}"))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such word")
    trailing = dict(error.trailing_metadata())
    assert (trailing["left"], trailing["raw-bin"]) == ("1", b"\0\xff") and trailing["request_id"]


def test_the_code_adds_to_a_status_that_is_fine(run, words):
    run()
    answer, call = words.Say.with_call(words.Ask(text="fine"), timeout=LIMIT_S)
    assert answer.text == "answer" and call.code() is grpc.StatusCode.OK
    # The library drops the details of this status.
    assert dict(call.trailing_metadata())["left"] == "1"


# --- Times and clients that leave -------------------------------------------------------------------------------------


def test_a_deadline_ends_the_call_and_the_code(run, words, tmp_path):
    run()
    path = tmp_path / "noted"
    error = failed(words.Say, words.Ask(text=f"wait {path}"), timeout=1)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: path.exists() and path.read_text() == "cancelled")


def test_a_client_that_leaves_cancels_the_code(run, words, tmp_path):
    run()
    unary, stream = tmp_path / "unary", tmp_path / "stream"
    call = words.Say.future(words.Ask(text=f"wait {unary}"), timeout=LIMIT_S)
    answers = words.Count(words.Ask(text=f"wait {stream}", count=1), timeout=LIMIT_S)
    assert next(answers).number == 0
    for path, ending in ((unary, call), (stream, answers)):
        until(path.exists)
        assert path.read_text() == "waits"
        ending.cancel()
        until(lambda path=path: path.read_text() == "cancelled")
        assert ending.code() is grpc.StatusCode.CANCELLED


def test_a_client_that_goes_on_and_leaves_cancels_the_code(run, words, tmp_path):
    @serve.deployment
    class Reads:
        def __init__(self, path):
            self.path = Path(path)

        async def Echo(self, asks):  # noqa: N802
            try:
                async for ask in asks:
                    yield told(text=ask.text)
            finally:
                self.path.write_text(f"{asks.is_cancelled()}")

    path = tmp_path / "noted"
    run(Reads.bind(str(path)))
    asked = queue.Queue()
    answers = words.Echo(iter(asked.get, None), timeout=LIMIT_S)
    asked.put(words.Ask(text="a"))
    assert next(answers).text == "a"
    answers.cancel()
    until(path.exists)
    assert path.read_text() == "True"
    asked.put(None)


# --- Load -------------------------------------------------------------------------------------------------------------


def test_too_many_calls_are_refused(run, words):
    run(Words.options(max_ongoing_requests=1, max_queued_requests=1).bind())
    calls = [words.Say.future(words.Ask(text="pause 1"), timeout=LIMIT_S) for _ in range(6)]
    codes = Counter(call.code() for call in calls)
    assert codes == {grpc.StatusCode.OK: 2, grpc.StatusCode.RESOURCE_EXHAUSTED: 4}
    refused = next(call for call in calls if call.code() is not grpc.StatusCode.OK)
    assert refused.details().startswith("Request dropped due to backpressure")


class Load:
    """Clients that call one after the other, each on a connection of its own."""

    def __init__(self, port: int, num_clients: int = 6) -> None:
        self.port = port
        self.codes = Counter()
        self.texts = Counter()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._go) for _ in range(num_clients)]

    def _go(self) -> None:
        ask = import_module("words_pb2").Ask(text="name")
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            stub = import_module("words_pb2_grpc").WordsStub(channel)
            while not self._is_over.is_set():
                call = stub.Say.future(ask, timeout=LIMIT_S)
                self.codes[call.code()] += 1
                if call.code() is grpc.StatusCode.OK:
                    self.texts[call.result().text] += 1

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, count: int) -> None:
        """Waits for so many further calls."""
        before = self.codes.total()
        until(lambda: self.codes.total() >= before + count)


def test_no_call_is_lost_while_a_version_takes_the_place_of_another(run, own):
    run(Words.options(num_replicas=2).bind("first"))
    with Load(own.grpc_port) as load:
        load.go_on(50)
        run(Words.options(num_replicas=2).bind("second"))
        load.go_on(50)
    assert set(load.codes) == {grpc.StatusCode.OK}
    assert set(load.texts) == {"first", "second"}


def test_a_replica_that_dies_fails_the_calls_that_it_had_and_no_other(run, own):
    run(Words.options(num_replicas=2).bind())
    with Load(own.grpc_port) as load:
        load.go_on(50)
        (pid, *_) = [one["pid"] for one in details("app")["deployments"]["Words"]["replicas"]]
        os.kill(pid, signal.SIGKILL)
        load.go_on(300)
    others = Counter(load.codes)
    del others[grpc.StatusCode.OK]
    assert set(others) <= {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}
    # Each client has one call under way.
    assert others.total() <= 6


def test_a_call_wakes_a_deployment_that_has_no_replica(run, words):
    scaling = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}
    run(Words.options(num_replicas=None, autoscaling_config=scaling).bind())
    assert not details("app")["deployments"]["Words"]["replicas"]
    assert words.Say(words.Ask(text="name"), timeout=LIMIT_S).text == "one"
    assert len(details("app")["deployments"]["Words"]["replicas"]) == 1


# --- Ways to turn it on -----------------------------------------------------------------------------------------------

CODE = """
import asyncio

import words_pb2
from tyndall import serve


@serve.deployment
class Words:
    async def Say(self, ask):
        await asyncio.sleep(float(ask.text or 0))
        return words_pb2.Told(text="from a file")


app = Words.bind()
"""

CONFIG = """
grpc_options:
  port: {port}
  grpc_servicer_functions: [{functions}]
  request_timeout_s: 1
  enable_reflection: false
applications:
  - name: app
    import_path: served_words:app
    route_prefix: /
    runtime_env:
      working_dir: {folder}
"""


@contextlib.contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.terminate()
        process.wait(LIMIT_S)


def test_a_config_file_turns_it_on(protos, tmp_path):  # noqa: F811
    for module in ("words_pb2.py", "words_pb2_grpc.py"):
        (tmp_path / module).write_text((protos / module).read_text())
    (tmp_path / "served_words.py").write_text(CODE)
    port = free_port()
    config = tmp_path / "config.yaml"
    functions = ", ".join([*(f'"{path}"' for path in FUNCTIONS), '"absent_words.add"'])
    config.write_text(CONFIG.format(port=port, functions=functions, folder=tmp_path))
    command = [_server.binary(), "run", str(config), "--port", "0", "--admin-port", "0"]
    env = {name: value for name, value in os.environ.items() if name != "TYNDALL_ADDRESS"}
    env.update(TYNDALL_HOME=str(tmp_path), TYNDALL_PYTHON=sys.executable)
    log = tmp_path / "stderr"
    with log.open("wb") as file:
        server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=file)
    with ended(server), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub, messages = import_module("words_pb2_grpc").WordsStub(channel), import_module("words_pb2")

        def answered():
            assert server.poll() is None, log.read_text()
            call = stub.Say.future(messages.Ask(), wait_for_ready=True, timeout=LIMIT_S)
            return call.result() if call.code() is grpc.StatusCode.OK else None

        assert until(answered).text == "from a file"
        error = failed(stub.Say, messages.Ask(text="30"))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert re.fullmatch(r"Request timed out after 1(\.0)?s\.", error.details())
        path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        error = failed(channel.stream_stream(path), iter([b""]))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    text = log.read_text()
    assert "'absent_words.add' of grpc_servicer_functions cannot be imported" in text
    assert "GRPC /words.Words/Say OK" in text


SCRIPT = """
import sys

import grpc
import words_pb2
import words_pb2_grpc
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext


@serve.deployment
class Words:
    def Say(self, ask, grpc_context: RayServegRPCContext):
        grpc_context.set_trailing_metadata([("application", str(grpc_context.application()))])
        return words_pb2.Told(text=ask.text[::-1])


if __name__ == "__main__":
    port = int(sys.argv[1])
    functions = ["words_pb2_grpc.add_WordsServicer_to_server"]
    serve.start(grpc_options={"port": port, "grpc_servicer_functions": functions}, http_options={"port": 0})
    serve.run(Words.bind(), name="script")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = words_pb2_grpc.WordsStub(channel)
        answer, call = stub.Say.with_call(words_pb2.Ask(text="abc"), timeout=60)
        print(answer.text, dict(call.trailing_metadata())["application"])
    serve.shutdown()
"""


def test_a_script_for_ray_turns_it_on(protos, tmp_path):  # noqa: F811
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {name: value for name, value in os.environ.items() if name != "TYNDALL_ADDRESS"}
    paths = [str(protos), *filter(None, [env.get("PYTHONPATH")])]
    env.update(TYNDALL_HOME=str(tmp_path), TYNDALL_ADMIN_PORT=str(free_port()), PYTHONPATH=os.pathsep.join(paths))
    command = [sys.executable, "-m", "tyndall.compat", str(script), str(free_port())]
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=2 * LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "cba script"
