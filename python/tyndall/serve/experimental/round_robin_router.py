"""A request router that gives replicas their turns."""

from __future__ import annotations

import random
from typing import Any

from ..request_router import FIFOMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica

__all__ = ["RoundRobinRouter"]

_MAX_FIRST_TURN = 1 << 31


class RoundRobinRouter(FIFOMixin, MultiplexMixin, RequestRouter):
    """One replica after the other; a request whose turn falls on a full one goes to the next that has room.

    Requests for a model that some replicas have take turns among these, for each model by itself.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turns: dict[str, int] = {}
        """By model, the empty one of all others."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        held = self._multiplexed_model_id_to_replica_ids
        self._turns = {of: turn for of, turn in self._turns.items() if not of or of in held}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        among, of = candidate_replicas, ""
        model_id = "" if pending_request is None else pending_request.metadata.multiplexed_model_id
        if model_id:
            ids = self.apply_multiplex_routing(pending_request)
            if ids and ids == self._multiplexed_model_id_to_replica_ids.get(model_id):
                of = model_id
            among = [replica for replica in candidate_replicas if replica.replica_id in ids]
        if not among:
            return []
        # Routers that begin at once do not all begin with the same replica.
        turn = self._turns.setdefault(of, random.randrange(_MAX_FIRST_TURN))
        self._turns[of] = turn + 1
        first = turn % len(among)
        return [[replica] for replica in among[first:] + among[:first]]
