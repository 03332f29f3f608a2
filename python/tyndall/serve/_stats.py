"""What a deployment's `record_autoscaling_stats` says of its replica, for autoscaling policies."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ._controller import report

logger = logging.getLogger("tyndall.serve")

METHOD = "record_autoscaling_stats"
_METRICS_INTERVAL_S = 10.0
_SHARE_OF_WINDOW = 0.2


def interval_s(autoscaling: Mapping[str, Any]) -> float:
    """Between two points, so that a window has some."""
    return max(0.1, min(_SHARE_OF_WINDOW * float(autoscaling["look_back_period_s"]), _METRICS_INTERVAL_S))


async def tell(
    record: Callable[[], Awaitable[Any]], runtime_dir: Path, replica_id: str, autoscaling: Mapping[str, Any]
) -> None:
    """Asks for them and tells the controller, again and again; ends with its task, or when they are none."""
    loop = asyncio.get_running_loop()
    timeout_s = float(os.environ.get("RAY_SERVE_RECORD_AUTOSCALING_STATS_TIMEOUT_S") or 10.0)
    trouble = ""
    while True:
        try:
            stats = await asyncio.wait_for(record(), timeout_s)
            if wrong := _wrong(stats):
                logger.error(f"{METHOD} returned {wrong}, expected numbers by name: it is not asked again")
                return
            what = {"report": "stats", "metrics": dict(stats)}
            await loop.run_in_executor(None, report, runtime_dir, replica_id, what)
            trouble = ""
        except Exception as error:
            # The same again is no news.
            told = f"{type(error).__name__}: {error}"
            if told != trouble:
                logger.error(f"{METHOD} failed: {told}", exc_info=error)
            trouble = told
        await asyncio.sleep(interval_s(autoscaling))


def _wrong(stats: Any) -> str:
    """What is wrong with them; empty where nothing is."""
    if not isinstance(stats, Mapping):
        return type(stats).__name__
    for name, value in stats.items():
        if not isinstance(name, str) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"{name!r}: {value!r}"
    return ""
