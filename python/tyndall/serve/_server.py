"""The server behind `serve.run`: the one that runs, else one of this process, and applications on their way to it."""

from __future__ import annotations

import atexit
import base64
import copy
import json
import logging
import os
import re
import select
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from . import _admin
from ._admin import ServerUnreachable
from ._graph import Built
from ._models import ModelApplication
from .config import HTTPOptions, LoggingConfig, gRPCOptions
from .exceptions import RayServeException

logger = logging.getLogger("tyndall.serve")

_START_TIMEOUT_S = 60.0
_PROXY_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 30.0
_MAX_CODE_BYTES = 90 << 20
"""What the server takes, in base64 and with the rest of a submission."""
_POLL_S = 0.1
_ADDRESS = "TYNDALL_ADDRESS"
_LEVELS = {"CRITICAL": "error", "ERROR": "error", "WARNING": "warn", "INFO": "info", "DEBUG": "debug"}

_lock = threading.RLock()
_own: _OwnServer | None = None


def start(
    http_options: HTTPOptions | None = None,
    grpc_options: gRPCOptions | None = None,
    logging_config: LoggingConfig | None = None,
) -> None:
    """Finds the server that runs, whose options stay as they are, else starts one that ends with this process.

    Raises RuntimeError with cause and cure when none can be started.
    """
    global _own
    with _lock:
        is_there = _is_there()
        if not is_there and _own is not None and _own.is_addressed():
            # It was shut down, and may still be on its way.
            _own.end()
            _own = None
            is_there = _is_there()
        if is_there:
            _warn_of_other_options(http_options, grpc_options)
            return
        if os.environ.get(_ADDRESS) or os.environ.get("RAY_DASHBOARD_ADDRESS"):
            raise ServerUnreachable(
                f"There is no Serve instance running at {_admin.address()}\n"
                "start it there, or unset the variable that says so"
            )
        _own = _OwnServer(_flags(http_options, grpc_options, logging_config))


def deploy(built: Sequence[Built], *, wait_for_ingress: bool = True, wait_for_running: bool = True) -> None:
    """Sends applications to the server, which is started where none runs.

    What it answers to is there when this returns; with `wait_for_running` also its replicas are.
    Raises RayServeException for what the server refuses, RuntimeError for an application that does not come up.
    """
    start()
    versions = {one.name: _send(one) for one in built}
    # The server has every deployment when it has answered, so the ingress needs no waiting for.
    del wait_for_ingress
    if wait_for_running:
        for one in built:
            _wait_until_running(one.name, versions[one.name])
            if one.route_prefix is not None:
                _wait_for_proxy()
                logger.info(f"Application '{one.name}' is ready at {url()}{one.route_prefix.rstrip('/')}/.")
            else:
                logger.info(f"Application '{one.name}' is ready.")


def url() -> str:
    """Where the server's clients go."""
    return str(_node()["url"])


def runtime_dir() -> str:
    """Where the sockets of the server's processes lie."""
    return str(_node()["runtime_dir"])


def _node() -> dict[str, Any]:
    node: dict[str, Any] = json.loads(_admin.request("GET", "/api/tyndall/node"))
    return node


def _is_there() -> bool:
    try:
        _admin.request("GET", "/-/healthz")
    except ServerUnreachable:
        return False
    except urllib.error.HTTPError as error:
        at = _admin.address()
        raise RayServeException(
            f"what listens at {at} is no server of Tyndall: it answers {error.code}\n"
            f"say in {_ADDRESS} where the server is, or set TYNDALL_ADMIN_PORT to another port for a new one"
        ) from None
    return True


def _warn_of_other_options(http: HTTPOptions | None, grpc: gRPCOptions | None) -> None:
    http_given = http.to_dict(only_set=True) if http is not None else {}
    grpc_given = grpc.to_dict(only_set=True) if grpc is not None else {}
    if not http_given and not grpc_given:
        return
    running = _admin.details()
    there = running.get("http_options") or {}
    _warn("HTTP", [name for name, value in http_given.items() if there.get(name) is not None and there[name] != value])
    # A server that was told nothing of gRPC has the defaults.
    there = gRPCOptions.parse("grpc_options", running.get("grpc_options") or {}).to_dict()
    _warn("gRPC", [name for name, value in grpc_given.items() if there[name] != value])


def _warn(kind: str, differing: list[str]) -> None:
    if differing:
        logger.warning(
            f"The new client {kind} config differs from the existing one in the following fields: "
            f"{differing}. The new {kind} config is ignored."
        )


# --- A server of this process -----------------------------------------------------------------------------------------


