"""Local testing mode: applications in this process."""

import asyncio
import contextvars
import threading

import pytest

from tyndall import serve
from tyndall.serve import _local_testing
from tyndall.serve.context import _get_serve_request_context
from tyndall.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)
from tyndall.serve.handle import DeploymentHandle

WAIT_S = 30
"""What a test waits for at most; it comes at once."""


def run(app, name="default"):
    return serve.run(app, name=name, _local_testing_mode=True)


@serve.deployment
class Calculator:
    def __init__(self, start=0):
        self.value = start

    def __call__(self, x):
        return x + self.value

    async def double(self, x):
        return 2 * x

    def fail(self, message):
        raise ValueError(message)

    def count(self, n):
        yield from range(n)

    async def count_async(self, n):
        for i in range(n):
            yield i

    def broken_count(self):
        yield 1
        raise ValueError("in the midst")

    def count_object(self, n):
        return iter_of(n)

    def none(self):
        yield from ()

    def raise_stop(self):
        raise StopIteration


def iter_of(n):
    yield from range(n)


def test_it_is_called_with_handles():
    handle = run(Calculator.bind(10))
    assert isinstance(handle, DeploymentHandle)
    assert handle.remote(1).result() == 11
    assert handle.double.remote(x=4).result() == 8
    assert handle.options(method_name="double").remote(5).result() == 10


def test_a_function_is_a_deployment():
    @serve.deployment
    async def greet(name="you"):
        return f"hello {name}"

    handle = run(greet.bind())
    assert handle.remote().result() == "hello you"
    assert handle.remote("me").result() == "hello me"
    with pytest.raises(TypeError):
        handle.remote(1, 2).result()


def test_deployments_call_each_other():
    @serve.deployment
    class Sum:
        def __init__(self, parts, bias):
            self.parts, self.bias = parts, bias["bias"]

        async def __call__(self, x):
            answers = [part.remote(x) for part in self.parts]
            return sum(await asyncio.gather(*answers)) + await self.bias.remote(0)

        def in_a_thread(self, x):
            return self.parts[0].remote(x).result()

        def chained(self, x):
            return self.parts[0].remote(self.parts[1].remote(x)).result()

    handle = run(Sum.bind([Calculator.bind(1), Calculator.bind(2)], {"bias": Calculator.bind(100)}))
    assert handle.remote(10).result() == 123
    assert handle.in_a_thread.remote(1).result() == 2
    assert handle.chained.remote(1).result() == 4


def test_errors_of_the_users_code_keep_their_class():
    handle = run(Calculator.bind())
    with pytest.raises(ValueError, match="no way"):
        handle.fail.remote("no way").result()
    with pytest.raises(ValueError, match="upstream"):
        handle.remote(handle.fail.remote("upstream")).result()
    with pytest.raises(RuntimeError, match="StopIteration"):
        handle.raise_stop.remote().result()


def test_a_method_that_is_not_there_is_told_with_those_that_are():
    handle = run(Calculator.bind())
    with pytest.raises(
        RayServeException,
        match=r"Tried to call a method 'nope' that does not exist. Available methods: \['__call__', 'broken_count'",
    ):
        handle.nope.remote().result()


def test_streams():
    handle = run(Calculator.bind()).options(stream=True)
    assert list(handle.count.remote(5)) == [0, 1, 2, 3, 4]
    assert list(handle.count_async.remote(1000)) == list(range(1000))
    assert list(handle.count_object.remote(2)) == [0, 1]
    assert list(handle.none.remote()) == []

    async def main():
        return [item async for item in handle.count.remote(300)]

    assert asyncio.run(main()) == list(range(300))


def test_an_error_in_a_stream_comes_after_the_items_before_it():
    items = run(Calculator.bind()).options(stream=True).broken_count.remote()
    assert next(items) == 1
    with pytest.raises(ValueError, match="in the midst"):
        next(items)
    assert list(items) == []


def test_stream_says_which_calls_are_streams():
    handle = run(Calculator.bind())
    for method in ("count", "count_async", "count_object"):
        with pytest.raises(
            TypeError,
            match=rf"Method '{method}' returned a generator. You must use `handle.options\(stream=True\)` to call "
            "generators on a deployment.",
        ):
            getattr(handle, method).remote(1).result()
    with pytest.raises(TypeError, match="did not return a generator."):
        next(handle.options(stream=True).remote(1))
    assert handle.options(stream=True).options(stream=False).remote(1).result() == 1


