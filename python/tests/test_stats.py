"""What replicas tell autoscaling policies of themselves."""

import asyncio
from pathlib import Path

import pytest

from tyndall.serve import _stats

AUTOSCALING = {"look_back_period_s": 0.1}


def told(monkeypatch, answers):
    """What is told of these answers, until they are used up."""
    reports, left = [], list(answers)

    async def record():
        if not left:
            raise asyncio.CancelledError
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(_stats, "report", lambda *what: reports.append(what))
    monkeypatch.setattr(_stats, "interval_s", lambda _: 0)

    async def run():
        try:
            await _stats.tell(record, Path("/run"), "r", AUTOSCALING)
        except asyncio.CancelledError:
            return

    asyncio.run(run())
    assert all(where == [Path("/run"), "r"] for *where, _ in reports)
    return [what["metrics"] for *_, what in reports], len(left)


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
