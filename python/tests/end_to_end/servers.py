"""Servers of a test's own, beside the one that all tests share."""

import os
import subprocess

from tyndall.serve import _server

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
