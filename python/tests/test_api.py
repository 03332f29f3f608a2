"""`serve.run` and its neighbours: what they check, and how they speak to a server."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tyndall import serve
from tyndall.serve import _admin, api
from tyndall.serve.exceptions import RayServeException
from tyndall.serve.schema import (
    ApplicationStatus,
    DeploymentStatus,
    DeploymentStatusTrigger,
    ProxyStatus,
    ReplicaState,
    ServeStatus,
)


@serve.deployment
class Model:
    def __call__(self):
        return "answer"


def details(*names):
    """As `GET /api/serve/applications/` answers, as far as it is read."""
    deployment = {
        "status": "HEALTHY",
        "status_trigger": "CONFIG_UPDATE_COMPLETED",
        "message": "",
        "replicas": [{"state": "RUNNING"}, {"state": "RUNNING"}, {"state": "STARTING"}],
    }
    application = {
        "status": "RUNNING",
        "message": "",
        "last_deployed_time_s": 5.0,
        "deployments": {"Model": deployment},
        "deployment_topology": {"ingress_deployment": "Model"},
    }
    return {
        "target_capacity": 50.0,
        "proxies": {"node": {"status": "HEALTHY"}},
        "applications": dict.fromkeys(names, application),
    }


class Admin(ThreadingHTTPServer):
    """The API for operators, as far as `serve` uses it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked = []
        self.names = ["app"]
        self.delete_status = 200

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Admin

    def answer(self, status, body=None):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):  # noqa: N802
        self.server.asked.append(("GET", self.path, self.headers.get("authorization")))
        self.answer(200, details(*self.server.names))

    def do_DELETE(self):  # noqa: N802
        self.server.asked.append(("DELETE", self.path, self.headers.get("authorization")))
        name = self.path.rpartition("/")[2]
        if self.server.delete_status == 200 and name in self.server.names:
            self.server.names.remove(name)
            self.answer(200)
        else:
            self.answer(404 if self.server.delete_status == 200 else self.server.delete_status, "no")

    def do_POST(self):  # noqa: N802
        self.server.asked.append(("POST", self.path, self.headers.get("authorization")))
        self.answer(202)
        threading.Thread(target=self.server.end).start()

    def log_message(self, *_):
        pass


def end(server):
    server.shutdown()
    server.server_close()


@pytest.fixture
def admin(monkeypatch):
    server = Admin()
    ended = threading.Event()
    server.end = lambda: (ended.set(), end(server))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TYNDALL_ADDRESS", server.address)
    yield server
    if not ended.is_set():
        end(server)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": ""}, RayServeException, "Application name must a non-empty string."),
        ({"name": 3}, RayServeException, "Application name must a non-empty string."),
        ({"target": Model}, TypeError, "`serve.run` expects an `Application` returned by"),
        ({"target": None}, TypeError, "`serve.run` expects an `Application` returned by"),
        ({"route_prefix": "a"}, ValueError, r"Invalid route_prefix 'a', must start with a forward slash \('/'\)."),
        ({"route_prefix": ""}, ValueError, "must start with a forward slash"),
        ({"route_prefix": 3}, ValueError, "must start with a forward slash"),
        ({"route_prefix": "/a/"}, ValueError, "Invalid route_prefix '/a/', may not end with a trailing '/'."),
        ({"route_prefix": "/{a}"}, ValueError, "Invalid route_prefix '/{a}', may not contain wildcards."),
        ({"controller_options": {"runtime_env": {"pip": []}}}, ValueError, "only env_vars"),
    ],
)
def test_run_checks_what_it_gets(change, error, message):
    given = {"target": Model.bind(), "_local_testing_mode": True, **change}
    with pytest.raises(error, match=message):
        serve.run(**given)


@pytest.mark.parametrize("prefix", [None, "/", "/a", "/a/b"])
def test_prefixes_that_can_be(prefix):
    assert serve.run(Model.bind(), route_prefix=prefix, _local_testing_mode=True).remote().result() == "answer"


