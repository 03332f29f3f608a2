"""The router that gives out tokens: of which replica, how many, to whom first, and when they come back."""

import asyncio
import functools
import json
from collections import Counter

import pytest
from test_request_router import OF, replica, request
from test_router_process import ask, process, table

from tyndall.serve import _routers
from tyndall.serve.context import ReplicaID
from tyndall.serve.experimental import capacity_queue_router
from tyndall.serve.experimental.capacity_queue import CapacityQueue
from tyndall.serve.experimental.capacity_queue_router import CapacityQueueRouter
from tyndall.serve.request_router import ReplicaResult

NAME = {"capacity_queue_actor_name": "queue"}


def of(name):
    return ReplicaID(name, OF)


class Line:
    """A router of replicas of these capacities, and who has what of them."""

    def __init__(self, max_ongoing=2, names="ab", **kwargs):
        self.router = CapacityQueueRouter(deployment_id=OF)
        self.router.initialize_state(**NAME, **kwargs)
        self.list(names, max_ongoing)
        self.asked = {}

    def list(self, names, max_ongoing=2):
        self.replicas = [replica(name, max_ongoing=max_ongoing) for name in names]
        self.router.update_replicas(self.replicas)

    async def ask(self, id, candidates=None):
        """Asks for a request; what is returned is its task."""
        given = [one for one in self.replicas if candidates is None or one.replica_id.unique_id in candidates]
        self.asked[id] = asyncio.ensure_future(self.router.choose_replicas(given, request(internal_id=id)))
        await settle()
        return self.asked[id]

    async def have(self):
        """Which replica each has got that has one."""
        await settle()
        done = {id: task.result() for id, task in self.asked.items() if task.done() and not task.cancelled()}
        return {id: ranks[0][0].replica_id.unique_id for id, ranks in done.items()}

    def ends(self, id, name):
        self.router.on_request_completed(of(name), id)


async def settle():
    """Lets everything go on that can."""
    for _ in range(8):
        await asyncio.sleep(0)


def in_loop(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return run


@in_loop
async def test_the_replica_with_the_fewest_requests_is_next_and_none_has_more_than_it_may():
    line = Line(max_ongoing=3, names="abc")
    for n in range(9):
        await line.ask(str(n))
        counts = Counter((await line.have()).values())
        assert sum(counts.values()) == n + 1
        assert max(counts.values()) - min(counts[name] for name in "abc") <= 1
    await line.ask("9")
    assert "9" not in await line.have()
    line.ends("4", (await line.have())["4"])
    assert (await line.have())["9"] == (await line.have())["4"]


@in_loop
async def test_which_of_those_with_as_few_is_left_to_chance():
    seen = set()
    for _ in range(60):
        line = Line(names="abc")
        await line.ask("1")
        seen |= set((await line.have()).values())
    assert seen == set("abc")


@in_loop
async def test_who_waits_is_served_in_the_order_of_arrival():
    line = Line(max_ongoing=1, names="a")
    for n in range(4):
        await line.ask(str(n))
    assert await line.have() == {"0": "a"}
    for n in range(3):
        line.ends(str(n), "a")
        assert set(await line.have()) == {str(one) for one in range(n + 2)}
    # One that goes away is passed over, and what it had is the next one's.
    await line.ask("4")
    gone = await line.ask("5")
    await line.ask("6")
    gone.cancel()
    line.router.on_request_cancelled("3")
    assert set(await line.have()) == {"0", "1", "2", "3", "4"}
    line.router.on_request_cancelled("4")
    assert "6" in await line.have()
    assert line.router._in_flight == {of("a"): 1} and not line.router._line


@in_loop
async def test_a_token_is_given_back_once_and_only_by_whom_it_was_given_to():
    line = Line(max_ongoing=1, names="ab")
    await line.ask("1")
    (had,) = (await line.have()).values()
    other = "b" if had == "a" else "a"
    # It came back from there: it is asked about anew before its end there is heard of.
    line.router.on_replica_actor_unavailable(of(had))
    await line.ask("1", candidates=other)
    assert await line.have() == {"1": other}
    line.ends("1", had)
    assert line.router._in_flight == {of(other): 1}
    line.ends("1", other)
    line.ends("1", other)
    assert line.router._in_flight == {}


@in_loop
async def test_who_is_at_work_somewhere_is_counted_there_whoever_has_sent_it():
    line = Line(max_ongoing=1, names="ab")
    line.router.on_request_routed(request(internal_id="x"), of("a"), ReplicaResult())
    await line.ask("1")
    assert await line.have() == {"1": "b"}
    await line.ask("2")
    assert "2" not in await line.have()
    line.ends("x", "a")
    assert (await line.have())["2"] == "a"
    # And where it got another one than the one of its token.
    line.router.on_request_routed(request(internal_id="2"), of("b"), ReplicaResult())
    assert line.router._in_flight == {of("b"): 2}


@in_loop
async def test_a_replica_that_refused_has_no_room_until_one_ends_there_or_for_a_second(monkeypatch):
    monkeypatch.setattr(capacity_queue_router, "_REFUSED_FOR_S", 0.05)
    line = Line(max_ongoing=2, names="a")
    await line.ask("1")
    line.router.on_replica_actor_unavailable(of("a"))
    await line.ask("2")
    assert "2" not in await line.have()
    line.ends("1", "a")
    assert "2" in await line.have()
    line.router.on_replica_actor_unavailable(of("a"))
    # Nothing ends there: it may after a while.
    await asyncio.wait_for(await line.ask("3"), 60)


@in_loop
async def test_replicas_come_and_go_and_may_have_more():
    line = Line(max_ongoing=1, names="a")
    for n in range(4):
        await line.ask(str(n))
    line.list("ab", max_ongoing=1)
    assert (await line.have())["1"] == "b"
    line.list("ab", max_ongoing=2)
    assert set(await line.have()) == {"0", "1", "2", "3"}
    line.router.on_replica_actor_died(of("a"))
    for id, name in (await line.have()).items():
        line.ends(id, name)
    assert line.router._in_flight == {}


@in_loop
async def test_only_candidates_are_chosen_and_those_that_come_later():
    line = Line(max_ongoing=1, names="ab")
    for id in ("1", "2"):
        await line.ask(id, candidates="a")
    assert await line.have() == {"1": "a"}
    # One that comes later does not wait behind a request that cannot have it.
    await line.ask("3")
    assert (await line.have())["3"] == "b"
    line.list("abc", max_ongoing=1)
    assert (await line.have())["2"] == "c"


@in_loop
async def test_without_tries_it_is_the_built_in_rule():
    line = Line(max_ongoing=1, names="ab", max_fault_retries=0)
    for n in range(4):
        await line.ask(str(n))
    assert len(await line.have()) == 4
    ranks = await line.asked["0"]
    assert sorted(one.replica_id.unique_id for one in ranks[0]) == ["a", "b"]


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [
        ({}, "capacity_queue_actor_name is None\nwrite a name"),
        ({"capacity_queue_actor_name": ""}, "capacity_queue_actor_name is ''"),
        ({**NAME, "max_fault_retries": -1}, "max_fault_retries is -1\nwrite a whole number from 0 on"),
        ({**NAME, "max_fault_retries": True}, "max_fault_retries is True"),
    ],
)
def test_what_it_is_configured_with_is_checked(kwargs, why):
    with pytest.raises(ValueError, match=why):
        CapacityQueueRouter(deployment_id=OF).initialize_state(**kwargs)


