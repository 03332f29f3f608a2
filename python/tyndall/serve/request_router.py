"""Request routers: code of the application that ranks the replicas which a request may have.

A router is a class of `RequestRouter` that a deployment names in its `request_router_config`. It lives in a process of
its application, one object for each deployment, and is asked by whoever sends requests there: which replica of the best
rank is free, and who goes first when none is, is decided by those who ask. Names are Ray Serve's.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final

from .context import DeploymentID, ReplicaID

__all__ = [
    "FIFOMixin",
    "LocalityMixin",
    "MultiplexMixin",
    "PendingRequest",
    "PowerOfTwoChoicesRequestRouter",
    "ReplicaID",
    "ReplicaResult",
    "RequestRouter",
    "RunningReplica",
]

NODE_ID: Final = "local"
"""The only node there is."""

_STALE_AFTER_S: Final = 10.0
"""What a caller has said of its requests counts for so long, as in Ray."""


# --- Requests ---------------------------------------------------------------------------------------------------------


@dataclass
class RequestMetadata:
    """What is known of a request beside its arguments."""

    request_id: str
    internal_request_id: str
    """Names the request among all."""
    call_method: str = "__call__"
    route: str = ""
    """The prefix of the application that the request came to."""
    app_name: str = ""
    multiplexed_model_id: str = ""
    session_id: str = ""
    is_streaming: bool = False
    is_http_request: bool = False
    is_grpc_request: bool = False
    tracing_context: dict[str, str] | None = None


class StreamingHTTPRequest:
    """The argument of a request that came by HTTP: its head. The body goes to the replica only."""

    def __init__(self, asgi_scope: dict[str, Any]) -> None:
        self._asgi_scope = asgi_scope

    @property
    def asgi_scope(self) -> dict[str, Any]:
        """As an ASGI application gets it; `starlette.requests.Request` takes it."""
        return self._asgi_scope


@dataclass
class RequestRoutingContext:
    """What was tried for a request; the same object each time that its router is asked about it."""

    multiplexed_start_matching_time: float | None = None
    tried_fewest_multiplexed_models: bool = False
    tried_first_multiplexed_models: bool = False
    tried_same_node: bool = False
    tried_same_az: bool = False
    should_backoff: bool = False


Arguments = tuple[Sequence[Any], Mapping[Any, Any]]


class PendingRequest:
    """A request that waits for a replica. Its arguments are read when they are first asked for."""

    def __init__(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[Any, Any] | None = None,
        metadata: RequestMetadata | None = None,
        created_at: float | None = None,
        future: asyncio.Future[Any] | None = None,
        routing_context: RequestRoutingContext | None = None,
        resolved: bool = True,
    ) -> None:
        self.metadata = RequestMetadata("", "") if metadata is None else metadata
        self.created_at = time.time() if created_at is None else created_at
        self.routing_context = RequestRoutingContext() if routing_context is None else routing_context
        self.resolved = resolved
        """Responses among the arguments have been waited for."""
        self._future = future
        self._caller = ""
        """The process that asks."""
        self._arguments: tuple[list[Any], dict[Any, Any]] | None = (list(args), dict(kwargs or {}))
        self._read: Callable[[], Arguments] | None = None

    def _reads(self, read: Callable[[], Arguments] | None) -> None:
        """Arguments come from there, if anybody asks for them."""
        self._arguments, self._read = None, read

    def _both(self) -> tuple[list[Any], dict[Any, Any]]:
        if self._arguments is None:
            args, kwargs = ((), {}) if self._read is None else self._read()
            self._arguments = (list(args), dict(kwargs))
        return self._arguments

    @property
    def args(self) -> list[Any]:
        return self._both()[0]

    @property
    def kwargs(self) -> dict[Any, Any]:
        return self._both()[1]

    @property
    def future(self) -> asyncio.Future[Any]:
        """Ends with the replica that the request gets."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        return self._future

    def reset_future(self) -> None:
        self._future = None


