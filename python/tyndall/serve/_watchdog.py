"""What is said of code that keeps the event loop from everything else. The extension sees it, on its own threads."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, Final

logger = logging.getLogger("tyndall.serve")

_loop: asyncio.AbstractEventLoop | None = None
_loop_thread = 0

# Between these and the code there is only what runs it.
_MACHINERY: Final = (str(Path(__file__).parent.parent), str(Path(asyncio.__file__).parent), "<frozen ")


def watch(loop: asyncio.AbstractEventLoop) -> tuple[float, float]:
    """Takes the loop, which is to run in this thread.

    Gives after how many seconds a blocked loop, and a slow start, are told of; 0 is never.
    """
    global _loop, _loop_thread
    _loop, _loop_thread = loop, threading.get_ident()
    return _seconds("TYNDALL_BLOCKED_LOOP_WARNING_S", 1.0), _seconds("SERVE_SLOW_STARTUP_WARNING_S", 30.0)


def _seconds(name: str, default: float) -> float:
    given = os.environ.get(name)
    try:
        seconds = default if not given else float(given)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{name}={given!r} is no number of seconds\nwrite one, such as 1.5, or 0 for no warning")
    return seconds


def blocked(seconds: float) -> None:
    """The loop has not come back for so long."""
    logger.warning(
        "the event loop has been blocked for %.1f s: no request of this replica goes on meanwhile\n"
        "await what waits, such as asyncio.sleep or an async client, or make the method a plain `def`, which runs in a "
        "thread; it is at\n%s",
        seconds,
        stack(),
    )


def starts_slowly(seconds: float) -> None:
    """The deployment has not started for so long."""
    logger.warning(
        "the deployment has been starting for %.1f s, and is given up after startup_timeout_s\n"
        "if it waits for something that never comes, mend its constructor; it is at\n%s",
        seconds,
        awaited() or stack(),
    )


def stack() -> str:
    """Where the thread of the loop is, from the first line of the code on."""
    frame = sys._current_frames().get(_loop_thread)
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    found = _shown(frames[::-1])
    return found or "  no line of the code: it has just gone on"


def awaited() -> str:
    """Where the tasks of the loop wait."""
    tasks = asyncio.all_tasks(_loop) if _loop is not None else set()
    return "\n".join(filter(None, (_shown(_frames(task.get_coro())) for task in tasks)))


def _frames(coroutine: Any) -> list[FrameType]:
    """Those of a coroutine and of what it awaits."""
    frames: list[FrameType] = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        frames.append(frame)
        coroutine = coroutine.cr_await
    return frames


def _shown(frames: list[FrameType]) -> str:
    """The outermost first; nothing where there is no line of the code."""
    first = next((i for i, one in enumerate(frames) if not one.f_code.co_filename.startswith(_MACHINERY)), len(frames))
    summary = traceback.StackSummary.extract((one, one.f_lineno) for one in frames[first:])
    return "".join(summary.format()).rstrip()
