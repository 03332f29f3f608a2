"""Code that does what it should not, and what is said of it."""

import asyncio
import ctypes
import json
import logging
import os
import signal
import subprocess
import threading
import time

import httpx
import pytest
from starlette.responses import StreamingResponse

from tyndall import serve
from tyndall.serve import _admin, _server
from tyndall.serve.exceptions import RayTaskError


@serve.deployment
class Bad:
    def __init__(self):
        # What is logged is kept, for the test to read.
        self.records = []
        keeper = logging.Handler()
        keeper.emit = lambda record: self.records.append(record.getMessage())
        logging.getLogger("tyndall.serve").addHandler(keeper)
        self.seen = serve.metrics.Counter("bad_code_calls", "calls", tag_keys=("kind",))

    async def block(self, seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    def logged(self) -> list[str]:
        return list(self.records)

    def count(self, kind: str) -> None:
        self.seen.inc(tags={"kind": kind})


def test_code_that_blocks_the_loop_is_told_of_once_with_its_stack(deploy):
    _, handle = deploy(Bad.bind())
    assert handle.block.remote(2.5).result() == "done"
    (said,) = [one for one in handle.logged.remote().result() if "the event loop has been blocked for" in one]
    assert "in block" in said
    assert "make the method a plain `def`" in said


def test_own_metrics_are_on_the_page_of_the_server(deploy, server):
    _, handle = deploy(Bad.bind(), name="measured")
    handle.count.remote("x").result()
    page = httpx.get(f"{server[1]}/metrics").text
    assert page.count("# TYPE ray_bad_code_calls_total counter") == 1
    (line,) = [one for one in page.splitlines() if one.startswith("ray_bad_code_calls_total{")]
    assert all(tag in line for tag in ('application="measured"', 'deployment="Bad"', 'kind="x"', "replica=")), line


def details(name: str) -> dict:
    answer = json.loads(_admin.request("GET", "/api/tyndall/applications/"))
    return answer["applications"][name]


def reasons(name: str, deployment: str) -> list[str]:
    """Why its replicas ended, the last first."""
    return [one["reason"] for one in details(name)["deployments"][deployment]["dead_replicas"]]


def deployed(folder, application: dict) -> subprocess.CompletedProcess:
    """What `tyndall deploy --wait` says of a file with one application."""
    file = folder / "serve.json"
    file.write_text(json.dumps({"applications": [application]}))
    command = [_server.binary(), "deploy", "--wait", str(file), "--address", _admin.address()]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)


# --- Before anything runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "cause", "cure"),
    [
        ({"num_replica": 2}, "num_replica", "num_replicas"),
        ({"num_replicas": "two"}, "num_replicas is 'two'", "auto"),
        ({"max_ongoing_requests": 1.5}, "max_ongoing_requests is 1.5", "whole number"),
        ({"autoscaling_config": {"min": 1}}, "min", "min_replicas"),
        ({"health_check_period_s": 0}, "health_check_period_s is 0", "above 0"),
    ],
)
def test_wrong_options_are_told_where_they_are_written(options, cause, cure):
    with pytest.raises((TypeError, ValueError)) as told:
        serve.deployment(**options)(lambda: None)
    first, second = str(told.value).splitlines()
    assert cause in first and cure in second


def test_an_object_that_cannot_be_pickled_is_told_before_it_is_sent(deploy):
    lock = threading.Lock()

    @serve.deployment
    def held():
        with lock:
            return None

    with pytest.raises(TypeError) as told:
        deploy(held.bind(), name="held")
    cause, cure = str(told.value).splitlines()
    assert "cannot be pickled" in cause and "lock" in cause
    assert "__init__" in cure
    assert "held" not in serve.status().applications


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("from os import nothing_of_that_name\n", "ImportError: cannot import name 'nothing_of_that_name' from 'os'"),
        ("def broken(:\n", "SyntaxError: invalid syntax"),
    ],
)
def test_code_that_cannot_be_imported_is_told_with_its_traceback(tmp_path, server, code, cause):
    module = f"unimportable_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(f"# The first line.\n{code}")
    working_dir = {"working_dir": str(tmp_path)}
    done = deployed(tmp_path, {"name": "imported", "import_path": f"{module}:app", "runtime_env": working_dir})
    assert done.returncode == 1
    status = serve.status().applications["imported"]
    assert status.status == "DEPLOY_FAILED"
    for said in (done.stderr, status.message):
        assert f'{module}.py", line 2' in said and cause in said, said
    serve.delete("imported")


# --- While it starts --------------------------------------------------------------------------------------------------


def test_a_constructor_that_fails_is_in_the_status(deploy):
    @serve.deployment
    class Failing:
        def __init__(self):
            raise OSError("no such disk")

    with pytest.raises(RuntimeError, match="no such disk"):
        deploy(Failing.bind(), name="failing")
    assert "no such disk" in str(serve.status().applications["failing"])


