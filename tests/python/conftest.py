"""Servers for the tests: the binary named by TYNDALL_BIN, on free ports."""

import shutil
import warnings

import checkpoints
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


@pytest.fixture(scope="session")
def minilm(tmp_path_factory):
    model = checkpoints.minilm(tmp_path_factory.mktemp("minilm"))
    with serving(tmp_path_factory.mktemp("home"), str(model), "--name", "minilm") as server:
        yield server