class ReplicaResult:
    """The result of a request, as a router sees it: it knows when the replica is done, and not what it gave."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], Any]] = []
        self._is_done = False

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        """Calls it with this object when the replica is done with the request."""
        if self._is_done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def _done(self) -> None:
        self._is_done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


# --- Replicas ---------------------------------------------------------------------------------------------------------


class RunningReplica:
    """A replica that takes requests. One object for its whole life, with what was heard of it last."""

    def __init__(self, replica_id: ReplicaID, max_ongoing_requests: int = 5) -> None:
        self._replica_id = replica_id
        self._max_ongoing_requests = max_ongoing_requests
        self._multiplexed_model_ids: set[str] = set()
        self._routing_stats: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}
        self._queue_len: Callable[[ReplicaID], int | None] = lambda _: None

    def _update(self, max_ongoing_requests: int, told: Mapping[str, Any]) -> None:
        """Takes its part of a route table."""
        self._max_ongoing_requests = max_ongoing_requests
        self._multiplexed_model_ids = set(told.get("models", ()))
        self._routing_stats = dict(told.get("routing_stats") or {})
        self._metadata = dict(told.get("metadata") or {})

    @property
    def replica_id(self) -> ReplicaID:
        return self._replica_id

    @property
    def actor_id(self) -> str:
        """Names the replica's process, as Ray's actor id does."""
        return self._replica_id.unique_id

    @property
    def node_id(self) -> str:
        return NODE_ID

    @property
    def availability_zone(self) -> str | None:
        return None

    @property
    def multiplexed_model_ids(self) -> set[str]:
        """Models that it has, loaded or being loaded."""
        return self._multiplexed_model_ids

    @property
    def routing_stats(self) -> dict[str, Any]:
        """What its `record_routing_stats` returned last."""
        return self._routing_stats

    @property
    def replica_metadata(self) -> dict[str, Any]:
        """What its `record_replica_metadata` returned when it started; a copy."""
        return dict(self._metadata)

    @property
    def max_ongoing_requests(self) -> int:
        return self._max_ongoing_requests

    @property
    def is_cross_language(self) -> bool:
        return False

    @property
    def backend_http_endpoint(self) -> tuple[str, int] | None:
        """None: a replica listens on a socket of its server alone."""
        return None

    async def get_queue_len(self, *, deadline_s: float = 0.0) -> int:
        """Requests that it has, as those who send them said last; nobody is asked for it."""
        return self._queue_len(self._replica_id) or 0

    def __repr__(self) -> str:
        return f"RunningReplica({self._replica_id.unique_id!r})"


class ReplicaQueueLengthCache:
    """How many requests replicas have, as those who send them said last."""

    def __init__(
        self, *, staleness_timeout_s: float = _STALE_AFTER_S, get_curr_time_s: Callable[[], float] | None = None
    ) -> None:
        self._staleness_timeout_s = staleness_timeout_s
        self._now = time.time if get_curr_time_s is None else get_curr_time_s
        self._told: dict[str, tuple[float, dict[ReplicaID, int]]] = {}

    def get(self, replica_id: ReplicaID) -> int | None:
        """The sum of what all have said lately; None where nobody has said anything."""
        since = self._now() - self._staleness_timeout_s
        for caller in [caller for caller, (at, _) in self._told.items() if at < since]:
            del self._told[caller]
        said = [lengths[replica_id] for _, lengths in self._told.values() if replica_id in lengths]
        return sum(said) if said else None

    def update(self, replica_id: ReplicaID, queue_len: int) -> None:
        """For routers that know better."""
        _, own = self._told.get("", (0.0, {}))
        self._told[""] = (self._now(), {**own, replica_id: queue_len})

    def invalidate_key(self, replica_id: ReplicaID) -> None:
        for _, lengths in self._told.values():
            lengths.pop(replica_id, None)

    def remove_inactive_replicas(self, *, active_replica_ids: set[ReplicaID]) -> None:
        for _, lengths in self._told.values():
            for replica_id in lengths.keys() - active_replica_ids:
                del lengths[replica_id]

    def _of(self, caller: str, replica_id: ReplicaID) -> int:
        """What one caller has said."""
        _, lengths = self._told.get(caller, (0.0, {}))
        return lengths.get(replica_id, 0)

    def _hear(self, caller: str, lengths: dict[ReplicaID, int]) -> None:
        """All that one caller has."""
        self._told[caller] = (self._now(), lengths)


# --- Routers ----------------------------------------------------------------------------------------------------------


class RequestRouter(ABC):
    """Ranks the replicas that a request may have."""

    _may_wait: ClassVar[bool] = False
    """`choose_replicas` itself waits until there is a replica for the request: that it takes long is no failure."""

    def __init__(
        self,
        deployment_id: DeploymentID,
        handle_source: Any = None,
        self_actor_id: str | None = None,
        self_actor_handle: Any = None,
        use_replica_queue_len_cache: bool = True,
        get_curr_time_s: Callable[[], float] | None = None,
        create_replica_wrapper_func: Callable[..., RunningReplica] | None = None,
        initial_backoff_s: float = 0.025,
        backoff_multiplier: float = 2.0,
        max_backoff_s: float = 0.5,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._deployment_id = deployment_id
        self._handle_source = handle_source
        self._self_actor_id = self_actor_id
        self._use_replica_queue_len_cache = use_replica_queue_len_cache
        self._get_curr_time_s = time.time if get_curr_time_s is None else get_curr_time_s
        self.initial_backoff_s = initial_backoff_s
        self.backoff_multiplier = backoff_multiplier
        self.max_backoff_s = max_backoff_s
        self._replicas: dict[ReplicaID, RunningReplica] = {}
        self._replica_id_set: set[ReplicaID] = set()
        self._replicas_list: list[RunningReplica] = []
        self._replica_queue_len_cache = ReplicaQueueLengthCache(get_curr_time_s=get_curr_time_s)

    def initialize_state(self, **kwargs: Any) -> None:
        """Called once with `request_router_kwargs`, before anything is asked."""

    @abstractmethod
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas that the request may have, in ranks, the best first.

        It gets a free one of the first rank that has one, and waits where none has. This is called again for it while
        others have room, after pauses that grow.
        """

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """A request has got this replica."""

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """The replica is done with the request, however it ended."""

    def on_request_cancelled(self, internal_request_id: str) -> None:
        """A request that was asked about has ended before it had a replica."""

    def _on_lengths(self) -> None:
        """Somebody who asks has said how many requests replicas have from there."""

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """A replica takes no requests any more."""
        self._replicas.pop(replica_id, None)
        self._replica_id_set.discard(replica_id)
        self._replicas_list = list(self._replicas.values())

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        """A request that it should have had came back."""
        self._replica_queue_len_cache.invalidate_key(replica_id)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        self._replica_queue_len_cache.update(replica_id, num_ongoing_requests)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """These take requests from now on; called when they, their models, or what they say of themselves change."""
        for replica in replicas:
            replica._queue_len = self._replica_queue_len_cache.get
        self._replicas = {replica.replica_id: replica for replica in replicas}
        self._replica_id_set = set(self._replicas)
        self._replicas_list = list(replicas)
        self._replica_queue_len_cache.remove_inactive_replicas(active_replica_ids=self._replica_id_set)

    def update_backoff_params(
        self,
        initial_backoff_s: float | None = None,
        backoff_multiplier: float | None = None,
        max_backoff_s: float | None = None,
    ) -> None:
        """Has no effect on those who ask: they go by `request_router_config`."""
        self.initial_backoff_s = self.initial_backoff_s if initial_backoff_s is None else initial_backoff_s
        self.backoff_multiplier = self.backoff_multiplier if backoff_multiplier is None else backoff_multiplier
        self.max_backoff_s = self.max_backoff_s if max_backoff_s is None else max_backoff_s

    def select_available_replicas(self, candidates: list[RunningReplica] | None = None) -> list[RunningReplica]:
        """Those of them that are not known to be full."""
        length = self._replica_queue_len_cache.get
        given = self._replicas_list if candidates is None else candidates
        return [one for one in given if (length(one.replica_id) or 0) < one.max_ongoing_requests]

    @property
    def curr_replicas(self) -> dict[ReplicaID, RunningReplica]:
        return self._replicas

    @property
    def app_name(self) -> str:
        return self._deployment_id.app_name

    @property
    def replica_queue_len_cache(self) -> ReplicaQueueLengthCache:
        return self._replica_queue_len_cache

    @property
    def supports_rejection_protocol(self) -> bool:
        """Replicas always may refuse a request, which then goes elsewhere."""
        return True


