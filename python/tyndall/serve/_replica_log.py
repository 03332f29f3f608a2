"""What a replica writes: the lines of its loggers, of its requests and of `print`, in Ray Serve's forms.

All of it goes to standard error, which is the server's log, each line with the replica that wrote it. The logger of
serving has a handler for that; loggers of the code that have none of their own fall back to it from WARNING on, as
Python does, so that `logging.basicConfig` still means what it says.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from tyndall import _tyndall

from ._logging import LOGGER
from .config import EncodingType, LoggingConfig
from .context import RequestContext, _get_serve_request_context

LOGGERS: Final = (LOGGER, "ray.serve")
"""Code that was written for Ray Serve logs through the second."""

_STDERR: Final = 2
_MAX_LINE: Final = 1 << 16
_EXTRA: Final = "ray_serve_extra_fields"
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# What tells handlers what to do is no part of the line.
_NOT_WRITTEN: Final = frozenset(("log_to_stderr", "serve_access_log", "skip_context_filter", _EXTRA))
_LEVELS: Final = {"error": "ERROR", "warn": "WARNING", "debug": "DEBUG", "trace": "DEBUG"}


@dataclass(frozen=True)
class Origin:
    """Whose lines they are."""

    app_name: str
    deployment: str
    replica_id: str

    @property
    def component(self) -> str:
        return f"{self.app_name}_{self.deployment}" if self.app_name else self.deployment


def configured(environ: Mapping[str, str]) -> LoggingConfig:
    """How it is to log: by the nearest `logging_config`, and where that says nothing, as the server does."""
    config = LoggingConfig.parse("logging_config", json.loads(environ.get("TYNDALL_LOGGING_CONFIG") or "{}"))
    given = config.user_set()
    if "encoding" not in given and environ.get("TYNDALL_LOG_FORMAT") == "json":
        config.encoding = EncodingType.JSON
    if "log_level" not in given:
        config.log_level = _LEVELS.get(environ.get("TYNDALL_LOG", ""), "INFO")
    return config


def install(origin: Origin, config: LoggingConfig) -> AccessLog:
    """Has all that this process writes go its way from here on."""
    is_json = config.encoding == EncodingType.JSON
    form = (_Json if is_json else _Text)(origin, config.additional_log_standard_attrs)
    access = AccessLog(origin, form, config)
    access.handler = handler = _Stderr(access)
    handler.setFormatter(form)
    handlers: list[logging.Handler] = [handler]
    if config.logs_dir is not None:
        handlers.append(_file(Path(config.logs_dir), origin, form))
        handler.addFilter(lambda record: getattr(record, "log_to_stderr", True))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.propagate = False
        logger.setLevel(config.log_level)
    last = _Stderr(access, logging.WARNING)
    last.setFormatter(form)
    logging.lastResort = last  # type: ignore[assignment, unused-ignore]
    sys.stdout = _lines("stdout", sys.stdout, last)
    sys.stderr = _lines("stderr", sys.stderr, last)
    return access


def _lines(name: str, under: Any, handler: logging.Handler) -> _Lines:
    """What was made of it before stays, as code that was imported meanwhile may hold it."""
    if not isinstance(under, _Lines):
        return _Lines(name, under, handler)
    under.handler = handler
    return under


def install_early(origin: Origin, environ: Mapping[str, str]) -> None:
    """The same for what runs before it is known which replica this process becomes; files are of replicas."""
    config = configured(environ)
    config.logs_dir, config.enable_access_log = None, False
    install(origin, config)


def _file(folder: Path, origin: Origin, form: logging.Formatter) -> logging.Handler:
    from logging.handlers import RotatingFileHandler

    folder.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        folder / f"replica_{origin.component}_{origin.replica_id}.log",
        maxBytes=int(os.environ.get("RAY_ROTATION_MAX_BYTES") or 512 << 20),
        backupCount=int(os.environ.get("RAY_ROTATION_BACKUP_COUNT") or 5),
    )
    handler.setFormatter(form)
    return handler


# --- Lines ------------------------------------------------------------------------------------------------------------


class _Form(logging.Formatter):
    """What both forms have."""

    def __init__(self, origin: Origin, attributes: list[str]) -> None:
        super().__init__()
        self.origin = origin
        self.attributes = attributes


class _Text(_Form):
    """`LEVEL time component id request -- message`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        request_id = getattr(record, "request_id", "") or _get_serve_request_context().request_id
        words = [record.levelname, _time(record.created), self.origin.component, self.origin.replica_id]
        if request_id:
            words.append(request_id)
        words.extend(str(getattr(record, name, "")) for name in self.attributes)
        return f"{' '.join(words)} -- {record.message}"


