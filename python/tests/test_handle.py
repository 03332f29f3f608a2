"""What a call means, whoever carries it: handles and responses over a router that a test holds in its hands."""

import asyncio
import pickle
import threading
from concurrent.futures import Future

import pytest

from tyndall.serve import _router
from tyndall.serve._responses import END
from tyndall.serve.context import Children, RequestContext, _serve_request_context
from tyndall.serve.exceptions import RayServeException, RequestCancelledError
from tyndall.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator, ReplicaSelection


class Items:
    """A stream whose items a test brings."""

    def __init__(self):
        self.asked = []
        self.is_cancelled = False

    def next(self):
        self.asked.append(Future())
        return self.asked[-1]

    def cancel(self):
        self.is_cancelled = True


class Hand:
    """A router that keeps what it is given, and answers when a test says so."""

    is_local = False

    def __init__(self):
        self.calls = []
        self.futures = []
        self.streams = []

    def call(self, method, args, kwargs, options):
        self.calls.append((method, args, kwargs, options))
        self.futures.append(Future())
        return self.futures[-1]

    def stream(self, method, args, kwargs, options):
        self.calls.append((method, args, kwargs, options))
        self.streams.append(Items())
        return self.streams[-1]


@pytest.fixture
def hand():
    return Hand()


@pytest.fixture
def handle(hand):
    return DeploymentHandle("d", "a", router=hand)


def done(value):
    future = Future()
    future.set_result(value)
    return DeploymentResponse(future)


def test_a_call_goes_to_the_router(handle, hand):
    response = handle.remote(1, two=2)
    method, args, kwargs, options = hand.calls[0]
    assert (method, args, kwargs) == ("__call__", (1,), {"two": 2})
    assert options.request_id == response.request_id
    assert options.internal_request_id != options.request_id
    assert options.app_name == "a"
    hand.futures[0].set_result("answer")
    assert response.result() == "answer"
    assert response.result(timeout_s=0) == "answer"


def test_attributes_are_methods_and_options_are_copies(handle, hand):
    other = handle.options(multiplexed_model_id="m", session_id="s")
    other.method.remote()
    handle.remote()
    (method, _, _, first), (_, _, _, second) = hand.calls
    assert (method, first.multiplexed_model_id, first.session_id) == ("method", "m", "s")
    assert (second.multiplexed_model_id, second.session_id) == ("", "")
    assert other != handle
    assert other == handle.options(session_id="s", multiplexed_model_id="m")
    assert len({handle, handle.options()}) == 1
    with pytest.raises(AttributeError):
        handle.__wrapped__  # noqa: B018
    assert repr(handle) == "DeploymentHandle(deployment='d')"


def test_options_are_checked(handle):
    with pytest.raises(TypeError, match="method_name is 3"):
        handle.options(method_name=3)
    with pytest.raises(ValueError, match="one of cloudpickle, pickle, msgpack, orjson"):
        handle.options(request_serialization="xml")
    with pytest.raises(TypeError, match="foo"):
        handle.options(foo=1)
    with pytest.warns(DeprecationWarning, match="_prefer_local_routing"):
        handle.options(_prefer_local_routing=True)


def test_it_is_initialized_once_and_before_anything_else(hand):
    handle = DeploymentHandle("d", "a", router=hand)
    assert not handle.is_initialized
    with pytest.raises(TypeError, match="no 'colour'"):
        handle._init(colour=1)
    handle._init(_prefer_local_routing=True)
    assert handle.is_initialized
    for use in (lambda one: one._init(), lambda one: one.options(), lambda one: one.method, lambda one: one.remote()):
        fresh = DeploymentHandle("d", "a", router=hand)
        use(fresh)
        with pytest.raises(RuntimeError, match="has been initialized"):
            fresh._init()


def test_a_pickled_handle_is_a_name(handle):
    copied = pickle.loads(pickle.dumps(handle.options(stream=True, method_name="m")))
    assert copied == handle.options(stream=True).m
    assert copied.deployment_id == handle.deployment_id
    with pytest.raises(RayServeException, match="no way from this process to Deployment"):
        next(copied.remote())


def test_whoever_starts_a_process_says_how_replicas_are_reached(hand):
    asked = []
    _router.install(lambda deployment_id, model: asked.append(deployment_id) or hand)
    try:
        handle = DeploymentHandle("d", "a")
        handle.remote()
        handle.method.remote()
        assert [str(one) for one in asked] == ["Deployment(name='d', app='a')"]
        assert len(hand.calls) == 2
    finally:
        _router.install(None)


def test_errors_of_any_kind_come_with_the_response(handle, hand):
    response = handle.remote()
    hand.futures[0].set_exception(ValueError("bad"))
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            response.result()
    hand.call = None
    with pytest.raises(TypeError):
        handle.remote().result()


