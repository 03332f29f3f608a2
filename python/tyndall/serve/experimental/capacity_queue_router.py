"""A request router that counts for all who send requests what each replica may have."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from ..request_router import PendingRequest, PowerOfTwoChoicesRequestRouter, ReplicaID, ReplicaResult, RunningReplica

__all__ = ["CapacityQueueRouter"]

logger = logging.getLogger("tyndall.serve")

DEFAULT_MAX_FAULT_RETRIES: Final = 3

_REFUSED_FOR_S: Final = 1.0
"""A replica that did not take a request has no room for so long, or until one ends there."""


@dataclass
class _Waiter:
    """A request in the line."""

    request: PendingRequest
    not_for: set[ReplicaID]
    """Replicas that were not among its candidates; one that comes later is."""
    found: asyncio.Future[RunningReplica]


class CapacityQueueRouter(PowerOfTwoChoicesRequestRouter):
    """A request gets a token of the replica that has given out the fewest, and waits in line while there is none.

    A replica has `max_ongoing_requests` tokens for all proxies and handles together, so that none sends what another
    has filled it with. A token comes back when its request has ended: answered, failed, cancelled, or gone with the
    process that sent it. The tokens are here, where Ray has them in an actor; `capacity_queue_actor_name` names none.
    """

    _may_wait: ClassVar[bool] = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_fault_retries = DEFAULT_MAX_FAULT_RETRIES
        self._tokens: dict[str, ReplicaID] = {}
        """Who has which, by the request's internal id."""
        self._in_flight: dict[ReplicaID, int] = {}
        self._line: dict[str, _Waiter] = {}
        """By the same, the oldest first."""
        self._refused_until: dict[ReplicaID, float] = {}

    def initialize_state(
        self,
        capacity_queue_actor_name: str | None = None,
        max_fault_retries: int = DEFAULT_MAX_FAULT_RETRIES,
        **unknown: Any,
    ) -> None:
        name, retries = capacity_queue_actor_name, max_fault_retries
        if not isinstance(name, str) or not name:
            raise ValueError(f"capacity_queue_actor_name is {name!r}\nwrite a name into request_router_kwargs")
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"max_fault_retries is {retries!r}\nwrite a whole number from 0 on")
        if unknown:
            logger.warning(f"CapacityQueueRouter has no {', '.join(unknown)}: it has no effect")
        self._max_fault_retries = retries

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None or self._max_fault_retries == 0:
            # Who never tries again to reach the queue goes without it, as in Ray.
            return await super().choose_replicas(candidate_replicas, pending_request)
        id = pending_request.metadata.internal_request_id
        # One that is asked about again did not get what it had a token of.
        self._give_back(id)
        not_for = self._replica_id_set - {replica.replica_id for replica in candidate_replicas}
        waiter = _Waiter(pending_request, not_for, asyncio.get_running_loop().create_future())
        self._line[id] = waiter
        self._serve()
        try:
            return [[await waiter.found]]
        except asyncio.CancelledError:
            if self._line.get(id, waiter) is waiter:
                self.on_request_cancelled(id)
            raise

    # --- What is heard ------------------------------------------------------------------------------------------------

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._serve()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._refused_until.pop(replica_id, None)

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_unavailable(replica_id)
        self._refused_until[replica_id] = time.monotonic() + _REFUSED_FOR_S
        asyncio.get_running_loop().call_later(_REFUSED_FOR_S, self._serve)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        id = pending_request.metadata.internal_request_id
        if self._tokens.get(id) != replica_id:
            # It is at work there, whoever has sent it there.
            self._give_back(id)
            self._take(id, replica_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        # One that came back from there may have a token of another by now.
        if self._tokens.get(internal_request_id) == replica_id:
            self._give_back(internal_request_id)
            self._refused_until.pop(replica_id, None)
            self._serve()

    def on_request_cancelled(self, internal_request_id: str) -> None:
        self._line.pop(internal_request_id, None)
        self._give_back(internal_request_id)
        self._serve()

    def _on_lengths(self) -> None:
        self._serve()

    # --- Tokens -------------------------------------------------------------------------------------------------------

    def _take(self, id: str, replica_id: ReplicaID) -> None:
        self._tokens[id] = replica_id
        self._in_flight[replica_id] = self._in_flight.get(replica_id, 0) + 1

    def _give_back(self, id: str) -> None:
        replica_id = self._tokens.pop(id, None)
        if replica_id is not None:
            self._in_flight[replica_id] -= 1
            if not self._in_flight[replica_id]:
                del self._in_flight[replica_id]

    def _serve(self) -> None:
        """Gives those who wait what there is, the oldest first."""
        now = time.monotonic()
        self._refused_until = {id: until for id, until in self._refused_until.items() if until > now}
        for id, waiter in list(self._line.items()):
            free = [replica for replica in self._replicas.values() if self._has_room(replica)]
            if not free:
                return
            replica = self._fewest(free, waiter)
            if replica is not None:
                del self._line[id]
                self._take(id, replica.replica_id)
                if not waiter.found.done():
                    waiter.found.set_result(replica)

    def _has_room(self, replica: RunningReplica) -> bool:
        id = replica.replica_id
        return self._in_flight.get(id, 0) < replica.max_ongoing_requests and id not in self._refused_until

    def _fewest(self, free: list[RunningReplica], waiter: _Waiter) -> RunningReplica | None:
        """The one with the fewest requests; which, if there are several, is left to chance."""
        # Who asks may have requests there that went without this router, and no room for another.
        said, caller = self._replica_queue_len_cache._of, waiter.request._caller
        may = [
            replica
            for replica in free
            if replica.replica_id not in waiter.not_for
            and said(caller, replica.replica_id) < replica.max_ongoing_requests
        ]
        if not may:
            return None
        counts = [self._in_flight.get(replica.replica_id, 0) for replica in may]
        fewest = min(counts)
        return random.choice([replica for replica, count in zip(may, counts, strict=True) if count == fewest])