def binary() -> str:
    """The program `tyndall`: beside the interpreter, else on the PATH, else the one in TYNDALL_BIN."""
    beside = Path(sys.executable).parent / "tyndall"
    if beside.is_file() and os.access(beside, os.X_OK):
        return str(beside)
    found = shutil.which("tyndall") or os.environ.get("TYNDALL_BIN")
    if not found:
        raise RuntimeError(
            f"there is no program `tyndall` beside {sys.executable} or on the PATH\n"
            "install the package with its program, or say in TYNDALL_BIN where it is"
        )
    return found


def _flags(http: HTTPOptions | None, grpc: gRPCOptions | None, logs: LoggingConfig | None) -> list[str]:
    given = http.to_dict(only_set=True) if http is not None else {}
    flags = []
    for option, flag in (("host", "--host"), ("port", "--port"), ("request_timeout_s", "--request-timeout")):
        if given.get(option) is not None:
            flags += [flag, str(given[option])]
    if grpc is not None:
        flags += _grpc_flags(grpc.to_dict(only_set=True))
    said = logs.to_dict(only_set=True) if logs is not None else {}
    if level := _LEVELS.get(str(said.get("log_level"))):
        flags += ["--log", level]
    if said.get("encoding"):
        flags += ["--log-format", str(getattr(said["encoding"], "value", said["encoding"])).lower()]
    return flags


def _grpc_flags(given: dict[str, Any]) -> list[str]:
    flags = []
    for option, flag in (("port", "--grpc-port"), ("request_timeout_s", "--grpc-request-timeout")):
        if given.get(option) is not None:
            flags += [flag, str(given[option])]
    if functions := given.get("grpc_servicer_functions"):
        flags += ["--grpc-servicer-functions", ",".join(functions)]
    if given.get("enable_reflection") is False:
        flags.append("--grpc-disable-reflection")
    return flags


class _OwnServer:
    """A server that ends with this process, however that ends: it watches for that itself."""

    def __init__(self, flags: list[str]) -> None:
        # Applications in files run on this interpreter, too.
        env = {"TYNDALL_PYTHON": sys.executable, **os.environ}
        command = [binary(), "start", "--foreground", "--owner-pid", str(os.getpid()), *flags]
        # In a session of its own, so that Ctrl-C is for this process alone, which then lets it finish its requests.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env, start_new_session=True
        )
        self._owner_pid = os.getpid()
        assert self._process.stdout is not None, "it is a pipe"
        told = self._first_lines(self._process.stdout)
        os.environ[_ADDRESS] = self._address = told[1]
        atexit.register(self.end)

    def _first_lines(self, stdout: IO[bytes]) -> list[str]:
        """Where clients go, and where operators do."""
        lines: list[str] = []
        deadline = time.monotonic() + _START_TIMEOUT_S
        text = b""
        while time.monotonic() < deadline:
            ready, _, _ = select.select([stdout], [], [], deadline - time.monotonic())
            piece = os.read(stdout.fileno(), 4096) if ready else b""
            text += piece
            lines = text.decode(errors="replace").splitlines()
            if not piece or (len(lines) >= 2 and not lines[0].startswith("error: ") and text.endswith(b"\n")):
                break
        if len(lines) >= 2 and not lines[0].startswith("error: "):
            return lines
        self._process.kill()
        status = self._process.wait()
        if lines:
            raise RuntimeError("\n".join(map(_for_programs, lines)))
        raise RuntimeError(
            f"the server did not start within {_START_TIMEOUT_S:g}s and ended with status {status}\n"
            "its lines on standard error say why"
        )

    def runs(self) -> bool:
        return self._process.poll() is None

    def is_addressed(self) -> bool:
        return os.environ.get(_ADDRESS) == self._address

    def end(self) -> None:
        """Lets it finish its requests, so that whoever comes next finds its ports free."""
        if self.is_addressed():
            del os.environ[_ADDRESS]
        # A child that was forked is not the one that started it.
        if os.getpid() != self._owner_pid:
            return
        atexit.unregister(self.end)
        self._process.terminate()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _for_programs(line: str) -> str:
    """What a command says, to somebody who sets variables in place of flags."""
    if line.startswith("help: "):
        line = re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda flag: _variable(flag[1]), line)
    return line.removeprefix("error: ").removeprefix("help: ")


def _variable(flag: str) -> str:
    return f"TYNDALL_{flag.upper().replace('-', '_')}"


# --- Applications -----------------------------------------------------------------------------------------------------


