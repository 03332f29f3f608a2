"""What a deployment's object says of its replica: to autoscaling policies, and to request routers."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger("tyndall.serve")

METHOD = "record_autoscaling_stats"
ROUTING_METHOD = "record_routing_stats"
METADATA_METHOD = "record_replica_metadata"
_METRICS_INTERVAL_S = 10.0
_SHARE_OF_WINDOW = 0.2
_MAX_TOLD_BYTES = 16 << 10
"""What is told goes to every process that sends requests there."""

_SHARE_OF_START = 0.9
"""The rest of its time is for saying why a replica cannot start."""

Record = Callable[[], Awaitable[Any]]


def interval_s(autoscaling: Mapping[str, Any]) -> float:
    """Between two points, so that a window has some."""
    return max(0.1, min(_SHARE_OF_WINDOW * float(autoscaling["look_back_period_s"]), _METRICS_INTERVAL_S))


async def tell(record: Record, runtime_dir: Path, replica_id: str, autoscaling: Mapping[str, Any]) -> None:
    """Asks for numbers and tells the controller, again and again; ends with its task, or when they are none."""
    timeout_s = float(os.environ.get("RAY_SERVE_RECORD_AUTOSCALING_STATS_TIMEOUT_S") or 10.0)

    def read(stats: Any) -> dict[str, Any] | None:
        if wrong := _wrong(stats):
            logger.error(f"{METHOD} returned {wrong}, expected numbers by name: it is not asked again")
            return None
        return {"report": "stats", "metrics": dict(stats)}

    await _tell(METHOD, record, read, runtime_dir, replica_id, timeout_s, interval_s(autoscaling))


async def tell_routers(record: Record, runtime_dir: Path, replica_id: str, router: Mapping[str, Any]) -> None:
    """Asks for a dict and tells the controller, also what it has heard: it may be a new one; ends as `tell` does."""

    def read(stats: Any) -> dict[str, Any] | None:
        if wrong := _unwritable(stats):
            logger.error(f"{ROUTING_METHOD} returned {wrong}: it is not asked again")
            return None
        # A copy: what was returned may be changed while it is sent.
        return {"report": "routing_stats", "stats": json.loads(json.dumps(stats))}

    period_s = float(router["request_routing_stats_period_s"])
    timeout_s = float(router["request_routing_stats_timeout_s"])
    await _tell(ROUTING_METHOD, record, read, runtime_dir, replica_id, timeout_s, period_s)


async def metadata(record: Record, startup_timeout_s: float) -> str:
    """What a replica says of itself once, as JSON. Raises what `record` raises, and for what cannot be told."""
    limit_s = _SHARE_OF_START * startup_timeout_s
    # An error of `record` itself may be a TimeoutError too.
    recording = asyncio.ensure_future(record())
    done, _ = await asyncio.wait((recording,), timeout=limit_s)
    if not done:
        recording.cancel()
        raise TimeoutError(
            f"{METADATA_METHOD} has not returned for {limit_s:g} s, and a replica starts within {startup_timeout_s:g} s\n"
            "mend what it waits for, or raise startup_timeout_s"
        )
    told = recording.result()
    if told is None:
        return "{}"
    if not isinstance(told, dict):
        raise TypeError(f"{METADATA_METHOD} returned {type(told).__name__}, expected a dict\nreturn one, or nothing")
    if wrong := _unwritable(told) or _changed(told):
        cure = "return a dict of what JSON can have, with texts as keys"
        raise ValueError(f"{METADATA_METHOD} returned {wrong}\n{cure}")
    return json.dumps(told)


async def _tell(
    method: str,
    record: Record,
    read: Callable[[Any], dict[str, Any] | None],
    runtime_dir: Path,
    replica_id: str,
    timeout_s: float,
    period_s: float,
) -> None:
    """`read` makes a report of what was recorded; where it makes none, that is the end."""
    # With an HTTP client, which replicas without such methods have no use for.
    from ._controller import report

    loop = asyncio.get_running_loop()
    trouble = ""
    while True:
        try:
            what = read(await asyncio.wait_for(record(), timeout_s))
            if what is None:
                return
            await loop.run_in_executor(None, report, runtime_dir, replica_id, what)
            trouble = ""
        except Exception as error:
            # The same again is no news.
            why = f"{type(error).__name__}: {error}"
            if why != trouble:
                logger.error(f"{method} failed: {why}", exc_info=error)
            trouble = why
        await asyncio.sleep(period_s)


def _wrong(stats: Any) -> str:
    """What is wrong with them; empty where nothing is."""
    if not isinstance(stats, Mapping):
        return type(stats).__name__
    for name, value in stats.items():
        if not isinstance(name, str) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"{name!r}: {value!r}"
    return ""


def _unwritable(stats: Any) -> str:
    """What is wrong with them; empty where nothing is."""
    if not isinstance(stats, dict):
        return f"{type(stats).__name__}, expected a dict"
    try:
        size = len(json.dumps(stats, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        return f"what JSON cannot have ({error})"
    if size > _MAX_TOLD_BYTES:
        return f"{size} bytes as JSON, and {_MAX_TOLD_BYTES} may be told"
    return ""


def _changed(value: Any) -> str:
    """What comes out of JSON as something else; empty where nothing does."""
    if isinstance(value, dict):
        for key, one in value.items():
            if not isinstance(key, str):
                return f"the key {key!r}, of type {type(key).__name__}"
            if wrong := _changed(one):
                return wrong
    elif isinstance(value, (list, tuple)):
        return next(filter(None, map(_changed, value)), "")
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return f"a whole number of {value.bit_length()} bits, and 64 can be told"
    return ""
