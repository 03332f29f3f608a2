"""The controller, as processes of its server reach it: by its socket, which asks for no token."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

_REPORT_TIMEOUT_S = 10.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the socket of a process."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(runtime_dir: Path, method: str, path: str, body: Any = None, *, timeout_s: float) -> tuple[int, bytes]:
    """The status and the body of an answer. Raises OSError or HTTPException where there is none."""
    connection = UnixConnection(runtime_dir / "controller.sock", timeout_s)
    try:
        if body is None:
            connection.request(method, path)
        else:
            connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def report(runtime_dir: Path, process_id: str, what: dict[str, Any]) -> None:
    """Tells the controller something of this process. Raises OSError or RuntimeError where it does not take it."""
    path = f"/-/replicas/{process_id}/report"
    status, content = ask(runtime_dir, "POST", path, what, timeout_s=_REPORT_TIMEOUT_S)
    if status >= 300:
        said = content.decode(errors="replace").strip()
        raise RuntimeError(f"the controller answered {status} to a report of {process_id}: {said}")