def _send(built: Built) -> int | None:
    """Sends one application and returns the number of its version; one with models has none before these are built."""
    application: dict[str, Any] = {
        "route_prefix": built.route_prefix,
        "external_scaler_enabled": built.external_scaler_enabled,
        "runtime_env": {"working_dir": os.getcwd()},
    }
    if built.logging_config is not None:
        application["logging_config"] = built.logging_config
    if isinstance(built.application, ModelApplication):
        del application["runtime_env"]
        _put(built, {"application": {**application, **built.application.config}})
        return None
    body = {
        "application": application,
        "described": _with_absolute_paths(built.described),
        "python": sys.executable,
        "sys_path": import_paths(),
        "code": base64.b64encode(_pickled(built)).decode(),
    }
    version: int | None = _put(built, body).get("version")
    return version


def _put(built: Built, body: dict[str, Any]) -> dict[str, Any]:
    path = f"/api/tyndall/applications/{urllib.parse.quote(built.name, safe='')}"
    try:
        answer: dict[str, Any] = json.loads(_admin.request("PUT", path, body))
    except urllib.error.HTTPError as error:
        raise _refused(error, built) from None
    return answer


def _refused(error: urllib.error.HTTPError, built: Built) -> RayServeException:
    said = error.read().decode(errors="replace").strip().replace("\n  help: ", "\n").replace("; ", "\n", 1)
    if error.code == 409:
        return RayServeException(said)
    if error.code == 401:
        said += "\nset TYNDALL_ADMIN_TOKEN as where the server was started"
    return RayServeException(f'Failed to deploy application "{built.name}": {said}')


def _pickled(built: Built) -> bytes:
    import cloudpickle  # type: ignore[import-untyped]

    try:
        pickled: bytes = cloudpickle.dumps(built.application)
    except Exception as error:
        raise TypeError(
            f"application {built.name!r} cannot be pickled: {error}\n"
            "bind what is made of it, such as a path, and make the object itself in __init__"
        ) from error
    if len(pickled) > _MAX_CODE_BYTES:
        raise ValueError(
            f"application {built.name!r} has {len(pickled) >> 20} MiB as a pickle, and {_MAX_CODE_BYTES >> 20} may go\n"
            "bind what the code loads its data from, such as a path, instead of the data"
        )
    return pickled


def import_paths() -> list[str]:
    """What this process imports from beside its installation, such as the folder of its script."""
    installed = tuple({f"{Path(prefix)}{os.sep}" for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)})
    found = (os.path.abspath(entry) for entry in sys.path)
    outside = (path for path in found if not f"{path}{os.sep}".startswith(installed) and os.path.exists(path))
    return list(dict.fromkeys(outside))


def _with_absolute_paths(described: dict[str, Any]) -> dict[str, Any]:
    """Paths of `runtime_env` of deployments mean what they mean here."""
    described = copy.deepcopy(described)
    for deployment in described["deployments"]:
        env = (deployment.get("ray_actor_options") or {}).get("runtime_env") or {}
        if env.get("working_dir"):
            env["working_dir"] = _absolute(env["working_dir"])
        if env.get("py_modules"):
            env["py_modules"] = [_absolute(module) for module in env["py_modules"]]
    return described


def _absolute(path: Any) -> Any:
    return os.path.abspath(path) if isinstance(path, str) and "://" not in path else path


def _wait_until_running(name: str, version: int | None) -> None:
    """Raises RuntimeError when the version fails, or another takes its place."""
    while True:
        answer = json.loads(_admin.request("GET", "/api/tyndall/applications/"))
        application = answer["applications"].get(name)
        if application is None:
            raise RuntimeError(f"Deploying application {name} failed: it was deleted meanwhile")
        status, message = application["status"], application["message"]
        if version is not None and application["version"] != version:
            message = message or f"version {application['version']} took its place"
            raise RuntimeError(f"Deploying application {name} failed: {message}")
        if status == "RUNNING":
            return
        if status == "DEPLOY_FAILED":
            raise RuntimeError(f"Deploying application {name} failed: {_reasons(application)}")
        time.sleep(_POLL_S)


def _reasons(application: dict[str, Any]) -> str:
    deployments = application["deployments"].values()
    failed = [f"{one['name']}: {one['message']}" for one in deployments if one["status"] == "DEPLOY_FAILED"]
    return "\n".join([application["message"], *failed])


def _wait_for_proxy() -> None:
    at = url()
    deadline = time.monotonic() + _PROXY_TIMEOUT_S
    while True:
        try:
            with _admin.opener.open(f"{at}/-/healthz", timeout=_PROXY_TIMEOUT_S):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"HTTP proxies not available after {_PROXY_TIMEOUT_S:g}s.") from None
        time.sleep(_POLL_S)
