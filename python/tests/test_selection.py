"""Calls for which the replica is settled first, over a router that a test holds in its hands."""

import asyncio
import threading
from concurrent.futures import Future

import pytest

from tyndall.serve._responses import END, LEFT_OUT
from tyndall.serve.context import Children, RequestContext, _serve_request_context
from tyndall.serve.exceptions import DeploymentUnavailableError, RequestCancelledError
from tyndall.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator, ReplicaSelection


class Items:
    def __init__(self, items):
        self.items = [*items, END]
        self.is_cancelled = False

    def next(self):
        future = Future()
        future.set_result(self.items.pop(0))
        return future

    def cancel(self):
        self.is_cancelled = True


class Place:
    def __init__(self):
        self.replica_id = "r1"
        self.replica_metadata = {"zone": "z"}
        self.calls = []
        self.answer = Future()
        self.items = Items(["a", "b"])
        self.times_given_back = 0

    def call(self, args, kwargs):
        self.calls.append((args, kwargs))
        return self.answer

    def stream(self, args, kwargs):
        self.calls.append((args, kwargs))
        return self.items

    def give_back(self):
        self.times_given_back += 1


class Hand:
    is_local = False

    def __init__(self):
        self.chosen = []
        self.told = []
        self.opened = Future()

    def choose_replica(self, method, args, kwargs, is_stream, options):
        self.chosen.append((method, args, kwargs, is_stream, options))
        return self.opened

    def broadcast(self, method, args, kwargs, options):
        self.told.append((method, args, kwargs, options))
        return self.opened


@pytest.fixture
def hand():
    return Hand()


@pytest.fixture
def place():
    return Place()


@pytest.fixture
def handle(hand):
    return DeploymentHandle("d", "a", router=hand)


def done(value):
    future = Future()
    future.set_result(value)
    return DeploymentResponse(future)


def failed(error):
    future = Future()
    future.set_exception(error)
    return DeploymentResponse(future)


def parts(hand, count):
    futures = [Future() for _ in range(count)]
    hand.opened.set_result(futures)
    return futures


# --- One that was chosen ----------------------------------------------------------------------------------------------


def test_a_chosen_replica_gets_the_call_with_what_was_said_when_it_was_chosen(hand, handle, place):
    async def main():
        hand.opened.set_result(place)
        asking = handle.options(method_name="ask", session_id="s")
        async with asking.choose_replica(done(1)) as chosen:
            assert (chosen.replica_id, chosen.deployment_id) == ("r1", handle.deployment_id)
            assert chosen.to_dict()["replica_metadata"] == {"zone": "z"}
            # The method of the handle that dispatches says nothing.
            response = handle.other.dispatch(chosen, done(2), three=3)
            assert isinstance(response, DeploymentResponse)
            place.answer.set_result("yes")
            assert await response == "yes"
        return response

    response = asyncio.run(main())
    ((method, args, kwargs, is_stream, options),) = hand.chosen
    assert (method, args, kwargs, is_stream, options.session_id) == ("ask", (1,), {}, False, "s")
    assert options.request_id == response.request_id
    assert place.calls == [((2,), {"three": 3})]


def test_a_place_that_is_not_used_is_given_back(hand, handle, place):
    class Fails(Exception):
        pass

    async def main():
        hand.opened.set_result(place)
        async with handle.choose_replica() as chosen:
            assert place.times_given_back == 0
        assert place.times_given_back == 1
        with pytest.raises(RuntimeError, match="place at replica r1 has been given back\\ndispatch within"):
            await handle.dispatch(chosen)
        with pytest.raises(Fails):
            async with handle.choose_replica():
                raise Fails
        assert place.times_given_back == 2

    asyncio.run(main())
    assert place.calls == []


def test_a_selection_is_dispatched_once_and_by_its_own_deployment(hand, handle, place):
    async def main():
        hand.opened.set_result(place)
        place.answer.set_result(1)
        async with handle.choose_replica() as chosen:
            for other in (DeploymentHandle("other", "a", router=hand), DeploymentHandle("d", "b", router=hand)):
                with pytest.raises(ValueError, match="not of Deployment"):
                    other.dispatch(chosen)
            assert await handle.dispatch(chosen) == 1
            with pytest.raises(RuntimeError, match="has been used by a dispatch\\nchoose again"):
                await handle.dispatch(chosen)
        with pytest.raises(ValueError, match="dispatch with the handle that chose it"):
            handle.dispatch(ReplicaSelection("r1", handle.deployment_id))

    asyncio.run(main())
    assert len(place.calls) == 1


def test_a_selection_of_a_stream_gives_a_stream(hand, handle, place):
    async def main():
        hand.opened.set_result(place)
        async with handle.options(stream=True).choose_replica() as chosen:
            items = handle.dispatch(chosen, 1)
            assert isinstance(items, DeploymentResponseGenerator)
            assert [item async for item in items] == ["a", "b"]

    asyncio.run(main())
    assert hand.chosen[0][3] and place.calls == [((1,), {})]


def test_a_dispatch_outlives_its_block_and_gives_the_place_back_where_an_argument_fails(hand, handle, place):
    async def main():
        hand.opened.set_result(place)
        late = Future()
        async with handle.choose_replica() as chosen:
            response = handle.dispatch(chosen, DeploymentResponse(late))
        assert (place.calls, place.times_given_back) == ([], 0)
        late.set_result(7)
        place.answer.set_result("yes")
        assert (await response, place.calls) == ("yes", [((7,), {})])
        async with handle.choose_replica() as chosen:
            before = place.times_given_back
            with pytest.raises(KeyError):
                await handle.dispatch(chosen, failed(KeyError("no")))
            assert place.times_given_back == before + 1

    asyncio.run(main())
    assert len(place.calls) == 1