class FIFOMixin:
    """Requests that may have the same replicas get them in the order of their arrival, with it or without."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class LocalityScope(str, Enum):
    NODE = "NODE"
    AVAILABILITY_ZONE = "AVAILABILITY_ZONE"


class LocalityMixin:
    """Prefers replicas that are near. On one machine all of them are."""

    _replica_id_set: set[ReplicaID]

    def __init__(
        self,
        self_node_id: str | None = None,
        prefer_local_node_routing: bool = False,
        prefer_local_az_routing: bool = False,
        self_availability_zone: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._self_node_id = self_node_id
        self._prefer_local_node_routing = prefer_local_node_routing
        self._prefer_local_az_routing = prefer_local_az_routing
        self._self_availability_zone = self_availability_zone
        self._colocated_replica_ids: defaultdict[LocalityScope, set[ReplicaID]] = defaultdict(set)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)  # type: ignore[misc]
        near: defaultdict[LocalityScope, set[ReplicaID]] = defaultdict(set)
        node, zone = self._self_node_id, self._self_availability_zone
        for replica in replicas:
            if node is not None and replica.node_id == node:
                near[LocalityScope.NODE].add(replica.replica_id)
            if zone is not None and replica.availability_zone == zone:
                near[LocalityScope.AVAILABILITY_ZONE].add(replica.replica_id)
        self._colocated_replica_ids = near

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)  # type: ignore[misc]
        for ids in self._colocated_replica_ids.values():
            ids.discard(replica_id)

    def apply_locality_routing(self, pending_request: PendingRequest | None = None) -> set[ReplicaID]:
        """Replicas for one try: those on the same node once, those in the same zone once, then all."""
        if pending_request is None:
            return self._replica_id_set
        tried = pending_request.routing_context
        tried.should_backoff = False
        near = self._colocated_replica_ids[LocalityScope.NODE]
        if self._prefer_local_node_routing and near and not tried.tried_same_node:
            tried.tried_same_node = True
            return near
        near = self._colocated_replica_ids[LocalityScope.AVAILABILITY_ZONE]
        if self._prefer_local_az_routing and near and not tried.tried_same_az:
            tried.tried_same_az = True
            return near
        tried.should_backoff = True
        return self._replica_id_set

    def rank_replicas_via_locality(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        """Three ranks: on the same node, in the same zone, elsewhere."""
        ranks: list[list[RunningReplica]] = [[], [], []]
        scopes = (LocalityScope.NODE, LocalityScope.AVAILABILITY_ZONE)
        for replica in replicas:
            near = (replica.replica_id in self._colocated_replica_ids[scope] for scope in scopes)
            ranks[next((rank for rank, is_near in enumerate(near) if is_near), 2)].append(replica)
        return ranks


class MultiplexMixin:
    """Prefers replicas that have the model which a request names."""

    _replicas: dict[ReplicaID, RunningReplica]
    _replica_id_set: set[ReplicaID]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._multiplexed_model_id_to_replica_ids: defaultdict[str, set[ReplicaID]] = defaultdict(set)
        self._multiplexed_model_id_fallback_match: set[str] = set()
        """Models that nobody has and that a request has been sent elsewhere for: the others wait for it to load."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)  # type: ignore[misc]
        holders: defaultdict[str, set[ReplicaID]] = defaultdict(set)
        for replica in replicas:
            for model_id in replica.multiplexed_model_ids:
                holders[model_id].add(replica.replica_id)
        self._multiplexed_model_id_to_replica_ids = holders

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)  # type: ignore[misc]
        for ids in self._multiplexed_model_id_to_replica_ids.values():
            ids.discard(replica_id)

    def apply_multiplex_routing(self, pending_request: PendingRequest | None = None) -> set[ReplicaID]:
        """Replicas for one try: those that have the model, then those with the fewest, and after a while all."""
        if pending_request is None:
            return self._replica_id_set
        tried, model_id = pending_request.routing_context, pending_request.metadata.multiplexed_model_id
        tried.should_backoff = True
        if not tried.multiplexed_start_matching_time:
            tried.multiplexed_start_matching_time = time.time()
        if time.time() - tried.multiplexed_start_matching_time >= _matching_timeout_s():
            if tried.tried_fewest_multiplexed_models:
                return self._replica_id_set
            tried.tried_fewest_multiplexed_models = True
            return self._with_fewest_models()
        holders = self._multiplexed_model_id_to_replica_ids.get(model_id, set())
        is_first, tried.tried_first_multiplexed_models = not tried.tried_first_multiplexed_models, True
        if is_first and holders:
            self._multiplexed_model_id_fallback_match.discard(model_id)
            return holders
        if is_first and model_id in self._multiplexed_model_id_fallback_match:
            return holders
        self._multiplexed_model_id_fallback_match.add(model_id)
        return self._with_fewest_models()

    def rank_replicas_via_multiplex(
        self, replicas: list[RunningReplica], multiplexed_model_id: str
    ) -> list[list[RunningReplica]]:
        """Three ranks: those that have the model, those with the fewest models, the others."""
        holders = self._multiplexed_model_id_to_replica_ids.get(multiplexed_model_id, set())
        fewest = self._with_fewest_models()
        ranks: list[list[RunningReplica]] = [[], [], []]
        for replica in replicas:
            id = replica.replica_id
            ranks[0 if id in holders else 1 if id in fewest else 2].append(replica)
        return ranks

    def _with_fewest_models(self) -> set[ReplicaID]:
        counts = {id: len(replica.multiplexed_model_ids) for id, replica in self._replicas.items()}
        fewest = min(counts.values(), default=0)
        return {id for id, count in counts.items() if count == fewest}


def _matching_timeout_s() -> float:
    """Drawn between once and twice what is set, as in Ray."""
    given = float(os.environ.get("RAY_SERVE_MULTIPLEXED_MODEL_ID_MATCHING_TIMEOUT_S") or 1.0)
    return random.uniform(given, 2 * given)


class PowerOfTwoChoicesRequestRouter(FIFOMixin, LocalityMixin, MultiplexMixin, RequestRouter):
    """The rule that is built in, as a class for routers that do only some things otherwise.

    A deployment that names this class itself has no process for it: those who send requests know the rule.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is not None and pending_request.metadata.multiplexed_model_id:
            ids = self.apply_multiplex_routing(pending_request)
        else:
            ids = self.apply_locality_routing(pending_request)
        of_try = [self._replicas[id] for id in ids if id in self._replicas]
        # Of the two the one with fewer requests gets it.
        return [random.sample(of_try, min(2, len(of_try)))] if of_try else []
