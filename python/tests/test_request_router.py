"""The classes that request routers are made of."""

import asyncio
import random

import pytest

from tyndall.serve import request_router
from tyndall.serve.context import DeploymentID
from tyndall.serve.experimental.consistent_hash_router import ConsistentHashRouter
from tyndall.serve.experimental.round_robin_router import RoundRobinRouter
from tyndall.serve.request_router import (
    NODE_ID,
    FIFOMixin,
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    PowerOfTwoChoicesRequestRouter,
    ReplicaID,
    ReplicaQueueLengthCache,
    ReplicaResult,
    RequestMetadata,
    RequestRouter,
    RunningReplica,
)

OF = DeploymentID("D", "app")


def replica(name, models=(), stats=None, max_ongoing=5, metadata=None):
    made = RunningReplica(ReplicaID(name, OF))
    made._update(max_ongoing, {"models": models, "routing_stats": stats, "metadata": metadata})
    return made


def request(model_id="", session_id="", internal_id="i"):
    metadata = RequestMetadata("r", internal_id, multiplexed_model_id=model_id, session_id=session_id)
    return PendingRequest(metadata=metadata)


def names(replicas):
    return sorted(getattr(one, "replica_id", one).unique_id for one in replicas)


class Everything(FIFOMixin, LocalityMixin, MultiplexMixin, RequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        return [candidate_replicas]


def made(cls=Everything, replicas=(), **given):
    router = cls(deployment_id=OF, **given)
    router.update_replicas(list(replicas))
    return router


def test_a_router_knows_its_replicas():
    with pytest.raises(TypeError, match="abstract"):
        RequestRouter(OF)
    router = made(replicas=[replica("a", stats={"x": 1}), replica("b", metadata={"zone": "z"})])
    assert (router.app_name, names(router.curr_replicas.values())) == ("app", ["a", "b"])
    one = router.curr_replicas[ReplicaID("a", OF)]
    assert (one.routing_stats, one.max_ongoing_requests, one.node_id) == ({"x": 1}, 5, NODE_ID)
    assert (one.actor_id, one.availability_zone, one.replica_metadata) == ("a", None, {})
    two = router.curr_replicas[ReplicaID("b", OF)]
    two.replica_metadata.clear()
    assert two.replica_metadata == {"zone": "z"}, "it is a copy"
    assert (one.is_cross_language, one.backend_http_endpoint) == (False, None)
    router.on_replica_actor_died(ReplicaID("a", OF))
    assert names(router.curr_replicas.values()) == ["b"]
    assert router.supports_rejection_protocol
    router.update_backoff_params(max_backoff_s=9)
    assert (router.initial_backoff_s, router.max_backoff_s) == (0.025, 9)


def test_who_is_known_to_be_full_is_not_available():
    now = [0.0]
    router = made(replicas=[replica("a", max_ongoing=2), replica("b", max_ongoing=2)], get_curr_time_s=lambda: now[0])
    a, b = router.curr_replicas
    cache = router.replica_queue_len_cache
    assert (names(router.select_available_replicas()), cache.get(a)) == (["a", "b"], None)
    cache._hear("proxy", {a: 1, b: 0})
    cache._hear("handle", {a: 1, b: 1})
    assert (cache.get(a), cache.get(b)) == (2, 1)
    assert asyncio.run(router.curr_replicas[a].get_queue_len(deadline_s=1)) == 2
    assert names(router.select_available_replicas()) == ["b"]
    assert names(router.select_available_replicas([replica("a", max_ongoing=2)])) == []
    # A replica of which a request came back may have others by now.
    router.on_replica_actor_unavailable(a)
    assert (cache.get(a), names(router.select_available_replicas())) == (None, ["a", "b"])
    router.on_new_queue_len_info(b, 1)
    assert (cache.get(b), names(router.select_available_replicas())) == (2, ["a"])
    now[0] = 11.0
    assert cache.get(b) is None
    router.on_new_queue_len_info(b, 2)
    router.update_replicas([replica("a")])
    assert cache.get(b) is None


def test_lengths_are_summed_over_callers_that_have_said_something_lately():
    now = [0.0]
    cache = ReplicaQueueLengthCache(staleness_timeout_s=5, get_curr_time_s=lambda: now[0])
    id = ReplicaID("a", OF)
    cache._hear("one", {id: 3})
    now[0] = 4.0
    cache._hear("two", {id: 4})
    assert cache.get(id) == 7
    now[0] = 6.0
    assert cache.get(id) == 4


def test_models_are_ranked_by_who_has_them():
    router = made(replicas=[replica("a", {"m"}), replica("b"), replica("c", {"n", "o"}), replica("d", {"m", "n"})])
    replicas = list(router.curr_replicas.values())
    assert [names(rank) for rank in router.rank_replicas_via_multiplex(replicas, "m")] == [["a", "d"], ["b"], ["c"]]
    assert [names(rank) for rank in router.rank_replicas_via_multiplex(replicas, "new")] == [[], ["b"], ["a", "c", "d"]]
    assert [names(rank) for rank in router.rank_replicas_via_multiplex([], "m")] == [[], [], []]
    router.on_replica_actor_died(ReplicaID("d", OF))
    assert names(router.rank_replicas_via_multiplex(replicas, "m")[0]) == ["a"]


def test_a_request_for_a_model_is_tried_in_turns(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_MULTIPLEXED_MODEL_ID_MATCHING_TIMEOUT_S", "30")
    router = made(replicas=[replica("a", {"m"}), replica("b"), replica("c", {"n", "o"})])
    one = request("m")
    assert names(router.apply_multiplex_routing(one)) == ["a"]
    assert names(router.apply_multiplex_routing(one)) == ["b"]
    assert one.routing_context.should_backoff
    # The first that asks for what nobody has goes elsewhere, and the others wait for it to load.
    assert names(router.apply_multiplex_routing(request("new"))) == ["b"]
    second = request("new")
    assert names(router.apply_multiplex_routing(second)) == []
    assert names(router.apply_multiplex_routing(second)) == ["b"]
    # After a while those with the fewest once, then all.
    late = request("m")
    late.routing_context.multiplexed_start_matching_time = 1.0
    assert names(router.apply_multiplex_routing(late)) == ["b"]
    assert names(router.apply_multiplex_routing(late)) == ["a", "b", "c"]
    assert names(router.apply_multiplex_routing()) == ["a", "b", "c"]


def test_on_one_machine_all_replicas_are_near():
    replicas = [replica("a"), replica("b")]
    router = made(replicas=replicas, self_node_id=NODE_ID, prefer_local_node_routing=True)
    assert [names(rank) for rank in router.rank_replicas_via_locality(replicas)] == [["a", "b"], [], []]
    one = request()
    assert names(router.apply_locality_routing(one)) == ["a", "b"]
    assert (one.routing_context.tried_same_node, one.routing_context.should_backoff) == (True, False)
    assert names(router.apply_locality_routing(one)) == ["a", "b"]
    assert one.routing_context.should_backoff
    elsewhere = made(replicas=replicas, self_node_id="other", prefer_local_node_routing=True)
    assert [names(rank) for rank in elsewhere.rank_replicas_via_locality(replicas)] == [[], [], ["a", "b"]]
    router.on_replica_actor_died(ReplicaID("a", OF))
    assert names(router.apply_locality_routing(request())) == ["b"]


def test_the_built_in_rule_draws_two():
    replicas = [replica(name, {"m"} if name == "c" else ()) for name in "abcd"]
    router = made(PowerOfTwoChoicesRequestRouter, replicas)

    def choose(one=None):
        return asyncio.run(router.choose_replicas(replicas, one))

    random.seed(1)
    drawn = {tuple(names(rank)) for _ in range(200) for rank in choose()}
    assert len(drawn) == 6 and all(len(pair) == 2 for pair in drawn)
    assert [names(rank) for rank in choose(request("m"))] == [["c"]]
    assert asyncio.run(made(PowerOfTwoChoicesRequestRouter).choose_replicas([])) == []


def first(router, replicas, one=None):
    """The replica that it would like best."""
    ranks = asyncio.run(router.choose_replicas(replicas, one))
    return ranks[0][0].replica_id.unique_id


def test_replicas_have_their_turns():
    replicas = [replica(name) for name in "abc"]
    router = made(RoundRobinRouter, replicas)
    firsts = "".join(first(router, replicas) for _ in range(6))
    assert firsts in ("abcabc", "bcabca", "cabcab")
    ranks = asyncio.run(router.choose_replicas(replicas))
    assert [len(rank) for rank in ranks] == [1, 1, 1] and len({rank[0] for rank in ranks}) == 3
    assert asyncio.run(router.choose_replicas([])) == []


def test_the_holders_of_a_model_have_turns_of_their_own():
    replicas = [replica("a", {"m"}), replica("b", {"m"}), replica("c", {"n", "o"})]
    router = made(RoundRobinRouter, replicas)
    turns = []
    for _ in range(4):
        turns.append(first(router, replicas, request("m")))
        first(router, replicas)
    assert "".join(turns) in ("abab", "baba")
    assert {first(router, replicas, request("n")) for _ in range(3)} == {"c"}
    router.update_replicas([replica("a", {"m"})])
    assert set(router._turns) == {"", "m"}


def test_a_session_stays_where_it_is():
    replicas = [replica(name) for name in "abcdef"]
    router = made(ConsistentHashRouter, replicas)
    sessions = [f"session-{n}" for n in range(300)]

    def owners(router, replicas):
        return {session: first(router, replicas, request(session_id=session)) for session in sessions}

    before = owners(router, replicas)
    assert before == owners(made(ConsistentHashRouter, reversed(replicas)), replicas)
    assert set(before.values()) == set("abcdef")
    # Where a replica goes, its sessions go elsewhere, and no others.
    router.update_replicas(replicas[1:])
    after = owners(router, replicas[1:])
    assert all((before[session] == after[session]) == (before[session] != "a") for session in sessions)
    router.on_replica_actor_died(replicas[1].replica_id)
    assert "b" not in owners(router, replicas[2:]).values()
    # One that is not to be had now is passed over.
    assert "c" not in owners(router, replicas[3:]).values()
    alone = {first(router, replicas[2:], request(internal_id=str(n))) for n in range(100)}
    assert alone == set("cdef")


def test_the_ring_has_its_options():
    replicas = [replica(name) for name in "abcdef"]
    router = ConsistentHashRouter(OF)
    router.initialize_state(num_virtual_nodes=3, num_fallback_replicas=0)
    router.update_replicas(replicas)
    assert len(router._ring) == 18
    assert len(asyncio.run(router.choose_replicas(replicas, request(session_id="s")))) == 1
    default = made(ConsistentHashRouter, replicas)
    ranks = asyncio.run(default.choose_replicas(replicas, request(session_id="s")))
    assert [len(rank) for rank in ranks] == [1, 1, 1] and len({rank[0] for rank in ranks}) == 3
    assert asyncio.run(default.choose_replicas(replicas)) == [replicas]
    assert asyncio.run(default.choose_replicas([], request(session_id="s"))) == []
    for bad in ({"num_virtual_nodes": 0}, {"num_fallback_replicas": -1}, {"num_virtual_nodes": "9"}):
        with pytest.raises(ValueError, match="write a whole number from"):
            router.initialize_state(**bad)


def test_arguments_are_read_when_they_are_asked_for():
    asked = []
    one = PendingRequest(["x"], {"y": 1})
    assert (one.args, one.kwargs, one.resolved) == (["x"], {"y": 1}, True)
    one._reads(lambda: asked.append(1) or ((2,), {"z": 3}))
    assert asked == []
    assert (one.args, one.kwargs, one.args) == ([2], {"z": 3}, [2])
    assert asked == [1]
    one._reads(None)
    assert (one.args, one.kwargs) == ([], {})


def test_a_request_ends_with_its_replica_and_a_result_when_it_is_done():
    async def run():
        one = PendingRequest()
        future = one.future
        assert one.future is future
        one.reset_future()
        assert one.future is not future

    asyncio.run(run())
    heard, result = [], ReplicaResult()
    result.add_done_callback(heard.append)
    result._done()
    result.add_done_callback(heard.append)
    assert heard == [result, result]


def test_ids_are_read_as_they_are_written():
    one = ReplicaID("a", OF)
    assert ReplicaID.from_full_id_str(one.to_full_id_str()) == one
    assert ReplicaID.is_full_id_str(one.to_full_id_str()) and not ReplicaID.is_full_id_str("a")
    assert ReplicaID.from_full_id_str("SERVE_REPLICA::D#a") == ReplicaID("a", DeploymentID("D", ""))
    for bad in ("a", "SERVE_REPLICA::a", "SERVE_REPLICA::a#b#c#d"):
        with pytest.raises(ValueError, match="no full id of a replica"):
            ReplicaID.from_full_id_str(bad)


def test_all_of_rays_names_are_there():
    from_ray = {"FIFOMixin", "LocalityMixin", "MultiplexMixin", "PendingRequest", "ReplicaID", "RequestRouter"}
    assert from_ray | {"ReplicaResult", "RunningReplica"} <= set(request_router.__all__)
