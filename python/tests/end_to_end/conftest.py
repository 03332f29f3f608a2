"""One server for all tests here, which deploy to it what they need."""

import itertools
import os
import socket
import time
from pathlib import Path

import httpx
import pytest

from tyndall import serve
from tyndall.serve import _server


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Log:
    """What the server and its replicas write, from one point on."""

    LIMIT_S = 60

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begin = path.stat().st_size

    def text(self) -> str:
        return self.path.read_bytes()[self.begin :].decode(errors="replace")

    def lines(self, part: str) -> list[str]:
        return [line for line in self.text().splitlines() if part in line]

    def until(self, part: str) -> str:
        """Waits until it is there, and returns all."""
        deadline = time.monotonic() + self.LIMIT_S
        while part not in (text := self.text()):
            assert time.monotonic() < deadline, f"{part!r} is not in the log:\n{text}"
            time.sleep(0.02)
        return text


@pytest.fixture(scope="session")
def log_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "stderr"
    path.touch()
    return path


@pytest.fixture
def log(server, log_path):
    """What is written from here on."""
    return Log(log_path)


@pytest.fixture(scope="session")
def server(tmp_path_factory, log_path):
    """Its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TYNDALL_ADDRESS", raising=False)
        patch.setenv("TYNDALL_ADMIN_PORT", str(free_port()))
        patch.setenv("TYNDALL_HOME", str(tmp_path_factory.mktemp("home")))
        # It inherits standard error.
        stderr = os.dup(2)
        with log_path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        serve.start(http_options={"port": free_port()})
        os.dup2(stderr, 2)
        os.close(stderr)
        address = _server._own._address
        patch.setenv("TYNDALL_ADDRESS", address)
        url = _server.url()
        yield address, url
        serve.shutdown()


@pytest.fixture(autouse=True)
def _alone(monkeypatch, server, log_path):
    monkeypatch.setenv("TYNDALL_ADDRESS", server[0])
    log = Log(log_path)
    yield
    # For the report of a test that failed.
    print(log.text())


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
