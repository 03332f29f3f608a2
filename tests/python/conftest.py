"""A server for the tests: the binary named by TYNDALL_BIN, serving the demo model on free ports."""

import pytest
from serving import Server, eventually, serving

__all__ = ["Server", "eventually"]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), "demo") as server:
        yield server
