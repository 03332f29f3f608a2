"""`tyndall.serve` beside `ray.serve`: the same names, parameters and defaults, and the same behaviour of the same code.

Behaviour is compared in local testing mode, which both have and which needs no server.
"""

import asyncio
import dataclasses
import enum
import importlib
import inspect
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "python"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from test_options import BAD, GOOD  # noqa: E402

BOTH = ("ray", "tyndall")
WAIT_S = 30
OWN = "tyndall"
"""The option that Ray does not have."""


def module(of, name=""):
    return importlib.import_module(f"{of}.serve{name}")


@pytest.fixture(params=BOTH)
def serve(request, monkeypatch):
    monkeypatch.setenv("TYNDALL_ADDRESS", "http://127.0.0.1:1")
    return module(request.param)


@pytest.fixture
def exceptions(serve):
    return importlib.import_module(f"{serve.__name__}.exceptions")


# --- Names, parameters, defaults --------------------------------------------------------------------------------------


def parameters(function):
    """By name: how it is given, and its default, where both have another word for "not set"."""
    found = inspect.signature(function).parameters.items()
    return {
        name: (one.kind, "DEFAULT" if "DEFAULT" in repr(one.default) else one.default)
        for name, one in found
        if one.kind is not inspect.Parameter.VAR_KEYWORD
    }


TASK_METHODS = [
    "initialize",
    "register_task_handle",
    "start_consumer",
    "stop_consumer",
    *(f"{what}_{how}" for what in ("enqueue_task", "get_task_status", "cancel_task") for how in ("sync", "async")),
    *(f"{what}_{how}" for what in ("get_metrics", "health_check") for how in ("sync", "async")),
]


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "_run",
        "run_many",
        "_run_many",
        "start",
        "delete",
        "shutdown",
        "shutdown_async",
        "status",
        "get_app_handle",
        "get_deployment_handle",
        "get_replica_context",
        "get_multiplexed_model_id",
        "get_trace_context",
        "RunTarget",
        "Deployment.bind",
        "Deployment.options",
        "handle.DeploymentHandle.options",
        "handle.DeploymentHandle.remote",
        "handle.DeploymentHandle.broadcast",
        "handle.DeploymentHandle.choose_replica",
        "handle.DeploymentHandle.dispatch",
        "schema.ApplicationStatusOverview",
        "schema.DeploymentStatusOverview",
        "exceptions.BackPressureError",
        "exceptions.RequestCancelledError",
        "metrics.Counter",
        "metrics.Gauge",
        "metrics.Histogram",
        "task_consumer.instantiate_adapter_from_config",
        "task_consumer.task_consumer",
        "task_consumer.task_handler",
        *(f"schema.TaskProcessorAdapter.{name}" for name in TASK_METHODS),
        *(f"task_processor.CeleryTaskProcessorAdapter.{name}" for name in ("__init__", *TASK_METHODS)),
        *(f"taskiq_task_processor.TaskiqTaskProcessorAdapter.{name}" for name in ("__init__", *TASK_METHODS)),
        "request_router.LocalityMixin",
        "request_router.LocalityMixin.apply_locality_routing",
        "request_router.LocalityMixin.rank_replicas_via_locality",
        "request_router.MultiplexMixin.apply_multiplex_routing",
        "request_router.MultiplexMixin.rank_replicas_via_multiplex",
        "request_router.RequestRouter.choose_replicas",
        "request_router.RequestRouter.initialize_state",
        "request_router.RequestRouter.on_replica_actor_died",
        "request_router.RequestRouter.on_replica_actor_unavailable",
        "request_router.RequestRouter.on_request_completed",
        "request_router.RequestRouter.on_request_routed",
        "request_router.RequestRouter.select_available_replicas",
        "request_router.RequestRouter.update_replicas",
    ],
)
def test_parameters_are_the_same(name):
    ray, own = (named(of, name) for of in BOTH)
    own = parameters(own)
    if name == "Deployment.options":
        # Ray forgot one.
        del own["rolling_update_percentage"]
        del own[OWN]
    assert own == parameters(ray)


