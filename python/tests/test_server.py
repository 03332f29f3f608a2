"""`serve._server`: how a server is found or started, and what applications become on their way to it."""

import base64
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cloudpickle
import pytest

from tyndall import serve
from tyndall.serve import _server
from tyndall.serve._graph import build
from tyndall.serve.config import HTTPOptions, LoggingConfig, gRPCOptions
from tyndall.serve.exceptions import RayServeException


class Server:
    """The admin API, as far as it says what a test wants."""

    def __init__(self):
        self.puts = {}
        self.applications = {}
        self.refusal = None
        self.http_options = {"host": "127.0.0.1", "port": 8000}
        self.grpc_options = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802, the name is the protocol's
                self.answer(200, outer.get(self.path))

            def do_PUT(self):  # noqa: N802, the name is the protocol's
                body = self.rfile.read(int(self.headers["content-length"]))
                if outer.refusal:
                    self.answer(*outer.refusal)
                    return
                outer.puts[self.path] = json.loads(body)
                self.answer(200, {"version": len(outer.puts)})

            def answer(self, status, said):
                text = said if isinstance(said, str) else json.dumps(said)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def get(self, path):
        return {
            "/api/tyndall/node": {"url": self.url, "runtime_dir": "/run/node"},
            "/api/tyndall/applications/": {"applications": self.applications},
            "/api/serve/applications/": {
                "http_options": self.http_options,
                "grpc_options": self.grpc_options,
                "applications": {},
            },
        }.get(path, {})

    def runs(self, name, version=1, status="RUNNING", message="", deployments=()):
        self.applications[name] = {
            "version": version,
            "status": status,
            "message": message,
            "deployments": {one["name"]: one for one in deployments},
        }


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv("TYNDALL_ADDRESS", server.url)
    yield server
    server.http.shutdown()


@serve.deployment
class Leaf:
    pass


@serve.deployment(ray_actor_options={"runtime_env": {"working_dir": "rel", "py_modules": ["m", "file:///x.zip"]}})
class Root:
    def __init__(self, leaf):
        self.leaf = leaf


def built(name="app", route_prefix="/app", **options):
    return build(Root.bind(Leaf.bind()), name, route_prefix=route_prefix, **options)