@pytest.mark.parametrize("wait", ["time.sleep(600)", "await asyncio.sleep(600)"])
def test_a_constructor_that_hangs_is_given_up_with_the_line_where_it_is(tmp_path, server, log, wait):
    module = f"hanging_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(
        f"""
import asyncio, time
from tyndall import serve

@serve.deployment
class Hanging:
    {"async " if "await" in wait else ""}def __init__(self):
        {wait}

app = Hanging.bind()
"""
    )
    env = {"working_dir": str(tmp_path), "env_vars": {"SERVE_SLOW_STARTUP_WARNING_S": "0.2"}}
    limits = {"startup_timeout_s": 6, "max_constructor_retry_count": 1}
    deployments = [{"name": "Hanging", "tyndall": limits}]
    application = {"name": "hanging", "import_path": f"{module}:app", "runtime_env": env, "deployments": deployments}
    done = deployed(tmp_path, application)
    assert done.returncode == 1
    expected = "not ready within 6 s; the log says what its constructor waits for; mend it, or raise startup_timeout_s"
    assert expected in done.stderr
    assert expected in serve.status().applications["hanging"].deployments["Hanging"].message
    said = log.until(wait)
    assert "the deployment has been starting for" in said and f'{module}.py", line 8, in __init__' in said
    serve.delete("hanging")


def test_a_process_that_is_killed_while_it_starts_is_told_of(deploy):
    @serve.deployment(max_constructor_retry_count=1)
    class Killed:
        def __init__(self):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="killed by signal 9 .likely out of memory, which dmesg tells"):
        deploy(Killed.bind(), name="killed")


def test_a_replica_that_is_told_to_end_while_its_constructor_blocks_ends(deploy):
    @serve.deployment(max_constructor_retry_count=1)
    class Terminated:
        def __init__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(3600)

    # Else it were given up when startup_timeout_s is over.
    with pytest.raises(RuntimeError, match="its process exited with code 0 before it was ready"):
        deploy(Terminated.bind(), name="terminated")


# --- What it gives ----------------------------------------------------------------------------------------------------


