"""Servers of a test's own, beside the one that all tests share, and what is seen of a server from outside."""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

from tyndall.serve import _admin, _server

END_S = 60


class OwnServer:
    """One on free ports, with these variables in the environment of its processes."""

    def __init__(self, **variables: str) -> None:
        command = [_server.binary(), "start", "--foreground", "--owner-pid", str(os.getpid())]
        command += ["--port", "0", "--admin-port", "0"]
        env = {name: value for name, value in os.environ.items() if name != "TYNDALL_ADDRESS"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**env, **variables})
        self.url = self.process.stdout.readline().strip()
        self.address = self.process.stdout.readline().strip()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=END_S)


def details(name):
    """What the server says of an application."""
    return json.loads(_admin.request("GET", "/api/tyndall/applications/"))["applications"][name]


def until(condition, what="it never came to be", timeout_s=60):
    """Waits until something is so, where nothing tells of it; the last value that is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: {value}"
        time.sleep(0.02)
    return value


def controller():
    """The process of the server's controller."""
    runtime_dir = json.loads(_admin.request("GET", "/api/tyndall/node"))["runtime_dir"].encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[1:3] == [b"role", b"controller"] and runtime_dir in words:
                return int(entry.name)
    raise AssertionError("there is no controller")


def processes(role, name):
    """The processes of this role of an application, by their ids in the system."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if role.encode() in words and b"--told" in words:
            if json.loads(words[words.index(b"--told") + 1])["application"] == name:
                found.append(int(entry.name))
    return found
