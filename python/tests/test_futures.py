"""Futures that follow others, ended by several threads at once."""

import threading
from concurrent.futures import CancelledError, Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tyndall.serve import _futures
from tyndall.serve.exceptions import RequestCancelledError

WAIT_S = 30
ENDS = st.sampled_from(["result", "error", "cancelled"])


def end(future, how):
    if how == "result":
        future.set_result(how)
    elif how == "error":
        future.set_exception(ValueError(how))
    else:
        future.cancel()


def at_once(*steps):
    """Runs each step in a thread of its own, and begins all together."""
    barrier = threading.Barrier(len(steps))

    def run(step):
        barrier.wait(WAIT_S)
        step()

    threads = [threading.Thread(target=run, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)


@settings(max_examples=100, deadline=None)
@given(st.lists(ENDS, min_size=1, max_size=5))
def test_what_waits_for_several_begins_once_and_ends(hows):
    first = [Future() for _ in hows]
    begun = []

    def begin(results):
        begun.append(results)
        inner = Future()
        inner.set_result(len(results))
        return inner

    outer = _futures.after(first, begin)
    at_once(*(lambda one=one, how=how: end(one, how) for one, how in zip(first, hows, strict=True)))
    if set(hows) == {"result"}:
        assert outer.result(WAIT_S) == len(hows)
        assert begun == [hows]
    else:
        kinds = {"error": ValueError, "cancelled": RequestCancelledError}
        assert isinstance(outer.exception(WAIT_S), tuple(kinds[how] for how in hows if how in kinds))
        assert begun == []


@settings(max_examples=100, deadline=None)
@given(ENDS, st.booleans())
def test_an_outer_future_ends_as_the_inner_one_or_is_cancelled(how, is_cancelled):
    inner, outer = Future(), Future()
    _futures.follow(inner, outer)

    def finish():
        # It may have been cancelled a moment before.
        if inner.set_running_or_notify_cancel():
            end(inner, how) if how != "cancelled" else inner.set_exception(CancelledError())

    at_once(finish, *([outer.cancel] if is_cancelled else []))
    assert outer.done()
    assert inner.done()
    if not is_cancelled and how == "result":
        assert outer.result() == "result"


def test_cancelling_reaches_the_inner_future():
    inner, outer = Future(), Future()
    _futures.follow(inner, outer)
    outer.cancel()
    assert inner.cancelled()


def test_what_begins_with_an_error_is_a_failed_future():
    def begin():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        _futures.attempt(begin).result()
