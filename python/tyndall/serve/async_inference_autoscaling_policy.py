"""Replicas of task consumers by the tasks that wait in their queue."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from ._broker_queues import QueueLength, queue_length
from .config import AutoscalingConfig, AutoscalingContext

__all__ = ["AsyncInferenceAutoscalingPolicy"]

logger = logging.getLogger("tyndall.serve")


class AsyncInferenceAutoscalingPolicy:
    """As many replicas as have `target_ongoing_requests` each, of the requests and of the tasks in a queue.

    The broker is asked in a thread of its own, which ends with its answer: the server waits for a policy, and a broker
    may be slow. What was last known is used meanwhile.
    """

    def __init__(
        self,
        broker_url: str,
        queue_name: str,
        rabbitmq_management_url: str | None = None,
        poll_interval_s: float = 10.0,
    ) -> None:
        """`poll_interval_s` is how often the broker is asked, at most."""
        self._told = (broker_url, queue_name, rabbitmq_management_url)
        self._queue_name = queue_name
        self._poll_interval_s = poll_interval_s
        self._ask: QueueLength | None = None
        self._length: int | None = None
        self._polled_at: float | None = None
        self._is_polling = False

    def __call__(self, ctx: AutoscalingContext) -> tuple[int | float, dict[str, Any]]:
        if self._ask is None:
            self._ask = queue_length(*self._told)
        now = time.monotonic()
        if not self._is_polling and (self._polled_at is None or now - self._polled_at >= self._poll_interval_s):
            self._polled_at, self._is_polling = now, True
            threading.Thread(target=self._poll, args=(self._ask,), name="serve-queue", daemon=True).start()
        # What the process before knew, until this one knows better.
        length = self._length if self._length is not None else int(ctx.policy_state.get("queue_length", 0))
        load = ctx.total_num_requests + length
        state = {"queue_length": length}
        if ctx.current_num_replicas == 0:
            return (1 if load > 0 else 0), state
        config = ctx.config or AutoscalingConfig()
        return load / config.get_target_ongoing_requests(), state

    def _poll(self, ask: QueueLength) -> None:
        try:
            self._length = ask()
        except Exception as error:
            logger.warning("the length of the queue %r is not known, the last one counts: %s", self._queue_name, error)
        finally:
            self._is_polling = False