def test_arguments_are_copies():
    @serve.deployment
    def changed(given):
        given.append(1)
        return given

    given = []
    assert run(changed.bind()).remote(given).result() == [1]
    assert given == []


def test_a_response_inside_an_argument_is_refused():
    handle = run(Calculator.bind())
    for inside in ([handle.remote(1)], {"a": handle.remote(1)}):
        with pytest.raises(RayServeException, match="await it first"):
            handle.remote(inside).result()


def test_a_handle_can_be_an_argument():
    @serve.deployment
    def call(other, x):
        return other.remote(x).result()

    run(Calculator.bind(5), "calculator")
    handle = run(call.bind(), "caller")
    assert handle.remote(serve.get_app_handle("calculator"), 1).result() == 6


class Gate:
    """A deployment's call that stays until it is let go; what happens there is seen here."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.go = threading.Event()
        self.count = 0

    async def wait(self):
        self.count += 1
        self.entered.release()
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return "done"


GATE = Gate()


@pytest.fixture
def gate(monkeypatch):
    # The code of a deployment finds it by its module, as arguments are copies.
    fresh = Gate()
    monkeypatch.setitem(globals(), "GATE", fresh)
    yield fresh
    fresh.go.set()


@serve.deployment
class Waiting:
    async def __call__(self, *_):
        return await GATE.wait()

    async def items(self):
        yield 1
        await GATE.wait()

    def thread(self):
        GATE.entered.release()
        assert GATE.go.wait(WAIT_S)
        return "done"


def test_cancel_reaches_a_coroutine(gate):
    handle = run(Waiting.bind())
    cancelled, other = handle.remote(), handle.remote()
    for _ in range(2):
        assert gate.entered.acquire(timeout=WAIT_S)
    cancelled.cancel()
    with pytest.raises(RequestCancelledError):
        cancelled.result()
    assert gate.cancelled.acquire(timeout=WAIT_S)
    gate.go.set()
    assert other.result() == "done"
    assert not gate.cancelled.acquire(blocking=False)


def test_cancel_reaches_a_stream(gate):
    items = run(Waiting.bind()).options(stream=True).items.remote()
    assert next(items) == 1
    assert gate.entered.acquire(timeout=WAIT_S)
    items.cancel()
    assert gate.cancelled.acquire(timeout=WAIT_S)
    with pytest.raises(RequestCancelledError):
        next(items)


def test_a_dropped_stream_ends(gate):
    items = run(Waiting.bind()).options(stream=True).items.remote()
    assert next(items) == 1
    assert gate.entered.acquire(timeout=WAIT_S)
    del items
    assert gate.cancelled.acquire(timeout=WAIT_S)


@serve.deployment
class Parent:
    def __init__(self, child):
        self.child = child

    async def __call__(self):
        return await self.child.remote()

    async def forgotten(self):
        self.response = self.child.remote()
        await asyncio.Event().wait()

    async def stream(self):
        async for item in self.child.options(stream=True).items.remote():
            yield item

    def thread(self):
        return self.child.remote().result()


@pytest.mark.parametrize("method", ["__call__", "forgotten", "thread"])
def test_cancel_reaches_what_a_request_has_called(gate, method):
    handle = run(Parent.bind(Waiting.bind()))
    response = handle.options(method_name=method).remote()
    assert gate.entered.acquire(timeout=WAIT_S)
    response.cancel()
    assert gate.cancelled.acquire(timeout=WAIT_S)


def test_cancel_reaches_streams_that_a_request_has_opened(gate):
    items = run(Parent.bind(Waiting.bind())).options(stream=True).stream.remote()
    assert next(items) == 1
    assert gate.entered.acquire(timeout=WAIT_S)
    items.cancel()
    assert gate.cancelled.acquire(timeout=WAIT_S)


def test_a_cancelled_request_that_waited_is_never_begun(gate):
    handle = run(Waiting.options(max_ongoing_requests=1).bind())
    first = handle.remote()
    assert gate.entered.acquire(timeout=WAIT_S)
    waiting, last = handle.remote(), handle.remote()
    waiting.cancel()
    gate.go.set()
    assert (first.result(), last.result()) == ("done", "done")
    assert gate.count == 2
    with pytest.raises(RequestCancelledError):
        waiting.result()


def test_a_full_queue_refuses(gate):
    options = {"max_ongoing_requests": 1, "max_queued_requests": 1}
    config = {"status_code": 429, "retry_after_s": 3}
    handle = run(Waiting.options(**options, backpressure_config=config).bind())
    first = handle.remote()
    assert gate.entered.acquire(timeout=WAIT_S)
    second, third = handle.remote(), handle.remote()
    with pytest.raises(BackPressureError, match=r"num_queued_requests=1, max_queued_requests=1") as refused:
        third.result()
    assert (refused.value.status_code, refused.value.retry_after_s) == (429, 3)
    gate.go.set()
    assert (first.result(), second.result()) == ("done", "done")


def test_code_in_threads_does_not_hold_up_the_loop(gate):
    handle = run(Waiting.bind())
    blocked = handle.thread.remote()
    assert gate.entered.acquire(timeout=WAIT_S)
    other = handle.remote()
    assert gate.entered.acquire(timeout=WAIT_S)
    with pytest.raises(TimeoutError):
        blocked.result(timeout_s=0)
    gate.go.set()
    assert (blocked.result(), other.result()) == ("done", "done")


def test_without_threads_it_runs_on_the_loop(monkeypatch):
    @serve.deployment
    class Where:
        def __call__(self):
            return threading.current_thread().name

        def items(self):
            yield threading.current_thread().name

    assert run(Where.bind()).remote().result().startswith("serve-method")
    monkeypatch.setenv("RAY_SERVE_RUN_SYNC_IN_THREADPOOL", "0")
    handle = run(Where.bind())
    assert handle.remote().result() == "serve-Where"
    assert list(handle.options(stream=True).items.remote()) == ["serve-Where"]


VARIABLE = contextvars.ContextVar("variable", default="none")


@serve.deployment
class Context:
    def __init__(self):
        self.at_start = serve.get_replica_context().deployment

    def __call__(self):
        request, replica = _get_serve_request_context(), serve.get_replica_context()
        return {
            "request_id": request.request_id,
            "model": serve.get_multiplexed_model_id(),
            "session": request.session_id,
            "app": replica.app_name,
            "deployment": replica.deployment,
            "at_start": self.at_start,
            "object": replica.servable_object is self,
            "rank": (replica.rank.rank, replica.world_size),
            "variable": VARIABLE.get(),
        }

    async def on_the_loop(self):
        return self()

    def items(self):
        yield VARIABLE.get()
        VARIABLE.set("mine")
        yield VARIABLE.get()
        yield serve.get_multiplexed_model_id()

    async def items_on_the_loop(self):
        yield VARIABLE.get()
        VARIABLE.set("mine")
        yield VARIABLE.get()
        yield serve.get_multiplexed_model_id()

    async def child(self):
        own = _get_serve_request_context().request_id
        return own, await serve.get_deployment_handle("Context").remote()


def test_the_context_is_that_of_the_request_and_the_replica():
    VARIABLE.set("the caller's")
    handle = run(Context.bind(), "app").options(multiplexed_model_id="m", session_id="s")
    for method in ("__call__", "on_the_loop"):
        response = handle.options(method_name=method).remote()
        assert response.result() == {
            "request_id": response.request_id,
            "model": "m",
            "session": "s",
            "app": "app",
            "deployment": "Context",
            "at_start": "Context",
            "object": True,
            "rank": (0, 1),
            "variable": "none",
        }
    for method in ("items", "items_on_the_loop"):
        assert list(getattr(handle.options(stream=True), method).remote()) == ["none", "mine", "m"]
    own, child = handle.child.remote().result()
    assert child["request_id"] == own
    assert child["model"] == "", "a call does not inherit the model"
    assert serve.get_multiplexed_model_id() == ""
    with pytest.raises(RayServeException, match="within a Serve replica"):
        serve.get_replica_context()


def test_a_constructor_may_be_a_coroutine_and_call_others():
    @serve.deployment
    class Async:
        async def __init__(self, other):
            self.value = await other.remote(1)

        def __call__(self):
            return self.value

    assert run(Async.bind(Calculator.bind(41))).remote().result() == 42


def test_a_constructor_may_ask_for_handles_by_name():
    @serve.deployment
    class Asking:
        async def __init__(self, _):
            self.value = await serve.get_deployment_handle("Calculator").remote(1)

        def __call__(self):
            return self.value

    assert run(Asking.bind(Calculator.bind(1))).remote().result() == 2


def test_a_constructor_that_fails_is_told_and_nothing_runs():
    stopped = []

    @serve.deployment
    class Callee:
        def __del__(self):
            stopped.append("callee")

    @serve.deployment
    class Bad:
        def __init__(self, callee):
            raise ValueError("cannot be")

    with pytest.raises(ValueError, match="cannot be"):
        run(Bad.bind(Callee.bind()))
    assert stopped == ["callee"]
    with pytest.raises(RayServeException, match="There is no Serve instance running"):
        serve.get_app_handle("default")


def test_user_config_is_handed_on():
    @serve.deployment
    class Configured:
        def __init__(self):
            self.seen = []

        def reconfigure(self, config):
            self.seen.append(config)

        def __call__(self):
            return self.seen

    assert run(Configured.options(user_config={"a": 1}).bind()).remote().result() == [{"a": 1}]
    assert run(Configured.bind()).remote().result() == []

    @serve.deployment
    class Ranked(Configured.func_or_class):
        async def reconfigure(self, config, rank):
            self.seen.append((config, rank.rank))

    assert run(Ranked.bind()).remote().result() == [(None, 0)]
    with pytest.raises(RayServeException, match="no method `reconfigure`"):
        run(Calculator.options(user_config=1).bind())


def test_a_health_check_that_fails_is_a_failed_start():
    @serve.deployment
    class Ill:
        def check_health(self):
            raise RuntimeError("ill")

    with pytest.raises(RuntimeError, match="ill"):
        run(Ill.bind())


def test_objects_hear_of_their_end_once_and_callers_before_callees():
    ends = []

    @serve.deployment
    class Callee:
        def __del__(self):
            ends.append("callee")

    @serve.deployment
    class Caller:
        def __init__(self, callee):
            self.callee = callee

        async def __del__(self):
            ends.append("caller")

    handle = run(Caller.bind(Callee.bind()))
    serve.delete("default")
    assert ends == ["caller", "callee"]
    with pytest.raises(DeploymentUnavailableError, match="does not run in this process"):
        handle.remote().result()


def test_an_application_takes_the_place_of_the_one_before():
    first = run(Calculator.bind(1))
    run(Calculator.bind(2))
    assert first.remote(0).result() == 2
    run(Calculator.bind(3), "other")
    assert serve.get_app_handle("default").remote(0).result() == 2
    assert serve.get_app_handle("other").remote(0).result() == 3
    assert serve.get_deployment_handle("Calculator", "other").remote(0).result() == 3


def test_the_end_of_an_application_cancels_what_runs(gate):
    response = run(Waiting.bind()).remote()
    assert gate.entered.acquire(timeout=WAIT_S)
    _local_testing.shutdown()
    with pytest.raises(asyncio.CancelledError):
        response.result()
    assert gate.cancelled.acquire(timeout=WAIT_S)


def test_a_broadcast_has_one_replica():
    handle = run(Calculator.bind(1))
    assert handle.broadcast("__call__", 1).results() == [2]
    with pytest.raises(NotImplementedError, match="local testing mode"):
        handle.choose_replica()


def test_several_applications_at_once():
    targets = [serve.RunTarget(Calculator.bind(n), name=f"app{n}", route_prefix=f"/{n}") for n in (1, 2)]
    handles = serve.run_many(targets, _local_testing_mode=True)
    assert [handle.remote(0).result() for handle in handles] == [1, 2]


def test_the_environment_can_force_it(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_FORCE_LOCAL_TESTING_MODE", "1")
    assert serve.run(Calculator.bind(1)).remote(1).result() == 2


def test_what_it_does_not_look_at_is_warned_of(warned):
    run(Calculator.options(ray_actor_options={"num_gpus": 1, "runtime_env": {"env_vars": {"A": "b"}}}).bind())
    assert [one.split(": ")[1].split(" ")[0] for one in warned()] == ["num_gpus", "runtime_env"]


def test_what_a_server_would_refuse_runs_here():
    scaling = {"policy": {"policy_function": "tyndall.policies:shared_budget"}}
    assert run(Calculator.options(autoscaling_config=scaling).bind()).remote(1).result() == 1