def test_it_can_be_awaited_again_and_again(handle, hand):
    async def main():
        response = handle.remote()
        threading.Thread(target=hand.futures[0].set_result, args=("answer",)).start()
        return await response, await response, await asyncio.gather(response, response)

    assert asyncio.run(main()) == ("answer", "answer", ["answer", "answer"])


def test_result_is_refused_in_an_event_loop(handle, hand):
    async def main():
        with pytest.raises(RuntimeError, match="Sync methods should not be called from within an `asyncio` event loop"):
            handle.remote().result()
        with pytest.raises(RuntimeError, match="Sync methods should not be called"):
            next(handle.options(stream=True).remote())

    asyncio.run(main())


def test_a_timeout_leaves_the_call_alone(handle, hand):
    response = handle.remote()
    with pytest.raises(TimeoutError, match="Timed out waiting for response"):
        response.result(timeout_s=0)
    assert not hand.futures[0].cancelled()
    hand.futures[0].set_result(1)
    assert response.result(timeout_s=0) == 1


def test_a_timeout_of_the_users_code_is_its_own(handle, hand):
    response = handle.remote()
    hand.futures[0].set_exception(TimeoutError("mine"))
    with pytest.raises(TimeoutError, match="mine"):
        response.result(timeout_s=5)


def test_cancel_ends_a_call_and_says_by_whom(handle, hand):
    response = handle.remote()
    response.cancel()
    response.cancel()
    assert response.cancelled()
    assert hand.futures[0].cancelled()
    with pytest.raises(RequestCancelledError, match=f"Request {response.request_id} was cancelled."):
        response.result()

    async def main():
        with pytest.raises(RequestCancelledError):
            await response

    asyncio.run(main())


def test_cancel_after_the_answer_does_nothing(handle, hand):
    response = handle.remote()
    hand.futures[0].set_result(1)
    response.cancel()
    assert response.result() == 1


def test_a_call_that_others_cancel_is_not_ones_own(handle, hand):
    response = handle.remote()
    hand.futures[0].cancel()
    assert not response.cancelled()
    with pytest.raises(asyncio.CancelledError):
        response.result()


def test_whoever_stops_waiting_cancels(handle, hand):
    async def main():
        response = handle.remote()
        waiting = asyncio.ensure_future(asyncio.wait_for(response, 60))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert hand.futures[0].cancelled()

    asyncio.run(main())


def test_responses_among_arguments_become_what_they_give(handle, hand):
    first, second = Future(), Future()
    response = handle.remote(0, DeploymentResponse(first), key=DeploymentResponse(second), other=3)
    second.set_result("two")
    assert hand.calls == [], "the call begins when all are there"
    first.set_result("one")
    assert hand.calls[0][1:3] == ((0, "one"), {"key": "two", "other": 3})
    hand.futures[0].set_result("answer")
    assert response.result() == "answer"


def test_a_failed_argument_is_the_calls_end(handle, hand):
    first, second = Future(), Future()
    response = handle.remote(DeploymentResponse(first), DeploymentResponse(second))
    second.set_exception(ValueError("upstream"))
    with pytest.raises(ValueError, match="upstream"):
        response.result()
    first.set_result(1)
    assert hand.calls == []


def test_a_cancelled_argument_is_the_calls_end(handle, hand):
    upstream = DeploymentResponse(Future(), "u")
    response = handle.remote(upstream)
    upstream.cancel()
    with pytest.raises(RequestCancelledError):
        response.result()
    assert hand.calls == []


def test_a_call_that_waits_for_arguments_can_be_cancelled(handle, hand):
    upstream = Future()
    response = handle.remote(DeploymentResponse(upstream))
    response.cancel()
    upstream.set_result(1)
    assert hand.calls == []
    assert not upstream.cancelled()
    with pytest.raises(RequestCancelledError):
        response.result()


def test_a_call_that_began_after_its_arguments_can_be_cancelled(handle, hand):
    response = handle.remote(done(1))
    response.cancel()
    assert hand.futures[0].cancelled()


def test_a_response_inside_an_argument_cannot_be_pickled(handle):
    for response in (handle.remote(), handle.options(stream=True).remote()):
        with pytest.raises(RayServeException, match="await it first"):
            pickle.dumps([response])


def test_a_stream_is_no_argument(handle, hand):
    items = handle.options(stream=True).remote()
    response = handle.remote(items)
    with pytest.raises(RuntimeError, match="cannot be an argument"):
        response.result()
    assert len(hand.calls) == 1


def test_there_are_no_object_refs(handle):
    for response in (handle.remote(), handle.options(stream=True).remote()):
        for ask in (response._to_object_ref, response._to_object_ref_sync):
            with pytest.raises(RuntimeError, match="ObjectRefs"):
                ask()


