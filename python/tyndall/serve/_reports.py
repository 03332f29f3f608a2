"""What processes in Python tell the controller by themselves, over its socket in the runtime directory."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

_TIMEOUT_S = 10.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def report(runtime_dir: Path, process_id: str, what: dict[str, Any]) -> None:
    """Tells the controller something of this process. Raises OSError or RuntimeError where it does not take it."""
    connection = _UnixConnection(runtime_dir / "controller.sock")
    try:
        path = f"/-/replicas/{process_id}/report"
        connection.request("POST", path, json.dumps(what), {"content-type": "application/json"})
        response = connection.getresponse()
        said = response.read().decode(errors="replace").strip()
        if response.status >= 300:
            raise RuntimeError(f"the controller answered {response.status} to a report of {process_id}: {said}")
    finally:
        connection.close()