class _Json(_Form):
    """One object per line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "asctime": _time(record.created),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            "process": record.process,
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            fields["exc_text"] = record.exc_text
        for name in self.attributes:
            fields[name] = getattr(record, name, None)
        fields.update(self._context(_get_serve_request_context()))
        given = vars(record)
        fields.update((name, value) for name, value in given.items() if name not in _STANDARD | _NOT_WRITTEN)
        fields.update(self._flattened(given.get(_EXTRA, {}), fields))
        return json.dumps(fields, default=str)

    def line(self, message: str, request: RequestContext) -> str:
        """A line of INFO without a record."""
        fields = {
            "asctime": _time(time.time()),
            "levelname": "INFO",
            "message": message,
            "filename": "_replica.py",
            "lineno": 0,
            "process": os.getpid(),
        }
        return json.dumps({**fields, **self._context(request)})

    def _context(self, request: RequestContext) -> dict[str, str]:
        of_request = {"route": request.route, "request_id": request.request_id, "application": request.app_name}
        fields = {name: value for name, value in of_request.items() if value}
        fields["deployment"], fields["replica"] = self.origin.component, self.origin.replica_id
        fields["component_name"] = "replica"
        return fields

    @staticmethod
    def _flattened(more: Any, fields: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(more, dict):
            raise ValueError(f"{_EXTRA} is a {type(more).__name__}\nmake it a dictionary of fields")
        for name in more:
            if name in fields:
                raise KeyError(f"{_EXTRA} has {name!r}, which the line has already\ngive it another name")
        return more


_second: tuple[int, str] = (0, "")


def _time(at: float) -> str:
    """As `logging` writes it; the second, which many lines share, is kept."""
    global _second
    whole = int(at)
    known, text = _second
    if known != whole:
        text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(whole))
        _second = (whole, text)
    return f"{text},{int((at - whole) * 1000):03d}"


# --- Where they go ----------------------------------------------------------------------------------------------------


def _write(text: str) -> None:
    """In one piece, so that lines of several processes do not mix; what cannot be written is lost, not raised."""
    left = text.encode(errors="backslashreplace")
    try:
        while left:
            left = left[os.write(_STDERR, left) :]
    except OSError:
        pass


class _Stderr(logging.Handler):
    def __init__(self, access: AccessLog, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._access = access

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        self._access.flush()
        _write(f"{text}\n")


class _Lines(io.TextIOBase):
    """Standard output or error: each line becomes one of the log. What libraries write past Python stays as it is."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name: str, under: Any, handler: logging.Handler) -> None:
        self.name = name
        self._under = under
        self.handler = handler
        self._begun = threading.local()

    @property
    def buffer(self) -> BinaryIO:
        binary: BinaryIO = self._under.buffer
        return binary

    def fileno(self) -> int:
        number: int = self._under.fileno()
        return number

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def reconfigure(self, **_options: Any) -> None:
        """Lines are written as they end, whatever is asked for."""

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        if len(rest) > _MAX_LINE:
            lines, rest = [*lines, rest], ""
        self._begun.text = rest
        for line in lines:
            # A bar of progress shows its last state.
            shown = line.rstrip("\r").rpartition("\r")[2]
            if shown:
                self.handler.emit(logging.LogRecord(self.name, logging.INFO, self.name, 0, shown, None, None))
        return len(text)

    def finish(self) -> None:
        """Writes what has no end yet."""
        if getattr(self._begun, "text", ""):
            self.write("\n")


class AccessLog:
    """A line per request. Rust writes those that are plain text, a moment later and many at once."""

    def __init__(self, origin: Origin, form: _Form, config: LoggingConfig) -> None:
        self._logger = logging.getLogger(LOGGER)
        self._form = form
        self.handler: logging.Handler | None = None
        """The logger's only one, unless the code has added others."""
        level = config.log_level
        level = level if isinstance(level, int) else logging.getLevelName(level)
        self.is_enabled = config.enable_access_log and level <= logging.INFO
        # Records are made only for those who ask for what a line alone does not have.
        self._is_plain = config.logs_dir is None and not config.additional_log_standard_attrs
        self._lines: _tyndall.AccessLines | None = None
        if self.is_enabled and self._is_plain and isinstance(form, _Text):
            self._lines = _tyndall.AccessLines(f"{origin.component} {origin.replica_id}")

    def http(self, request: _tyndall.HttpRequest, route: str | None) -> None:
        """An answer is over; `route` is the one of several that gave it."""
        if self._lines is not None and self._is_alone():
            self._lines.http(request, route)
            return
        path = route or request.context.root_path or "/"
        self._write(f"{request.method} {path} {request.status} {request.elapsed_ms:.1f}ms")

    def call(self, request: _tyndall.CallRequest, outcome: str) -> None:
        """A call is over."""
        if self._lines is not None and self._is_alone():
            self._lines.call(request, outcome)
            return
        self._write(f"CALL {request.method} {outcome} {request.elapsed_ms:.1f}ms")

    def grpc(self, request: _tyndall.HttpRequest, code: str) -> None:
        """A call of gRPC is over, which was complete when it came."""
        if self._lines is not None and self._is_alone():
            self._lines.grpc(request, code)
            return
        self._write(f"GRPC {request.path} {code} {request.elapsed_ms:.1f}ms")

    def grpc_stream(self, socket: _tyndall.WebSocket, code: str, elapsed_ms: float) -> None:
        """One is over whose client went on."""
        if self._lines is not None and self._is_alone():
            self._lines.grpc_stream(socket, code)
            return
        self._write(f"GRPC {socket.path} {code} {elapsed_ms:.1f}ms")

    def _is_alone(self) -> bool:
        """Whether nobody but this writes what the logger of serving is told."""
        logger = self._logger
        return logger.isEnabledFor(logging.INFO) and not logger.filters and logger.handlers == [self.handler]

    def _write(self, message: str) -> None:
        if not self._logger.isEnabledFor(logging.INFO):
            return
        if self._is_plain and isinstance(self._form, _Json) and self._is_alone():
            _write(f"{self._form.line(message, _get_serve_request_context())}\n")
        else:
            self._logger.info(message, extra={"serve_access_log": True, "log_to_stderr": False})

    def flush(self) -> None:
        """Writes what waits."""
        if self._lines is not None:
            self._lines.flush()


def finish() -> None:
    """Writes what waits, at the end of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Lines):
            stream.finish()
