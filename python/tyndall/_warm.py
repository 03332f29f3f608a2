"""`role warm`: a process that imports what a deployment needs, and waits to become a replica of it.

Standard input is a socket to the supervisor. This process says on it that it is prepared, and gets one line of JSON when
a replica is wanted: the words of `role replica`, and the variables that only this replica has. Without that line it ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import socket
import sys

from ._program import Source, end_with, options, told

PREPARED = b"prepared\n"

logger = logging.getLogger("tyndall.serve")


def wait(source: Source, argv: list[str]) -> list[str] | None:
    """Prepares and waits; what follows `role replica` then, or nothing where no replica was wanted."""
    names = ("--application", "--deployment", "--id", "--preload", "--parent-pid")
    application, deployment, replica_id, preload, parent_pid = (values[-1] for values in options(argv, names, names).values())
    end_with(int(parent_pid))
    source.prepare()
    from .serve import _replica, _replica_log

    _replica_log.install_early(_replica_log.Origin(application, deployment, replica_id), os.environ)
    _replica.prepare()
    for module in filter(None, preload.split(",")):
        _import(module)
    # What is there now stays: looking through it again and again would only take a replica's time.
    gc.collect()
    gc.freeze()
    return _become(_handed_over())


def _import(module: str) -> None:
    """A replica starts without it too, so its failure is told and nothing more."""
    try:
        importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001, code that ends the process when it is imported is such a failure
        cause = f"{type(error).__name__}: {error}"
        if not (isinstance(error, ModuleNotFoundError) and error.name == module):
            cause = told(error)
        logger.warning(
            f"{module} of tyndall.preload cannot be imported: {cause}\n"
            "replicas start without it; mend it, or take it out of preload"
        )


def _handed_over() -> bytes:
    """The line, or nothing at its end."""
    with socket.socket(fileno=os.dup(0)) as supervisor, supervisor.makefile("rb") as lines:
        supervisor.sendall(PREPARED)
        line: bytes = lines.readline()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return line


def _become(line: bytes) -> list[str] | None:
    if not line.endswith(b"\n"):
        return None
    handed = json.loads(line)
    os.environ.update(handed["env"])
    words: list[str] = handed["args"]
    words = words[words.index("role") :]
    sys.argv[1:] = [*sys.argv[1 : sys.argv.index("role")], *words]
    return words[2:]