def test_run_many_checks_all_before_it_runs_any():
    with pytest.raises(ValueError, match="No applications provided."):
        serve.run_many([])
    twice = [serve.RunTarget(Model.bind()), serve.RunTarget(Model.bind())]
    with pytest.raises(RayServeException, match="two of the applications are called 'default'"):
        serve.run_many(twice, _local_testing_mode=True)
    with pytest.raises(TypeError, match="RunTarget"):
        serve.run_many([Model.bind()], _local_testing_mode=True)
    with pytest.raises(RayServeException):
        serve.get_app_handle("default")


def test_run_hands_on_what_was_built(monkeypatch):
    seen = []

    class Server:
        @staticmethod
        def deploy(built, **waits):
            seen.append((built, waits))

    monkeypatch.setattr(serve, "_server", Server, raising=False)
    handle = serve.run(Model.bind(), name="app", route_prefix="/x", logging_config={"log_level": "DEBUG"})
    ((built,), waits) = seen[0]
    assert (built.name, built.route_prefix, built.logging_config) == ("app", "/x", {"log_level": "DEBUG"})
    assert waits == {"wait_for_ingress": True, "wait_for_running": True}
    assert (handle.deployment_name, handle.app_name) == ("Model", "app")
    serve._run(Model.bind(), _blocking=False)
    assert seen[1][1] == {"wait_for_ingress": True, "wait_for_running": False}


def test_blocking_goes_on_until_it_is_interrupted(monkeypatch, warned):
    slept = []

    def interrupted(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(api.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        serve.run(Model.bind(), blocking=True, _local_testing_mode=True)
    assert slept == [10.0, 10.0, 10.0]
    assert "serve.shutdown()" in warned()[-1]


def test_start_checks_its_options(monkeypatch, warned):
    seen = []

    class Server:
        @staticmethod
        def start(**options):
            seen.append(options)

    monkeypatch.setattr(serve, "_server", Server, raising=False)
    for key in ("http_host", "http_port", "http_middlewares"):
        with pytest.raises(ValueError, match=f"{key} is deprecated, please use serve.start"):
            serve.start(**{key: 1})
    with pytest.raises(TypeError, match="colour"):
        serve.start(colour=1)
    with pytest.raises(ValueError, match="end TLS in front"):
        serve.start(http_options={"ssl_keyfile": "k", "ssl_certfile": "c"})
    assert seen == []
    serve.start(
        proxy_location="HeadOnly",
        http_options={"port": 1234, "root_path": "/x"},
        grpc_options={"port": 4321, "grpc_servicer_functions": ["tyndall.serve:start"]},
        tracing_config={"enabled": True},
        controller_options={"runtime_env": {"env_vars": {"A": "b"}}},
    )
    assert [line.split(" has no effect")[0] for line in warned()] == [
        "http_options.root_path",
        "proxy_location",
        "tracing_config",
        "controller_options",
    ]
    assert seen[0]["http_options"].port == 1234
    assert seen[0]["grpc_options"].port == 4321


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("no_such_module:add", ModuleNotFoundError, "no_such_module:add of grpc_servicer_functions can't be imported"),
        ("tyndall.serve.absent", AttributeError, "module 'tyndall.serve' has no 'absent'"),
        ("math:pi", ValueError, "'math:pi' is no function but of type float\nname an `add_…_to_server` function"),
    ],
)
def test_start_imports_the_functions_of_services(path, kind, message):
    with pytest.raises(kind, match=message):
        serve.start(grpc_options={"grpc_servicer_functions": [path]})


def test_status_is_that_of_the_server(admin):
    status = serve.status()
    assert status.target_capacity == 50.0
    assert status.proxies == {"node": ProxyStatus.HEALTHY}
    application = status.applications["app"]
    assert (application.status, application.last_deployed_time_s) == (ApplicationStatus.RUNNING, 5.0)
    deployment = application.deployments["Model"]
    assert deployment.status == DeploymentStatus.HEALTHY == "HEALTHY"
    assert deployment.status_trigger == DeploymentStatusTrigger.CONFIG_UPDATE_COMPLETED
    assert deployment.replica_states == {ReplicaState.RUNNING: 2, ReplicaState.STARTING: 1}