def named(of, path):
    importlib.import_module(f"{of}.serve.{path.partition('.')[0]}") if path[0].islower() and "." in path else None
    found = module(of)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def test_routers_have_the_same_names():
    ray, own = (module(of, ".request_router") for of in BOTH)
    assert set(ray.__all__) <= set(own.__all__)
    for name in ("curr_replicas", "app_name", "supports_rejection_protocol", "replica_queue_len_cache"):
        assert isinstance(getattr(ray.RequestRouter, name), property)
        assert isinstance(getattr(own.RequestRouter, name), property)
    properties = {name for name, one in vars(ray.RunningReplica).items() if isinstance(one, property)}
    # How a replica is reached is nobody's business here.
    assert properties - {"stub"} <= set(dir(own.RunningReplica))
    assert {field.name for field in dataclasses.fields(ray.PendingRequest)} <= set(dir(own.PendingRequest()))


def test_the_decorator_takes_the_same_options():
    from tyndall.serve import _options

    ray = set(inspect.signature(module("ray").deployment).parameters) - {"_func_or_class"}
    assert set(_options.CHECKS) - {OWN} | {"version"} == ray


def test_all_names_are_there():
    missing = {"get_deployment_actor"} - set(dir(module("tyndall")))
    assert not missing
    assert set(module("ray").__all__) <= set(dir(module("tyndall")))


@pytest.mark.parametrize(
    "name",
    [
        "AutoscalingConfig",
        "AutoscalingPolicy",
        "BackpressureConfig",
        "ControllerOptions",
        "HTTPOptions",
        "RequestRouterConfig",
        "gRPCOptions",
    ],
)
def test_records_have_the_same_fields_and_defaults(name):
    ray, own = (getattr(module(of, ".config"), name)() for of in BOTH)
    assert own.to_dict() == ray.model_dump()


def test_the_context_of_a_gang_has_the_same_fields():
    ray, own = (dataclasses.fields(module(of, ".gang").GangContext) for of in BOTH)
    assert [(one.name, one.default) for one in own] == [(one.name, one.default) for one in ray]


@pytest.mark.parametrize("name", ["LoggingConfig", "TracingConfig"])
def test_records_of_the_schema_have_the_same_fields(name):
    ray, own = (getattr(module(of, ".schema"), name) for of in BOTH)
    assert set(own.field_names()) == set(ray.model_fields)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("schema.TaskProcessorConfig", {"queue_name": "q", "adapter_config": None}),
        ("schema.CeleryAdapterConfig", {"broker_url": "memory://", "backend_url": "cache+memory://"}),
        ("schema.TaskResult", {"id": "1", "status": "PENDING", "result": None}),
        ("taskiq_task_processor.TaskiqAdapterConfig", {"broker_type": "nats"}),
    ],
)
def test_records_of_tasks_have_the_same_fields_and_defaults(name, given):
    ray, own = (named(of, name) for of in BOTH)
    assert own(**given).to_dict() == ray(**given).model_dump()
    for missing in given:
        for of in (ray, own):
            with pytest.raises(ValueError, match=missing):
                of(**{field: value for field, value in given.items() if field != missing})


@pytest.mark.parametrize(
    "name",
    [
        "config.AggregationFunction",
        "config.ProxyLocation",
        "config.GangPlacementStrategy",
        "config.GangRuntimeFailurePolicy",
        "schema.ApplicationStatus",
        "schema.EncodingType",
        "schema.ProxyStatus",
    ],
)
def test_words_are_the_same(name):
    of, name = name.split(".")
    ray, own = (getattr(module(package, f".{of}"), name) for package in BOTH)
    words = [{one.name: one.value for one in kind} for kind in (ray, own)]
    assert words[0] == words[1]
    assert all(issubclass(kind, enum.Enum) and issubclass(kind, str) for kind in (ray, own))


# --- Options ----------------------------------------------------------------------------------------------------------


def with_actor(name="a", **options):
    return [{"name": name, "actor_class": "m:C"} | ({"actor_options": options} if options else {})]


