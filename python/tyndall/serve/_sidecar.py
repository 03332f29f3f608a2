"""A process of an application beside its replicas: how it begins, what it tells, and how it ends.

`python -m tyndall._program SOURCE role ROLE --runtime-dir DIR --id ID --told JSON --parent-pid PID`. It listens on a
socket in the runtime directory and reports to the controller as replicas do.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._controller import report
from ._replica_log import LOGGERS
from ._replica_log import configured as configured_logging

logger = logging.getLogger("tyndall.serve")


@dataclass(frozen=True)
class Sidecar:
    """What such a process was started with."""

    runtime_dir: Path
    id: str
    told: dict[str, Any]
    _last: list[Callable[[], None]] = field(default_factory=list, compare=False)

    @property
    def socket(self) -> Path:
        return self.runtime_dir / f"{self.id}.sock"

    def at_end(self, what: Callable[[], None]) -> None:
        """Called when the process is told to end, while its socket is still there."""
        self._last.append(what)

    def ready(self) -> None:
        """It answers on its socket."""
        self.tell({"report": "ready", "phases": [], "card": None})

    def failed(self, what: str, error: BaseException) -> None:
        """It cannot do what it is for, and ends next."""
        reason = f"{what}: {line(error)}"
        logger.error(reason, exc_info=error)
        self.tell({"report": "failed", "reason": reason})

    def tell(self, what: dict[str, Any]) -> None:
        """Raises OSError or RuntimeError where the controller does not take it."""
        report(self.runtime_dir, self.id, what)


def begin(role: str, argv: list[str]) -> Sidecar:
    """Before any of the application's code runs; `argv` is what follows the role."""
    parser = argparse.ArgumentParser(prog=f"role {role}", allow_abbrev=False)
    parser.add_argument("--runtime-dir", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--told", type=json.loads, required=True)
    parser.add_argument("--parent-pid", type=int)
    given = parser.parse_args(argv)
    sidecar = Sidecar(Path(given.runtime_dir), given.id, given.told)
    signal.signal(signal.SIGTERM, lambda *_: _end(sidecar))
    # What the code prints goes the way of the log.
    os.dup2(2, 1)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(configured_logging(os.environ).log_level)
    logging.getLogger("ray.serve").parent = logger
    return sidecar


def _end(sidecar: Sidecar) -> None:
    for last in sidecar._last:
        last()
    sidecar.socket.unlink(missing_ok=True)
    sys.stderr.flush()
    # Nothing is kept here that would have to be written down.
    os._exit(0)


class Unusable(Exception):
    """What is told of code that gives no usable answer: a line of cause, and one of cure."""


def line(error: BaseException) -> str:
    """An error in one line, its cure after it."""
    lines = [one.strip() for one in str(error).splitlines() if one.strip()]
    said = "; ".join(lines)
    if isinstance(error, Unusable):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def placed(error: BaseException, *not_in: str) -> str:
    """Why code has no answer, with the place where that is known: the last that is in none of these files."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename not in (__file__, *not_in)]
    if isinstance(error, Unusable) or not own:
        return line(error)
    return f"{line(error)} ({own[-1].filename}, line {own[-1].lineno})"


def shown(value: object) -> str:
    text = f"{value!r} ({type(value).__name__})"
    return text if len(text) <= 120 else text[:120] + "…"
