"""A server for the tests: the binary named by TYNDALL_BIN, serving the demo model on free ports."""

import shutil
import warnings

import pytest
from serving import Server, eventually, serving

__all__ = ["Server", "eventually"]

collect_ignore = []
if not (shutil.which("node") and shutil.which("npm")):
    collect_ignore.append("test_node_clients.py")
    warnings.warn("no node and npm on PATH: the clients for Node are not run", stacklevel=1)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), "demo") as server:
        yield server
