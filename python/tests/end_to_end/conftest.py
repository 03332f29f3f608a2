"""One server for all tests here, which deploy to it what they need."""

import itertools
import socket

import httpx
import pytest

from tyndall import serve
from tyndall.serve import _server


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TYNDALL_ADDRESS", raising=False)
        patch.setenv("TYNDALL_ADMIN_PORT", str(free_port()))
        patch.setenv("TYNDALL_HOME", str(tmp_path_factory.mktemp("home")))
        serve.start(http_options={"port": free_port()})
        address = _server._own._address
        patch.setenv("TYNDALL_ADDRESS", address)
        url = _server.url()
        yield address, url
        serve.shutdown()


@pytest.fixture(autouse=True)
def _alone(monkeypatch, server):
    monkeypatch.setenv("TYNDALL_ADDRESS", server[0])


_numbers = itertools.count()


@pytest.fixture
def deploy(server):
    """Runs an application at a route of its own, and gives a client for it, with its handle."""
    names = []

    def run(app, **options) -> tuple[httpx.Client, serve.handle.DeploymentHandle]:
        name = options.pop("name", f"app{next(_numbers)}")
        names.append(name)
        handle = serve.run(app, name=name, route_prefix=f"/{name}", **options)
        return httpx.Client(base_url=f"{server[1]}/{name}", timeout=60), handle

    yield run
    for name in names:
        serve.delete(name)