STRICTER = [
    ("name", ""),
    ("name", "a b"),
    ("name", "a..b"),
    ("name", "x" * 129),
    ("num_replicas", True),
    ("autoscaling_config", {"min_replica": 1}),
    ("ray_actor_options", {"runtime_env": {"env_vars": {"A": 1}}}),
    ("deployment_actors", with_actor(name="")),
    ("deployment_actors", with_actor(num_cpus=-1)),
    ("deployment_actors", with_actor(max_concurrency=0)),
    ("deployment_actors", with_actor(runtime_env={"env_vars": {"A": 1}})),
]
"""What Ray takes: names that metrics and paths cannot hold, what is no number or text, and what nobody reads. Of actors it
looks at options when they start."""


def decorated(of, name, value):
    def function():
        return None

    return module(of).deployment(**{name: value})(function)


@pytest.mark.parametrize(("name", "value"), [one for one in GOOD if one[0] != OWN])
def test_ray_takes_the_same_options(name, value):
    for of in BOTH:
        made = decorated(of, name, value)
        assert made.name == (value if name == "name" else "function")


@pytest.mark.parametrize(("name", "value", "error", "_"), [one for one in BAD if one[0] != OWN])
def test_ray_refuses_the_same_options(name, value, error, _):
    if any((name, repr(value)) == (one, repr(other)) for one, other in STRICTER):
        assert decorated("ray", name, value)
        return
    raised = []
    for of in BOTH:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            decorated(of, name, value)
        raised.append(caught.value)
    ray, own = raised
    for kind in (TypeError, ValueError, NotImplementedError):
        assert not isinstance(ray, kind) or isinstance(own, kind), f"Ray raises {ray!r}, and this {own!r}"


# --- Behaviour --------------------------------------------------------------------------------------------------------


def run(serve, app, name="default"):
    return serve.run(app, name=name, _local_testing_mode=True)


class Calculator:
    def __init__(self, start=0):
        self.value = start

    def __call__(self, x=0):
        return x + self.value

    async def double(self, x):
        return 2 * x

    def fail(self):
        raise ValueError("broken")

    def count(self, n):
        yield from range(n)

    async def count_async(self, n):
        for i in range(n):
            yield i

    def broken_count(self):
        yield 1
        raise ValueError("in the midst")


class Sum:
    def __init__(self, *parts, more):
        self.parts = [*parts, *more["deep"]]

    async def __call__(self, x):
        return sum(await asyncio.gather(*[part.remote(x) for part in self.parts]))

    async def chained(self, x):
        return await self.parts[0].remote(self.parts[1].remote(x))

    def blocking(self, x):
        return self.parts[0].remote(x).result()

    async def streamed(self, n):
        async for item in self.parts[0].options(stream=True).count.remote(n):
            yield item

    def names(self):
        return [part.deployment_name for part in self.parts]


def calculator(serve, start=0, **options):
    return serve.deployment(**options)(Calculator).bind(start)


def test_composition(serve):
    parts = [calculator(serve, n) for n in (1, 10)]
    app = serve.deployment(Sum).bind(*parts, more={"deep": [calculator(serve, 100), parts[0]]})
    handle = run(serve, app)
    assert handle.remote(1).result() == 2 + 11 + 101 + 2
    assert handle.chained.remote(1).result() == 12
    assert handle.blocking.remote(1).result() == 2
    assert list(handle.options(stream=True).streamed.remote(3)) == [0, 1, 2]
    assert handle.names.remote().result() == ["Calculator", "Calculator_1", "Calculator_2", "Calculator"]


def test_calls(serve):
    handle = run(serve, calculator(serve, 5))
    assert (handle.deployment_name, handle.app_name) == ("Calculator", "default")
    assert repr(handle) == "DeploymentHandle(deployment='Calculator')"
    assert handle.remote(1).result() == 6
    assert handle.remote(x=1).result(timeout_s=WAIT_S) == 6
    assert handle.double.remote(4).result() == 8
    assert handle.options(method_name="double").remote(4).result() == 8
    assert handle.options(stream=True).options(stream=False).remote(1).result() == 6
    response = handle.remote(1)
    assert (response.cancelled(), bool(response.request_id)) == (False, True)
    assert handle.remote(handle.remote(1)).result() == 11

    async def main():
        response = handle.remote(1)
        return await response, await response

    assert asyncio.run(main()) == (6, 6)


