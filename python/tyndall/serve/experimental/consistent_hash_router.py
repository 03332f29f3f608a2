"""A request router that keeps the requests of a session together."""

from __future__ import annotations

import bisect
import hashlib
import logging
from typing import Any, Final

from ..request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

__all__ = ["ConsistentHashRouter"]

logger = logging.getLogger("tyndall.serve")

_VIRTUAL_NODES: Final = 100
_FALLBACK_REPLICAS: Final = 2


class ConsistentHashRouter(RequestRouter):
    """A session's requests go to one replica, and to the next ones on the ring while that is full.

    Replicas stand on a ring at `num_virtual_nodes` places each, so that one that comes or goes moves few sessions. A
    request without a session, which the header `x-session-id` or the option `session_id` of a handle names, has a place
    of its own.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._num_virtual_nodes = _VIRTUAL_NODES
        self._num_fallback_replicas = _FALLBACK_REPLICAS
        self._ring: list[tuple[int, ReplicaID]] = []

    def initialize_state(
        self,
        num_virtual_nodes: int = _VIRTUAL_NODES,
        num_fallback_replicas: int = _FALLBACK_REPLICAS,
        **unknown: Any,
    ) -> None:
        for name, value, least in (
            ("num_virtual_nodes", num_virtual_nodes, 1),
            ("num_fallback_replicas", num_fallback_replicas, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}\nwrite a whole number from {least} on")
        if unknown:
            logger.warning(f"ConsistentHashRouter has no {', '.join(unknown)}: it has no effect")
        self._num_virtual_nodes = num_virtual_nodes
        self._num_fallback_replicas = num_fallback_replicas

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        before = self._replica_id_set
        super().update_replicas(replicas)
        if self._replica_id_set != before:
            self._place()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._place()

    def _place(self) -> None:
        places = range(self._num_virtual_nodes)
        ring = [(_hash(f"{id.unique_id}:{place}"), id) for id in self._replica_id_set for place in places]
        self._ring = sorted(ring, key=lambda one: (one[0], one[1].unique_id))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        metadata = pending_request.metadata
        known = {replica.replica_id: replica for replica in candidate_replicas}
        ids = self._from(_hash(metadata.session_id or metadata.internal_request_id), known)
        return [[known[id]] for id in ids]

    def _from(self, place: int, known: dict[ReplicaID, RunningReplica]) -> list[ReplicaID]:
        """The replicas that come after a place, each once."""
        found: dict[ReplicaID, None] = {}
        first = bisect.bisect_right(self._ring, place, key=lambda one: one[0])
        for _, id in self._ring[first:] + self._ring[:first]:
            if id in known:
                found[id] = None
            if len(found) > self._num_fallback_replicas or len(found) == len(known):
                break
        return list(found)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
