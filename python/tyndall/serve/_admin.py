"""The server's API for operators, as far as `serve` needs it."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import _controller, _router
from .exceptions import RayServeException

DEFAULT_PORT = "8265"
_TIMEOUT_S = 30.0
_POLL_S = 0.1

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks without the proxies of the environment, which cannot reach this machine's loopback."""


class ServerUnreachable(RayServeException):
    """There is no server at the address."""


def address() -> str:
    """Where the server's API is: what the commands of `tyndall` go by, too."""
    given = os.environ.get("TYNDALL_ADDRESS") or os.environ.get("RAY_DASHBOARD_ADDRESS")
    if not given:
        return f"http://127.0.0.1:{os.environ.get('TYNDALL_ADMIN_PORT') or DEFAULT_PORT}"
    if not given.startswith(("http://", "https://")):
        raise ValueError(f"the server's address is {given!r}\nit begins with http:// or https://")
    return given.rstrip("/")


def details(at: str | None = None) -> dict[str, Any]:
    """Everything that runs, as Ray's `ServeInstanceDetails`.

    Raises ServerUnreachable.
    """
    answer: dict[str, Any] = json.loads(request("GET", "/api/serve/applications/", at=at))
    return answer


def delete_application(name: str, at: str | None = None) -> bool:
    """Begins to remove an application; whether there was one."""
    try:
        request("DELETE", f"/api/tyndall/applications/{urllib.parse.quote(name, safe='')}", at=at)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise _refused(error) from None
        return False
    return True


def shut_down(at: str | None = None) -> None:
    """Begins to end the server; requests are finished first."""
    request("POST", "/api/shutdown", at=at)


def request(method: str, path: str, body: Any = None, *, at: str | None = None) -> bytes:
    """The body of the server's answer.

    Raises ServerUnreachable, and HTTPError for an answer that is an error.
    """
    if method == "GET" and at is None and _router.own_runtime_dir is not None:
        return _read(_router.own_runtime_dir, path)
    base = at or address()
    headers = {}
    if token := os.environ.get("TYNDALL_ADMIN_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    asked = urllib.request.Request(base + path, data=data, headers=headers, method=method)
    try:
        with opener.open(asked, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError:
        raise
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ServerUnreachable(
            f"There is no Serve instance running at {base}: {reason}\n"
            "start one with `tyndall start`, or say in TYNDALL_ADDRESS where it is"
        ) from error


def _read(runtime_dir: Path, path: str) -> bytes:
    """What the controller itself answers, by its socket."""
    try:
        status, content = _controller.ask(runtime_dir, "GET", path, timeout_s=_TIMEOUT_S)
    except (http.client.HTTPException, OSError) as error:
        raise ServerUnreachable(f"the server of this replica does not answer: {error}\ntry again later") from error
    if status != 200:
        said = content.decode(errors="replace").strip()
        raise RayServeException(f"the server answered {status}: {said}")
    return content


def _refused(error: urllib.error.HTTPError) -> RayServeException:
    said = error.read().decode(errors="replace").strip()
    cure = "\nset TYNDALL_ADMIN_TOKEN as where the server was started" if error.code == 401 else ""
    return RayServeException(f"the server answered {error.code}: {said}{cure}")


def wait_until(holds: Callable[[], bool], timeout_s: float) -> bool:
    """Asks again and again; whether it held in time."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_S)
    return True