def test_streams(serve):
    handle = run(serve, calculator(serve)).options(stream=True)
    for method in ("count", "count_async"):
        assert list(getattr(handle, method).remote(100)) == list(range(100))
        assert list(getattr(handle, method).remote(0)) == []

        async def main(method=method):
            return [item async for item in getattr(handle, method).remote(3)]

        assert asyncio.run(main()) == [0, 1, 2]
    items = handle.broken_count.remote()
    assert next(items) == 1
    with pytest.raises(ValueError, match="in the midst"):
        next(items)


def test_errors_of_use(serve, exceptions):
    handle = run(serve, calculator(serve))
    with pytest.raises(ValueError, match="broken"):
        handle.fail.remote().result()
    with pytest.raises(ValueError, match="broken"):
        handle.remote(handle.fail.remote()).result()
    with pytest.raises(exceptions.RayServeException, match="Tried to call a method 'nope' that does not exist"):
        handle.nope.remote().result()
    for method in ("count", "count_async"):
        with pytest.raises(TypeError, match=r"You must use `handle.options\(stream=True\)`"):
            getattr(handle, method).remote(1).result()
    with pytest.raises(TypeError, match="did not return a generator"):
        next(handle.options(stream=True).remote(1))
    with pytest.raises(exceptions.RayServeException):
        handle.remote([handle.remote(1)]).result()
    with pytest.raises(RuntimeError):
        handle.remote(handle.options(stream=True).count.remote(1)).result()
    with pytest.raises(TypeError):
        handle.options(stream=True).count.remote(1).result()
    with pytest.raises(TypeError):
        handle.options(colour=1)
    with pytest.raises(RuntimeError):
        handle._init()

    async def main():
        with pytest.raises(RuntimeError, match="Sync methods should not be called from within an `asyncio` event loop"):
            handle.remote(1).result()
        with pytest.raises(TypeError):
            await handle.options(stream=True).count.remote(1)

    asyncio.run(main())


GATES = {}
"""By name, as arguments are copies: where a call has come to, and whether it may go on."""


class Waiting:
    async def __call__(self, gate):
        entered, cancelled = GATES[gate]
        entered.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.release()
            raise


class Parent:
    def __init__(self, child):
        self.child = child

    async def __call__(self, gate):
        return await self.child.remote(gate)


@pytest.mark.parametrize("depth", [0, 1])
def test_cancelling(serve, exceptions, depth):
    app = serve.deployment(Waiting).bind()
    for _ in range(depth):
        app = serve.deployment(Parent).bind(app)
    gate = f"{serve.__name__}-{depth}"
    entered, cancelled = GATES[gate] = threading.Semaphore(0), threading.Semaphore(0)
    response = run(serve, app).remote(gate)
    assert entered.acquire(timeout=WAIT_S)
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.01)
    response.cancel()
    assert cancelled.acquire(timeout=WAIT_S)
    assert response.cancelled()
    with pytest.raises(exceptions.RequestCancelledError, match="was cancelled."):
        response.result()


class Configured:
    def __init__(self):
        self.seen = None

    def reconfigure(self, config):
        self.seen = config

    def __call__(self):
        return self.seen


def test_replicas(serve, exceptions):
    configured = serve.deployment(user_config={"a": 1})(Configured).bind()
    assert run(serve, configured).remote().result() == {"a": 1}
    assert serve.get_multiplexed_model_id() == ""
    with pytest.raises(exceptions.RayServeException, match="may only be called from within"):
        serve.get_replica_context()


def test_functions(serve):
    @serve.deployment
    def greet(name="you"):
        return f"hello {name}"

    @serve.deployment
    async def wait(name):
        return name

    assert run(serve, greet.bind()).remote("me").result() == "hello me"
    assert run(serve, wait.bind()).any_name.remote("me").result() == "me"
    with pytest.raises(ValueError):
        greet.bind(1)