def stream_of(hand, *values):
    """A stream that has its items at once."""
    left = iter([*values, END])

    def bring():
        future = Future()
        value = next(left)
        if isinstance(value, BaseException):
            future.set_exception(value)
        else:
            future.set_result(value)
        return future

    hand.streams[-1].next = bring


def test_a_stream_is_iterated_once(handle, hand):
    items = handle.options(stream=True).remote(1)
    assert isinstance(items, DeploymentResponseGenerator)
    stream_of(hand, 1, 2)
    assert list(items) == [1, 2]
    assert list(items) == []


def test_a_stream_without_items_ends_at_once(handle, hand):
    items = handle.options(stream=True).remote()
    stream_of(hand)
    with pytest.raises(StopIteration):
        next(items)


def test_an_error_is_the_end_of_a_stream(handle, hand):
    items = handle.options(stream=True).remote()
    stream_of(hand, 1, ValueError("broken"), 2)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
    assert list(items) == []
    assert hand.streams[0].is_cancelled


def test_a_stream_in_an_event_loop(handle, hand):
    async def main():
        items = handle.options(stream=True).remote()
        stream_of(hand, "a", "b")
        return [item async for item in items] + [item async for item in items]

    assert asyncio.run(main()) == ["a", "b"]


def test_a_stream_has_no_single_answer(handle):
    items = handle.options(stream=True).remote()
    with pytest.raises(TypeError, match="has no result"):
        items.result()

    async def main():
        with pytest.raises(TypeError, match="cannot be awaited"):
            await items

    asyncio.run(main())


def test_a_cancelled_stream_says_so_and_stops(handle, hand):
    items = handle.options(stream=True).remote()

    def cancelled():
        future = Future()
        future.cancel()
        return future

    items.cancel()
    assert hand.streams[0].is_cancelled
    hand.streams[0].next = cancelled
    with pytest.raises(RequestCancelledError):
        next(items)
    assert list(items) == []


def test_a_stream_that_is_dropped_is_cancelled(handle, hand):
    items = handle.options(stream=True).remote()
    del items
    assert hand.streams[0].is_cancelled


def test_a_stream_begins_after_its_arguments(handle, hand):
    upstream = Future()
    items = handle.options(stream=True).remote(DeploymentResponse(upstream))
    assert hand.streams == []
    upstream.set_result(7)
    assert hand.calls[0][1] == (7,)
    stream_of(hand, 1)
    assert list(items) == [1]


def in_request(children=None, **fields):
    return RequestContext(request_id="r", route="/x", app_name="outer", children=children, **fields)


def test_a_call_inherits_from_the_request_but_not_its_model(handle, hand):
    token = _serve_request_context.set(in_request(multiplexed_model_id="m", session_id="s"))
    try:
        handle.remote()
    finally:
        _serve_request_context.reset(token)
    options = hand.calls[0][3]
    assert (options.request_id, options.route, options.app_name) == ("r", "/x", "outer")
    assert (options.multiplexed_model_id, options.session_id) == ("", "")


def test_calls_end_with_the_request_that_made_them(handle, hand):
    children = Children()
    token = _serve_request_context.set(in_request(children))
    try:
        response, items = handle.remote(), handle.options(stream=True).remote()
        finished = handle.remote()
        hand.futures[1].set_result(1)
    finally:
        _serve_request_context.reset(token)
    outside = handle.remote()
    children.cancel()
    assert hand.futures[0].cancelled()
    assert hand.streams[0].is_cancelled
    assert finished.result() == 1
    assert not hand.futures[2].done(), "it was made outside of the request"
    with pytest.raises(asyncio.CancelledError):
        response.result()
    assert not items.cancelled()
    assert not outside.cancelled()


def test_a_call_of_a_cancelled_request_is_cancelled_at_once(handle, hand):
    children = Children()
    children.cancel()
    token = _serve_request_context.set(in_request(children))
    try:
        handle.remote()
    finally:
        _serve_request_context.reset(token)
    assert hand.futures[0].cancelled()


def test_what_a_router_cannot_do_is_said(handle):
    for ask in (lambda: handle.broadcast("m"), handle.choose_replica):
        with pytest.raises(NotImplementedError, match="is not there yet"):
            ask()
    with pytest.raises(ValueError, match="not of Deployment"):
        handle.dispatch(ReplicaSelection("r", DeploymentHandle("other").deployment_id))


def test_shutting_down_closes_the_router(hand):
    closed = []
    hand.close = lambda: closed.append(1)
    asyncio.run(DeploymentHandle("d", router=hand).shutdown_async())
    DeploymentHandle("d", router=hand).shutdown()
    assert closed == [1, 1]
    assert DeploymentHandle("d", router=hand).running_replicas_populated()