def test_without_a_server_there_is_nothing():
    assert serve.status() == ServeStatus()
    serve.delete("app")
    serve.shutdown()
    asyncio.run(serve.shutdown_async())
    with pytest.raises(RayServeException, match="There is no Serve instance running at http://127.0.0.1:1"):
        serve.get_app_handle("app")


def test_delete_waits_until_it_is_gone(admin):
    serve.delete("app")
    assert admin.asked[0][:2] == ("DELETE", "/api/tyndall/applications/app")
    assert admin.asked[1][:2] == ("GET", "/api/serve/applications/")
    serve.delete("app")
    assert admin.asked[2:] == [("DELETE", "/api/tyndall/applications/app", None)]


def test_delete_gives_up_waiting(admin, monkeypatch):
    monkeypatch.setattr(api, "_DELETE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(_admin, "delete_application", lambda name: True)
    with pytest.raises(TimeoutError, match="'app' was not deleted within 0s"):
        serve.delete("app")
    serve.delete("app", _blocking=False)


def test_what_a_server_refuses_is_told(admin):
    admin.delete_status = 401
    with pytest.raises(RayServeException, match='401: "no"\nset TYNDALL_ADMIN_TOKEN'):
        serve.delete("app")


def test_the_token_is_sent(admin, monkeypatch):
    monkeypatch.setenv("TYNDALL_ADMIN_TOKEN", "secret")
    serve.status()
    assert admin.asked[0][2] == "Bearer secret"


def test_shutdown_waits_for_the_end(admin):
    serve.shutdown()
    assert admin.asked[0][:2] == ("POST", "/api/shutdown")
    assert serve.status() == ServeStatus()


def test_shutdown_gives_up_waiting(admin, monkeypatch, warned):
    monkeypatch.setattr(api, "_SHUTDOWN_TIMEOUT_S", 0.0)
    monkeypatch.setattr(_admin, "shut_down", lambda at: None)
    serve.shutdown()
    assert "has not ended within 0s" in warned()[0]


def test_handles_by_name(admin):
    handle = serve.get_app_handle("app")
    assert (handle.deployment_name, handle.app_name) == ("Model", "app")
    with pytest.raises(RayServeException, match="Application 'other' does not exist."):
        serve.get_app_handle("other")
    assert serve.get_deployment_handle("Model", "app") == handle
    with pytest.raises(KeyError, match="Deployment 'Other' in application 'app' does not exist."):
        serve.get_deployment_handle("Other", "app")
    assert serve.get_deployment_handle("Other", "app", _check_exists=False).deployment_name == "Other"
    with pytest.raises(RayServeException, match="Please specify an application name"):
        serve.get_deployment_handle("Model")


def test_the_address_is_the_commands(monkeypatch):
    monkeypatch.delenv("TYNDALL_ADDRESS")
    for name in ("RAY_DASHBOARD_ADDRESS", "TYNDALL_ADMIN_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert _admin.address() == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", "http://other:1/")
    assert _admin.address() == "http://other:1"
    monkeypatch.setenv("TYNDALL_ADDRESS", "other:1")
    with pytest.raises(ValueError, match="begins with http"):
        _admin.address()


def test_actors_are_those_of_replicas():
    with pytest.raises(RayServeException, match="may only be called from within a Ray Serve deployment replica"):
        serve.get_deployment_actor("a")
    with pytest.raises(RayServeException, match="may only be called from within a Ray Serve deployment actor"):
        serve.get_deployment_actor_context()
    assert serve.get_trace_context() is None


def test_names_are_found():
    for name in ("config", "context", "exceptions", "handle", "metrics", "schema"):
        assert getattr(serve, name).__name__ == f"tyndall.serve.{name}"
    assert set(dir(serve)) >= {"run", "deployment", "batch", "ingress", "multiplexed", "status"}
    with pytest.raises(AttributeError, match="no attribute 'build'"):
        serve.build  # noqa: B018