def test_errors_of_run(serve, exceptions):
    app = calculator(serve)
    for given, error, message in [
        ({"name": ""}, exceptions.RayServeException, "Application name must a non-empty string."),
        ({"target": "app"}, TypeError, "expects an `Application`"),
        ({"route_prefix": "a"}, ValueError, "must start with a forward slash"),
        ({"route_prefix": "/a/"}, ValueError, "may not end with a trailing '/'"),
        ({"route_prefix": "/{a}"}, ValueError, "may not contain wildcards"),
    ]:
        with pytest.raises(error, match=message):
            serve.run(**{"target": app, "_local_testing_mode": True, **given})
    with pytest.raises(ValueError, match="No applications provided."):
        serve.run_many([])
    for key in ("http_host", "http_port", "http_middlewares"):
        with pytest.raises(ValueError, match=f"{key} is deprecated"):
            serve.start(**{key: 1})
    with pytest.raises(ValueError, match="cannot be"):
        run(serve, serve.deployment(type("Bad", (), {"__init__": cannot_be})).bind())


def cannot_be(self):
    raise ValueError("cannot be")


def test_deployments_as_objects(serve):
    made = serve.deployment(name="d", num_replicas=2)(Calculator)
    assert (made.name, made.num_replicas, made.max_ongoing_requests, made.max_queued_requests) == ("d", 2, 5, -1)
    assert made.ray_actor_options == {"num_cpus": 1}
    assert (made.user_config, made.version, made.logging_config, made.init_args) == (None, None, None, ())
    assert made.func_or_class is Calculator
    assert made == serve.deployment(name="d", num_replicas=2)(Calculator)
    assert made != made.options(num_replicas=3)
    assert repr(made) == "Deployment(name=d)"
    for use in (lambda: made(), lambda: hash(made), lambda: made.options(colour=1), lambda: made.colour):
        with pytest.raises((RuntimeError, TypeError, AttributeError)):
            use()


# --- Task consumers ---------------------------------------------------------------------------------------------------


def adapter_of(serve, events):
    """A class of adapters that only says what is asked of it."""
    base = importlib.import_module(f"{serve.__name__}.schema").TaskProcessorAdapter

    def method(name):
        return lambda self, *args, **kwargs: events.append((name, args))

    names = {name: method(name) for name in base.__abstractmethods__}
    names["__init__"] = lambda self, config: events.append(("made", config.queue_name))
    names["register_task_handle"] = lambda self, func, name: events.append((name, func(2)))
    return type("Adapter", (base,), names)


def test_consumers_do_the_same_with_their_adapter(serve):
    tasks = importlib.import_module(f"{serve.__name__}.task_consumer")
    records = importlib.import_module(f"{serve.__name__}.schema")
    events = []
    adapter = adapter_of(serve, events)
    config = records.TaskProcessorConfig(queue_name="q", adapter=adapter, adapter_config=None)

    @tasks.task_consumer(task_processor_config=config)
    class Consumer:
        def __init__(self, factor):
            self.factor = factor

        @tasks.task_handler
        def b(self, x):
            return self.factor * x

        @tasks.task_handler(name="a")
        def named(self, x):
            return -self.factor * x

        def plain(self):
            pass

    assert (Consumer.__name__, Consumer.__module__) == ("Consumer", __name__)
    one = Consumer(3)
    one.initialize_callable(4)
    assert events == [("made", "q"), ("initialize", (4,)), ("b", 6), ("a", -6), ("start_consumer", ())]
    one.__del__()
    assert events[-1][0] == "stop_consumer"
    tasks.instantiate_adapter_from_config(config)
    assert events[-1] == ("initialize", (5,))


@pytest.mark.parametrize("adapter", ["no_such_module.Adapter", "json.Missing", lambda _: 5, lambda _: 1 / 0])
def test_adapters_that_cannot_be_had_end_the_same(adapter):
    raised = []
    for of in BOTH:
        config = module(of, ".schema").TaskProcessorConfig(queue_name="q", adapter=adapter, adapter_config=None)
        with pytest.raises((ImportError, AttributeError, TypeError, RuntimeError)) as caught:
            module(of, ".task_consumer").instantiate_adapter_from_config(config)
        raised.append(type(caught.value))
    assert raised[0] == raised[1]
