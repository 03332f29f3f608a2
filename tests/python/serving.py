"""A server for tests: the binary named by TYNDALL_BIN, on free ports."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

DEADLINE_S = 90


@dataclass
class Server:
    """A running `tyndall run`."""

    process: subprocess.Popen
    url: str
    admin: str

    def replicas(self) -> list[dict]:
        """The replicas of the one deployment, as the admin API lists them."""
        with urllib.request.urlopen(f"{self.admin}/api/tyndall/applications/") as answer:
            details = json.load(answer)
        (application,) = details["applications"].values()
        (deployment,) = application["deployments"].values()
        return deployment["replicas"]


def eventually(what: str, ask):
    """Asks until the answer is true; fails when it never is."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {DEADLINE_S} s")


@contextlib.contextmanager
def serving(home: Path, target: str, *flags: str):
    """`tyndall run TARGET` with its cache in `home`, until it is told to end."""
    output = home / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [os.environ["TYNDALL_BIN"], "run", target, "--port", "0", "--admin-port", "0", *flags],
            env={**os.environ, "XDG_CACHE_HOME": str(home), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )

    def urls():
        assert process.poll() is None, output.read_text()
        text = output.read_text()
        return "\nready" in text and list(dict.fromkeys(re.findall(r"http://127\.0\.0\.1:\d+", text)))

    url, admin, *_ = eventually("the server is ready", urls)
    try:
        yield Server(process, url, admin)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(DEADLINE_S)
    assert status == 0