def test_there_is_no_actor_to_make():
    with pytest.raises(TypeError, match="there is no CapacityQueue\nname the class in deployment_actors"):
        CapacityQueue(acquire_timeout_s=1)


# --- In the process of routers ----------------------------------------------------------------------------------------


def tokens(routers):
    router = routers._routers["D"].router
    return {id.unique_id: count for id, count in router._in_flight.items()}, len(router._line)


async def tell(routers, path, number, caller="proxy", **news):
    body = json.dumps({"deployment": "D", "caller": caller, "number": number, **news}).encode()
    return await routers.handle(path, body)


def queued(ids="a", max_ongoing=1):
    routers = process(CapacityQueueRouter, NAME)
    told = table(*ids)
    told["deployments"][0]["max_ongoing_requests"] = max_ongoing
    routers.hear(told)
    return routers


@in_loop
async def test_who_asks_hears_that_it_waits_and_goes_on(monkeypatch):
    monkeypatch.setattr(_routers, "_WAIT_S", 0.01)
    routers = queued()
    assert await ask(routers) == (200, {"ranks": [["a"]], "hears": True, "waits": False})
    waits = (200, {"ranks": [], "hears": True, "waits": True})
    for number in (2, 3, 2, 3):
        assert await ask(routers, number=number) == waits
    assert tokens(routers) == ({"a": 1}, 2)
    await tell(routers, "/-/routed", 1, replica="a")
    await tell(routers, "/-/completed", 1, replica="a")
    # The first in the line has it, though the other asks first.
    assert await ask(routers, number=3) == waits
    assert (await ask(routers, number=2))[1]["ranks"] == [["a"]]
    await tell(routers, "/-/cancelled", 2)
    assert (await ask(routers, number=3))[1]["ranks"] == [["a"]]
    assert tokens(routers) == ({"a": 1}, 0)
    assert not routers._choosing and not routers._troubles


@in_loop
async def test_who_goes_away_while_it_asks_waits_no_longer():
    routers = queued()
    await ask(routers)
    asking = asyncio.ensure_future(ask(routers, number=2))
    await settle()
    assert tokens(routers) == ({"a": 1}, 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await settle()
    assert tokens(routers) == ({"a": 1}, 0)


@in_loop
async def test_what_a_process_had_is_free_when_it_is_gone(monkeypatch):
    monkeypatch.setattr(_routers, "_WAIT_S", 0.01)
    routers = queued(max_ongoing=2)
    held = [asyncio.ensure_future(routers.handle("/-/attend", b'{"caller": "h"}')) for _ in range(2)]
    await settle()
    for number in (1, 2, 3):
        await ask(routers, number=number, caller="h")
    await tell(routers, "/-/routed", 1, caller="h", replica="a")
    await ask(routers, number=1)
    assert tokens(routers) == ({"a": 2}, 2)
    held[0].cancel()
    await settle()
    assert tokens(routers) == ({"a": 2}, 2), "it says in two ways that it is there"
    held[1].cancel()
    await settle()
    assert tokens(routers) == ({"a": 1}, 0)
    assert (await ask(routers, number=1))[1]["ranks"] == [["a"]]
    assert not routers._running and not routers._attending


@in_loop
async def test_who_asks_has_no_room_where_it_has_requests_that_went_without_the_router(monkeypatch):
    monkeypatch.setattr(_routers, "_WAIT_S", 0.01)
    routers = queued("ab")
    for number in range(1, 20, 2):
        assert (await ask(routers, number=number, ongoing={"a": 1}))[1]["ranks"] == [["b"]]
        assert (await ask(routers, number=number + 1, ongoing={"a": 1}))[1]["waits"]
        assert (await ask(routers, number=number + 1))[1]["ranks"] == [["a"]]
        for one in (number, number + 1):
            await tell(routers, "/-/cancelled", one)