def test_an_application_is_sent_with_its_code_and_where_that_imports_from(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    server.runs("my app")
    _server.deploy([built("my app", logging_config={"log_level": "DEBUG"}, external_scaler_enabled=True)])
    (path, body) = server.puts.popitem()
    assert path == "/api/tyndall/applications/my%20app"
    assert body["application"] == {
        "route_prefix": "/app",
        "external_scaler_enabled": True,
        "runtime_env": {"working_dir": str(tmp_path)},
        "logging_config": {"log_level": "DEBUG"},
    }
    assert body["python"] == sys.executable and body["sys_path"][0] == str(tmp_path)
    root, leaf = body["described"]["deployments"]
    assert (body["described"]["ingress"], leaf["name"], root["calls"]) == ("Root", "Leaf", ["Leaf"])
    env = root["ray_actor_options"]["runtime_env"]
    assert env == {"working_dir": str(tmp_path / "rel"), "py_modules": [str(tmp_path / "m"), "file:///x.zip"]}
    app = cloudpickle.loads(base64.b64decode(body["code"]))
    assert build(app).described["ingress"] == "Root"
    # What was bound is as it was.
    assert Root.ray_actor_options["runtime_env"]["working_dir"] == "rel"


def test_it_is_told_where_the_server_is(server):
    assert (_server.url(), _server.runtime_dir()) == (server.url, "/run/node")


@pytest.mark.parametrize(
    "state, expected",
    [
        (
            {
                "status": "DEPLOY_FAILED",
                "message": "failed to deploy Root",
                "deployments": [{"name": "Root", "status": "DEPLOY_FAILED", "message": "ValueError: no"}],
            },
            "failed to deploy Root\nRoot: ValueError: no",
        ),
        ({"version": 2, "message": "version 1 was rolled back"}, "version 1 was rolled back"),
        ({"version": 2}, "version 2 took its place"),
        (None, "it was deleted meanwhile"),
    ],
)
def test_an_application_that_does_not_come_up_is_told(server, state, expected):
    if state is not None:
        server.runs("app", **state)
    with pytest.raises(RuntimeError) as told:
        _server.deploy([built()])
    assert str(told.value) == f"Deploying application app failed: {expected}"


def test_nothing_is_waited_for_where_nobody_wants_it(server):
    _server.deploy([built("a"), built("b", None)], wait_for_running=False)
    assert [path.rpartition("/")[2] for path in server.puts] == ["a", "b"]


def test_what_the_server_refuses_is_told_in_its_words(server):
    for refusal, expected in [
        (
            (400, "route_prefix is bad\n  help: mend it"),
            'Failed to deploy application "app": route_prefix is bad\nmend it',
        ),
        ((409, "Prefix /app is being used"), "Prefix /app is being used"),
        ((401, "a token is wanted"), "a token is wanted\nset TYNDALL_ADMIN_TOKEN"),
    ]:
        server.refusal = refusal
        with pytest.raises(RayServeException) as told:
            _server.deploy([built()])
        assert expected in str(told.value)


def test_what_cannot_be_pickled_is_told_before_anything_is_sent(server):
    lock = threading.Lock()

    @serve.deployment
    class Holder:
        def __call__(self):
            return lock

    with pytest.raises(TypeError, match="application 'app' cannot be pickled: .*\nbind what is made of it"):
        _server.deploy([build(Holder.bind(), "app")])
    assert not server.puts


def test_what_is_too_large_is_told_before_it_is_sent(server, monkeypatch):
    monkeypatch.setattr(_server, "_MAX_CODE_BYTES", 1 << 20)
    large = build(Root.bind(bytes(3 << 20)), "app")
    with pytest.raises(ValueError, match="application 'app' has 3 MiB as a pickle, and 1 may go\nbind what the code"):
        _server.deploy([large])
    assert not server.puts


def test_options_of_a_server_that_runs_stay(server, warned):
    _server.start(HTTPOptions(host="127.0.0.1", port=9999))
    (line,) = warned()
    assert line.startswith("The new client HTTP config differs") and "['port']" in line
    _server.start(HTTPOptions(port=8000))
    assert len(warned()) == 1
    _server.start(HTTPOptions(), gRPCOptions(port=9000, grpc_servicer_functions=["a:b"]))
    assert warned()[1].startswith("The new client gRPC config differs") and "['grpc_servicer_functions']" in warned()[1]
    server.grpc_options = {"port": 9000, "grpc_servicer_functions": ["a:b"]}
    _server.start(HTTPOptions(), gRPCOptions(port=9000, grpc_servicer_functions=["a:b"]))
    assert len(warned()) == 2


# --- A server of this process -----------------------------------------------------------------------------------------


def program(directory, text):
    path = directory / "tyndall"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No server runs, and the program is a script of the test."""
    for name in ("TYNDALL_ADDRESS", "RAY_DASHBOARD_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TYNDALL_ADMIN_PORT", "0")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    yield tmp_path
    if _server._own is not None:
        _server._own.end()
        _server._own = None


def test_a_server_is_started_where_none_runs_and_ends_with_this_process(alone):
    program(alone, f'echo "$@" > {alone}/args; printf "http://127.0.0.1:1\\nhttp://127.0.0.1:2\\n"; exec sleep 1000')
    http = HTTPOptions(host="127.0.0.1", port=9, request_timeout_s=5.0)
    functions = ["a:b", "c.d"]
    grpc = gRPCOptions(port=10, grpc_servicer_functions=functions, request_timeout_s=6.0, enable_reflection=False)
    _server.start(http, grpc, LoggingConfig(log_level="WARNING"))
    assert (alone / "args").read_text().split() == [
        *("start", "--foreground", "--owner-pid", str(os.getpid())),
        *("--host", "127.0.0.1", "--port", "9", "--request-timeout", "5.0"),
        *("--grpc-port", "10", "--grpc-request-timeout", "6.0", "--grpc-servicer-functions", "a:b,c.d"),
        *("--grpc-disable-reflection", "--log", "warn"),
    ]
    assert os.environ["TYNDALL_ADDRESS"] == "http://127.0.0.1:2"
    own = _server._own
    assert own is not None and own.runs()
    own.end()
    assert not own.runs() and "TYNDALL_ADDRESS" not in os.environ


def test_why_a_server_cannot_start_is_told(alone):
    program(alone, 'echo "error: --host x lets others in"; echo "help: give --api-keys, or add --insecure"; exit 1')
    with pytest.raises(RuntimeError) as told:
        _server.start()
    assert str(told.value) == "--host x lets others in\ngive TYNDALL_API_KEYS, or add TYNDALL_INSECURE"
    program(alone, "exit 3")
    with pytest.raises(RuntimeError, match="ended with status 3\nits lines on standard error say why"):
        _server.start()
    assert _server._own is None


def test_a_server_that_has_ended_is_started_again(alone):
    program(alone, 'printf "http://127.0.0.1:1\\nhttp://127.0.0.1:2\\n"')
    _server.start()
    first = _server._own
    assert first is not None
    first._process.wait()
    program(alone, 'printf "http://127.0.0.1:1\\nhttp://127.0.0.1:3\\n"; exec sleep 1000')
    _server.start()
    assert not first.runs()
    assert _server._own is not first and os.environ["TYNDALL_ADDRESS"] == "http://127.0.0.1:3"


def test_a_server_that_was_named_is_not_replaced_by_another(alone, monkeypatch):
    monkeypatch.setenv("TYNDALL_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(RayServeException, match="There is no Serve instance running at http://127.0.0.1:9\nstart it"):
        _server.start()


def test_the_program_is_beside_the_interpreter_or_on_the_path_or_named(alone, monkeypatch):
    monkeypatch.delenv("TYNDALL_BIN", raising=False)
    with pytest.raises(RuntimeError, match="there is no program `tyndall` beside .*\ninstall the package"):
        _server.binary()
    monkeypatch.setenv("TYNDALL_BIN", "/named/tyndall")
    assert _server.binary() == "/named/tyndall"
    (alone / "bin").mkdir()
    on_path = program(alone / "bin", "")
    monkeypatch.setenv("PATH", str(alone / "bin"))
    assert _server.binary() == str(on_path)
    beside = program(alone, "")
    assert _server.binary() == str(beside)


def test_paths_of_the_installation_are_left_out(monkeypatch, tmp_path):
    installed = str(Path(sys.prefix) / "lib")
    monkeypatch.setattr(sys, "path", ["", installed, str(tmp_path), "/no/such/directory", str(tmp_path)])
    monkeypatch.chdir(tmp_path.parent)
    assert _server.import_paths() == [str(tmp_path.parent), str(tmp_path)]