class Raw:
    """An answer in ASGI, of a number."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": 5})


@serve.deployment
class Gives:
    def __call__(self, request):
        kind = request.query_params["kind"]
        if kind == "object":
            return {"a": object()}
        if kind == "exit":
            raise SystemExit(3)
        if kind == "key":
            return {("a", "b"): 1}
        if kind == "body":
            return Raw()
        if kind == "endless":
            return StreamingResponse(self.endless())
        if kind == "eager":
            return StreamingResponse(self.eager())
        if kind == "chunk":
            return StreamingResponse(iter(["one ", bytearray(b"two "), 5]))
        return StreamingResponse(self.items() if kind == "plain" else self.aitems())

    def items(self):
        yield "one "
        yield "two "
        raise ValueError("halfway")

    async def endless(self):
        yield "one "
        await asyncio.Event().wait()

    async def eager(self):
        """It never waits, so that nothing is sent before it raises."""
        yield "one "
        yield "two "
        raise ValueError("halfway")

    async def aitems(self):
        for item in self.items():
            await asyncio.sleep(0)
            yield item

    def generator(self):
        return (one for one in [object()])

    def lock(self):
        return threading.Lock()

    def strange(self):
        class StrangeError(Exception):
            def __init__(self):
                self.lock = threading.Lock()
                super().__init__("cannot go to another process")

        raise StrangeError

    def exit(self):
        raise SystemExit("enough")

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module")
def gives(server):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TYNDALL_ADDRESS", server[0])
        handle = serve.run(Gives.bind(), name="gives", route_prefix="/gives")
        with httpx.Client(base_url=f"{server[1]}/gives", timeout=60) as client:
            yield client, handle
        serve.delete("gives")


def test_what_cannot_go_to_another_process_is_said(gives):
    _, handle = gives
    with pytest.raises(TypeError, match="generator"):
        handle.generator.remote().result()
    with pytest.raises(TypeError, match="lock cannot go to another process.*\n.*can be pickled"):
        handle.lock.remote().result()


def test_an_error_that_cannot_go_to_another_process_is_told_as_text(gives):
    with pytest.raises(RayTaskError, match="(?s)in strange.*StrangeError: cannot go to another process"):
        gives[1].strange.remote().result()


def test_code_that_ends_its_process_ends_neither_it_nor_the_caller(gives, log):
    client, handle = gives
    pid = handle.pid.remote().result()
    with pytest.raises(RayTaskError, match="(?s)SystemExit: enough\nraise an Exception"):
        handle.exit.remote().result()
    assert client.get("/", params={"kind": "exit"}).status_code == 500
    assert "SystemExit: 3" in log.until("SystemExit: 3")
    assert handle.pid.remote().result() == pid


def test_an_answer_that_cannot_be_written_is_in_the_log_and_not_for_clients(gives, log):
    answer = gives[0].get("/", params={"kind": "object"})
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    log.until("TypeError: an object cannot be an answer\nreturn a text, bytes, what JSON can say, or a response")
    assert gives[0].get("/", params={"kind": "key"}).status_code == 500
    log.until("TypeError: a dict cannot be an answer: keys must be str, int")


@pytest.mark.parametrize("kind", ["plain", "async", "eager"])
def test_a_stream_over_http_that_raises_halfway_breaks_off(gives, log, kind):
    text = ""
    with pytest.raises(httpx.RemoteProtocolError), gives[0].stream("GET", "/", params={"kind": kind}) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_text():
            text += piece
    assert text == "one two "
    said = log.until("the replica broke off in the middle of the answer; its lines in the log say why")
    assert "ValueError: halfway" in said and ("in eager" if kind == "eager" else "in items") in said
    log.until("GET /gives 500 ")


def test_a_chunk_that_is_neither_text_nor_bytes_breaks_a_stream_off(gives, log):
    text = ""
    with pytest.raises(httpx.RemoteProtocolError), gives[0].stream("GET", "/", params={"kind": "chunk"}) as answer:
        for piece in answer.iter_text():
            text += piece
    assert text == "one two "
    said = log.until("TypeError: an int cannot be a chunk of a StreamingResponse")
    assert "yield texts or bytes" in said


def test_a_body_that_is_no_bytes_is_refused(gives, log):
    assert gives[0].get("/", params={"kind": "body"}).status_code == 500
    said = log.until("TypeError: bytes are wanted, not int")
    assert "send bytes, such as text.encode()" in said


def test_a_client_that_leaves_in_the_middle_is_told_as_499(gives, log):
    with gives[0].stream("GET", "/", params={"kind": "endless"}) as answer:
        assert next(answer.iter_text()) == "one "
    log.until("GET /gives 499 ")


@pytest.mark.parametrize("method", ["items", "aitems"])
def test_a_stream_by_a_handle_that_raises_halfway_raises_so_in_the_caller(gives, method):
    items = getattr(gives[1].options(stream=True), method).remote()
    got = []
    with pytest.raises(ValueError, match="halfway") as told:
        for item in items:
            got.append(item)
    assert got == ["one ", "two "]
    assert "in items" in str(told.value.__cause__)


# --- While it runs ----------------------------------------------------------------------------------------------------


def until_dead(name: str, deployment: str) -> str:
    """Waits for the end of a replica, and returns why it was."""
    assert _admin.wait_until(lambda: bool(reasons(name, deployment)), 60), "no replica has ended"
    return reasons(name, deployment)[0]


@serve.deployment
class Dies:
    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def crash(self) -> None:
        ctypes.string_at(0)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("kill", "its process was killed by signal 9 (likely out of memory, which dmesg tells: then lower "),
        ("crash", "its process was ended by signal 11 (a crash in native code; the log says where)"),
    ],
)
def test_why_a_replica_died_is_in_the_status_and_the_log(deploy, log, method, expected):
    _, handle = deploy(Dies.bind(), name=f"dies-{method}")
    with pytest.raises(serve.exceptions.RayServeException, match="was lost"):
        getattr(handle, method).remote().result()
    assert expected in until_dead(f"dies-{method}", "Dies")
    said = log.until(expected)
    if method == "crash":
        assert "Fatal Python error: Segmentation fault" in said and "in crash" in said


def test_a_loop_that_is_blocked_for_too_long_costs_the_replica_and_both_are_told(deploy, log):
    @serve.deployment(health_check_period_s=0.3, health_check_timeout_s=0.3)
    class Blocked:
        async def __call__(self):
            time.sleep(600)

        def check_health(self):
            pass

    client, _ = deploy(Blocked.bind(), name="blocked")
    # A POST is not tried on another replica.
    assert client.post("/").status_code == 500
    expected = "3 health checks in a row failed or took longer than 0.3 s; the log says what they met"
    assert expected in until_dead("blocked", "Blocked")
    said = log.until(expected)
    assert "the event loop has been blocked for" in said and "in __call__" in said


def test_a_health_check_that_fails_is_in_the_log(deploy, log):
    @serve.deployment(health_check_period_s=0.1)
    class Ill:
        is_ill = False

        def fall_ill(self) -> None:
            self.is_ill = True

        def check_health(self) -> None:
            if self.is_ill:
                raise RuntimeError("the device is gone")

    _, handle = deploy(Ill.bind(), name="ill")
    handle.fall_ill.remote().result()
    assert "3 health checks in a row failed" in until_dead("ill", "Ill")
    said = log.until("a health check failed, and three in a row end the replica")
    assert "RuntimeError: the device is gone" in said