def test_choosing_fails_with_its_router_and_its_arguments(hand, handle):
    async def main():
        with pytest.raises(KeyError):
            async with handle.choose_replica(failed(KeyError("no"))):
                pass
        assert hand.chosen == []
        hand.opened.set_exception(DeploymentUnavailableError(handle.deployment_id))
        with pytest.raises(DeploymentUnavailableError):
            async with handle.choose_replica():
                pass

    asyncio.run(main())


def test_whoever_stops_waiting_for_a_place_gets_none(hand, handle, place):
    async def main():
        async def choose():
            async with handle.choose_replica():
                pass

        waiting = asyncio.create_task(choose())
        while not hand.chosen:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert hand.opened.cancelled()
        # It comes at the moment at which nobody waits any more.
        hand.opened = Future()
        waiting = asyncio.create_task(choose())
        while len(hand.chosen) < 2:
            await asyncio.sleep(0)
        hand.opened.set_result(place)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert place.times_given_back == 1

    asyncio.run(main())


def test_a_selection_is_told_as_a_dictionary(handle):
    selection = ReplicaSelection("r", handle.deployment_id, port=80)
    assert selection.address == "127.0.0.1:80"
    assert ReplicaSelection("r", handle.deployment_id).address == "127.0.0.1"
    told = selection.to_dict()
    names = ["replica_id", "node_ip", "port", "node_id", "availability_zone", "replica_metadata"]
    assert (list(told), told["replica_id"], told["replica_metadata"]) == (names, "r", {})


# --- All that run -----------------------------------------------------------------------------------------------------


def test_a_broadcast_has_the_answers_of_all(hand, handle):
    answers = handle.broadcast("m", done(1), two=2)
    ((method, args, kwargs, options),) = hand.told
    assert (method, args, kwargs, options.request_id) == ("m", (1,), {"two": 2}, answers.request_id)
    with pytest.raises(TimeoutError, match="Timed out waiting for broadcast results"):
        answers.results(timeout_s=0)
    first, second, third = parts(hand, 3)
    first.set_result("one")
    third.set_result(LEFT_OUT)
    with pytest.raises(TimeoutError):
        answers.results(timeout_s=0)
    with pytest.raises(TimeoutError):
        asyncio.run(answers.results_async(timeout_s=0.001))
    assert not second.cancelled()
    second.set_result("two")
    assert answers.results() == answers.results(return_exceptions=True) == ["one", "two"]
    assert asyncio.run(answers.results_async(timeout_s=5)) == ["one", "two"]
    assert answers._whole.result() is None


def test_the_first_error_is_raised_before_the_others_have_answered(hand, handle):
    answers = handle.broadcast("m")
    first, second = parts(hand, 2)
    second.set_exception(ValueError("two"))
    with pytest.raises(ValueError, match="two"):
        answers.results()
    with pytest.raises(ValueError, match="two"):
        asyncio.run(answers.results_async())
    with pytest.raises(TimeoutError):
        answers.results(timeout_s=0, return_exceptions=True)
    first.set_exception(TimeoutError("the code's own"))
    one, two = answers.results(return_exceptions=True)
    assert (str(one), str(two)) == ("the code's own", "two")
    one, two = asyncio.run(answers.results_async(return_exceptions=True))
    assert (str(one), str(two)) == ("the code's own", "two")


def test_a_broadcast_to_nobody_is_an_error(hand, handle):
    answers = handle.broadcast("m")
    (only,) = parts(hand, 1)
    only.set_result(LEFT_OUT)
    for return_exceptions in (False, True):
        with pytest.raises(DeploymentUnavailableError, match="its replicas end"):
            answers.results(return_exceptions=return_exceptions)
    hand.opened = Future()
    hand.opened.set_exception(DeploymentUnavailableError(handle.deployment_id, "none runs"))
    with pytest.raises(DeploymentUnavailableError, match="none runs"):
        handle.broadcast("m").results(return_exceptions=True)
    with pytest.raises(KeyError):
        asyncio.run(handle.broadcast("m", failed(KeyError("no"))).results_async())


def test_waiting_for_a_broadcast_keeps_to_what_is_possible(handle):
    answers = handle.broadcast("m")
    with pytest.raises(ValueError, match="timeout_s must be None or non-negative"):
        answers.results(timeout_s=-1)

    async def main():
        with pytest.raises(ValueError, match="timeout_s must be None or non-negative"):
            await answers.results_async(timeout_s=-1)
        with pytest.raises(RuntimeError, match="await response.results_async"):
            answers.results()

    asyncio.run(main())


def test_a_broadcast_of_a_request_ends_with_it(hand, handle):
    children = Children()
    request = RequestContext(request_id="r", children=children)

    def asked():
        token = _serve_request_context.set(request)
        try:
            return handle.broadcast("m")
        finally:
            _serve_request_context.reset(token)

    answers, waiting = asked(), threading.Event()
    first, second = parts(hand, 2)
    second.add_done_callback(lambda _: waiting.set())
    first.set_result(1)
    children.cancel()
    assert second.cancelled() and waiting.is_set()
    with pytest.raises(RequestCancelledError):
        answers.results()
    hand.opened = Future()
    asked()
    assert hand.opened.cancelled()
