"""What replicas tell autoscaling policies and request routers of themselves."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from tyndall.serve import _controller, _stats

AUTOSCALING = {"look_back_period_s": 0.1}


ROUTER = {"request_routing_stats_period_s": 0, "request_routing_stats_timeout_s": 5}


def told(monkeypatch, answers, tell=_stats.tell, of=AUTOSCALING):
    """What is told of these answers, until they are used up."""
    reports, left = [], list(answers)

    async def record():
        if not left:
            raise asyncio.CancelledError
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(_controller, "report", lambda *what: reports.append(what))
    monkeypatch.setattr(_stats, "interval_s", lambda _: 0)

    async def run():
        try:
            await tell(record, Path("/run"), "r", of)
        except asyncio.CancelledError:
            return

    asyncio.run(run())
    assert all(where == [Path("/run"), "r"] for *where, _ in reports)
    return [what.get("metrics", what.get("stats")) for *_, what in reports], len(left)


def test_numbers_are_told_and_failures_are_passed_over(monkeypatch):
    answers = [{"a": 1}, ValueError("no"), ValueError("no"), {"a": 2.5, "b": True}]
    assert told(monkeypatch, answers) == ([{"a": 1}, {"a": 2.5, "b": True}], 0)


@pytest.mark.parametrize("bad", [3, None, {"a": "1"}, {1: 1}, {"a": float("nan")}])
def test_what_is_no_number_ends_it(monkeypatch, bad):
    assert told(monkeypatch, [bad, {"a": 1}]) == ([], 1)


def test_a_window_has_several_points():
    assert _stats.interval_s({"look_back_period_s": 30.0}) == 6.0
    assert _stats.interval_s({"look_back_period_s": 600.0}) == 10.0
    assert _stats.interval_s({"look_back_period_s": 0.001}) == 0.1


def test_routers_are_told_again_and_again(monkeypatch):
    same = {"throughput": 1, "of": ["a", None]}
    answers = [same, ValueError("no"), same, {}, {"throughput": 2}]
    assert told(monkeypatch, answers, _stats.tell_routers, ROUTER) == ([same, same, {}, {"throughput": 2}], 0)


@pytest.mark.parametrize("bad", [None, [1], {"a": {1}}, {"a": float("nan")}, {"a": "x" * (16 << 10)}])
def test_what_routers_cannot_be_told_ends_it(monkeypatch, bad):
    assert told(monkeypatch, [bad, {"a": 1}], _stats.tell_routers, ROUTER) == ([], 1)


# --- What is said once ------------------------------------------------------------------------------------------------


def metadata(answer, startup_timeout_s=600):
    async def record():
        if isinstance(answer, BaseException):
            raise answer
        await answer.wait() if isinstance(answer, asyncio.Event) else None
        return answer

    return asyncio.run(_stats.metadata(record, startup_timeout_s))


def test_a_replica_says_what_it_is():
    assert metadata(None) == metadata({}) == "{}"
    told = {"zone": "a", "of": [1, None, {"b": 0.5}], "pair": (1, 2), "most": (1 << 64) - 1}
    assert json.loads(metadata(told)) == {**told, "pair": [1, 2]}


@pytest.mark.parametrize(
    ("answer", "kind", "why"),
    [
        (["a"], TypeError, "record_replica_metadata returned list, expected a dict"),
        ({"a": {1}}, ValueError, "record_replica_metadata returned what JSON cannot have"),
        ({"a": float("inf")}, ValueError, "returned what JSON cannot have"),
        ({"a": [{1: 2}]}, ValueError, "returned the key 1, of type int"),
        ({"a": 1 << 64}, ValueError, "returned a whole number of 65 bits, and 64 can be told"),
        ({"a": "x" * (16 << 10)}, ValueError, "bytes as JSON, and 16384 may be told"),
        (LookupError("no such zone"), LookupError, "no such zone"),
        (TimeoutError("the zone does not answer"), TimeoutError, "the zone does not answer"),
    ],
)
def test_what_a_replica_cannot_say_is_an_error(answer, kind, why):
    with pytest.raises(kind, match=re.escape(why)):
        metadata(answer)


def test_a_replica_that_never_says_it_is_given_up():
    with pytest.raises(TimeoutError) as raised:
        metadata(asyncio.Event(), startup_timeout_s=0.1)
    cause, cure = str(raised.value).splitlines()
    assert cause == "record_replica_metadata has not returned for 0.09 s, and a replica starts within 0.1 s"
    assert cure == "mend what it waits for, or raise startup_timeout_s"
