"""Task consumers in one process: decorators, records, adapters of one's own, and the two that are there."""

import asyncio
import queue
import subprocess
import sys
import threading
import time
import types

import pytest

from tyndall import serve
from tyndall.serve._taskiq_worker import backoff_s
from tyndall.serve.schema import (
    AsyncCapability,
    CeleryAdapterConfig,
    TaskProcessorAdapter,
    TaskProcessorConfig,
    TaskResult,
)
from tyndall.serve.task_consumer import instantiate_adapter_from_config, task_consumer, task_handler
from tyndall.serve.task_processor import CeleryTaskProcessorAdapter
from tyndall.serve.taskiq_task_processor import TaskiqAdapterConfig, TaskiqTaskProcessorAdapter

WAIT_S = 60


def until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return value


class Threads(TaskProcessorAdapter):
    """An adapter as a user writes it: a thread takes tasks from a queue of this process."""

    tasks = queue.Queue()
    events = []

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.handlers = {}

    def initialize(self, consumer_concurrency=5):
        self.events.append(("initialize", consumer_concurrency))

    def register_task_handle(self, func, name=None):
        self.handlers[name] = func

    def enqueue_task_sync(self, task_name, args=None, kwargs=None, **options):
        answer = queue.Queue()
        self.tasks.put((task_name, args or (), kwargs or {}, answer))
        return TaskResult(id="1", status="PENDING", result=answer)

    def get_task_status_sync(self, task_id):
        return TaskResult(id=task_id, status="PENDING", result=None)

    def start_consumer(self, **kwargs):
        def run():
            while (task := self.tasks.get()) is not None:
                name, args, kwargs, answer = task
                answer.put(self.handlers[name](*args, **kwargs))

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        self.events.append(("start", sorted(self.handlers)))

    def stop_consumer(self, timeout=10.0):
        self.tasks.put(None)
        self.thread.join(WAIT_S)
        self.events.append(("stop", timeout))

    def cancel_task_sync(self, task_id):
        raise NotImplementedError

    def get_metrics_sync(self):
        return {}

    def health_check_sync(self):
        return []

    def check_consumer(self):
        self.events.append(("check", None))


@pytest.fixture(autouse=True)
def _anew(monkeypatch):
    monkeypatch.setattr(Threads, "events", [])
    monkeypatch.setattr(Threads, "tasks", queue.Queue())


def config(adapter=Threads, adapter_config=None, **given):
    return TaskProcessorConfig(queue_name="q", adapter=adapter, adapter_config=adapter_config, **given)


CELERY = {"broker_url": "memory://", "backend_url": "cache+memory://"}


# --- Consumers --------------------------------------------------------------------------------------------------------


def test_a_consumer_begins_and_ends_with_its_replica():
    events = Threads.events

    @serve.deployment(max_ongoing_requests=7, user_config={"word": "hi"}, graceful_shutdown_timeout_s=3)
    @task_consumer(task_processor_config=config())
    class Consumer:
        """What it is for."""

        def __init__(self, name):
            self.name = name

        def reconfigure(self, given):
            events.append(("reconfigure", given["word"]))

        @task_handler
        def greet(self, word):
            return f"{word} {self.name} of {serve.get_replica_context().deployment}"

        @task_handler(name="named")
        def another(self):
            return self.greet("named")

        def not_a_handler(self):
            return "called"

        async def __del__(self):
            events.append(("del", None))

    assert (Consumer.name, Consumer.func_or_class.__doc__) == ("Consumer", "What it is for.")
    handle = serve.run(Consumer.bind("you"), _local_testing_mode=True)
    handlers = ["greet", "named"]
    begun = [("reconfigure", "hi"), ("initialize", 7), ("start", handlers), ("check", None)]
    assert Threads.events == begun
    producer = instantiate_adapter_from_config(config())
    assert Threads.events[4:] == [("initialize", 5)]
    assert producer.enqueue_task_sync("greet", ["hello"]).result.get(timeout=WAIT_S) == "hello you of Consumer"
    assert producer.enqueue_task_sync("named").result.get(timeout=WAIT_S) == "named you of Consumer"
    assert handle.not_a_handler.remote().result() == "called"
    serve.delete("default")
    # What it has in `__del__` is no longer used by then, and it happens once.
    assert Threads.events[5:] == [("stop", 3), ("del", None)]


def test_a_consumer_can_be_tried_without_a_replica():
    @task_consumer(task_processor_config=config())
    class Consumer:
        @task_handler
        def task(self):
            return "done"

    one = Consumer()
    one.initialize_callable(5)
    assert Threads.events == [("initialize", 5), ("start", ["task"])]
    assert one.task() == "done"
    assert isinstance(one._adapter, Threads)
    one.__del__()
    assert Threads.events[2:] == [("stop", 10.0)]
    # One that never began has nothing to end.
    Consumer()
    assert len(Threads.events) == 3


def test_a_consumer_of_a_consumer_has_the_handlers_of_both():
    @task_consumer(task_processor_config=config())
    class Base:
        @task_handler
        def one(self):
            return 1

    @task_consumer(task_processor_config=config())
    class Consumer(Base):
        @task_handler
        def two(self):
            return 2

    one = Consumer()
    one.initialize_callable(1)
    assert Threads.events[1] == ("start", ["one", "two"])
    one._stop_consumer()
    one._stop_consumer()
    assert [event for event, _ in Threads.events].count("stop") == 1


def test_handlers_that_cannot_be_told_apart_are_refused(warned):
    @task_consumer(task_processor_config=config())
    class Twice:
        @task_handler(name="same")
        def one(self):
            pass

        @task_handler(name="same")
        def two(self):
            pass

    with pytest.raises(ValueError, match="'one' and 'two' both handle tasks named 'same'\ngive one"):
        Twice().initialize_callable(1)

    @task_consumer(task_processor_config=config())
    class Without:
        pass

    one = Without()
    one.initialize_callable(1)
    assert any("'Without' has no handler" in line for line in warned())
    one._stop_consumer()


@pytest.mark.parametrize("name", ["", "  ", 5, b"task"])
def test_names_of_tasks_are_texts(name):
    with pytest.raises(ValueError, match="the name of a task is .*\nuse a text"):
        task_handler(name=name)


# --- Records ----------------------------------------------------------------------------------------------------------


def test_records_have_their_defaults():
    made = TaskProcessorConfig(queue_name="q", adapter_config=None)
    assert made.adapter == "ray.serve.task_processor.CeleryTaskProcessorAdapter"
    assert (made.max_retries, made.failed_task_queue_name, made.unprocessable_task_queue_name) == (3, None, None)
    celery = CeleryAdapterConfig(**CELERY)
    assert (celery.app_custom_config, celery.task_custom_config, celery.broker_transport_options) == (None, None, None)
    taskiq = TaskiqAdapterConfig(broker_type="redis_list")
    assert (taskiq.broker_kwargs, taskiq.result_backend_url) == (None, None)
    assert TaskResult(id="a", status="b", result=None).created_at is None


@pytest.mark.parametrize(
    ("of", "fields", "message"),
    [
        (TaskProcessorConfig, {"adapter_config": None}, "TaskProcessorConfig.queue_name is missing"),
        (TaskProcessorConfig, {"queue_name": "q"}, "TaskProcessorConfig.adapter_config is missing"),
        (TaskProcessorConfig, {"queue_name": "q", "adapter_config": None, "adapter": 5}, "adapter is 5"),
        (TaskProcessorConfig, {"queue_name": "q", "adapter_config": None, "max_retries": -1}, "max_retries is -1"),
        (CeleryAdapterConfig, {"broker_url": "memory://"}, "CeleryAdapterConfig.backend_url is missing"),
        (CeleryAdapterConfig, {**CELERY, "broker": 1}, "'broker' is no field"),
        (TaskResult, {"id": 1, "status": "", "result": None}, "TaskResult.id is 1"),
    ],
)
def test_wrong_records_are_refused(of, fields, message):
    with pytest.raises(ValueError, match=message):
        of(**fields)


# --- Adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [Threads, f"{__name__}.Threads", f"{__name__}:Threads"])
def test_adapters_are_classes_or_their_paths(adapter):
    assert isinstance(instantiate_adapter_from_config(config(adapter)), Threads)


def raising(_):
    raise OSError("no way")


class Unready(Threads):
    def initialize(self, consumer_concurrency=5):
        raise OSError("no way")


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (config("nodots"), ValueError, "TaskProcessorConfig.adapter is 'nodots'"),
        (config("no_such_module.Adapter"), ImportError, "no_such_module"),
        (config(f"{__name__}.Missing"), AttributeError, "Missing"),
        (config(raising), RuntimeError, "the adapter raising cannot be made: no way"),
        (config(Unready), RuntimeError, "the adapter Unready cannot be made ready: no way"),
        (config(dict.fromkeys), RuntimeError, "the adapter fromkeys cannot be made: "),
        (config(lambda _: 5), TypeError, "gives int, which is no adapter\nmake it"),
        (
            config(CeleryTaskProcessorAdapter),
            RuntimeError,
            "adapter_config is of type NoneType\nmake it a CeleryAdapterConfig",
        ),
        (
            config(TaskiqTaskProcessorAdapter),
            RuntimeError,
            "adapter_config is of type NoneType\nmake it a TaskiqAdapterConfig",
        ),
        (
            config(
                CeleryTaskProcessorAdapter, CeleryAdapterConfig(**CELERY, app_custom_config={"worker_pool": "solo"})
            ),
            RuntimeError,
            r"\['worker_pool'\], which cannot be changed",
        ),
        (
            config(TaskiqTaskProcessorAdapter, TaskiqAdapterConfig(broker_type="post")),
            RuntimeError,
            "there is no broker_type 'post'\nuse one of redis_stream, ",
        ),
        (
            config(TaskiqTaskProcessorAdapter, TaskiqAdapterConfig(broker_type="redis_list_sentinel")),
            RuntimeError,
            "broker_kwargs of 'redis_list_sentinel' lack sentinels, master_name",
        ),
        (
            config(TaskiqTaskProcessorAdapter, TaskiqAdapterConfig(broker_type="rabbitmq")),
            RuntimeError,
            "there is no module taskiq_aio_pika\ninstall it .*pip install taskiq-aio-pika",
        ),
    ],
)
def test_adapters_that_cannot_be_had_say_why(given, kind, message):
    with pytest.raises(kind, match=message):
        instantiate_adapter_from_config(given)


@pytest.mark.parametrize(
    ("kind", "name", "kwargs", "made"),
    [
        ("redis_list", "taskiq_redis.ListQueueBroker", {"url": "u"}, {"url": "u", "queue_name": "q"}),
        (
            "redis_stream",
            "taskiq_redis.RedisStreamBroker",
            {"url": "u"},
            {"xread_count": 1, "url": "u", "queue_name": "q"},
        ),
        ("rabbitmq", "taskiq_aio_pika.AioPikaBroker", None, {"queue_name": "q"}),
        ("nats", "taskiq_nats.PullBasedJetStreamBroker", {"servers": []}, {"servers": [], "subject": "q"}),
        (
            "kafka",
            "taskiq_aio_kafka.AioKafkaBroker",
            {"bootstrap_servers": "b", "kafka_topic": "other"},
            {
                "bootstrap_servers": "b",
                "kafka_topic": "q",
            },
        ),
    ],
)
def test_brokers_of_taskiq_get_their_queue(monkeypatch, kind, name, kwargs, made):
    module, _, attribute = name.partition(".")
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{attribute: lambda **given: given}))
    given = TaskiqAdapterConfig(broker_type=kind, broker_kwargs=kwargs)
    assert instantiate_adapter_from_config(config(TaskiqTaskProcessorAdapter, given))._broker == made


def test_an_adapter_has_no_coroutines_unless_it_says_so():
    adapter = Threads(config())
    for capability in AsyncCapability:
        assert not adapter.supports_async_capability(capability)
        call = getattr(adapter, f"{capability.name.lower()}_async")
        args = () if capability.name in ("GET_METRICS", "HEALTH_CHECK") else ("1",)
        with pytest.raises(NotImplementedError, match=f"Threads has no {capability.name.lower()}_async"):
            asyncio.run(call(*args))
    assert not CeleryTaskProcessorAdapter.async_capabilities
    assert set(AsyncCapability) - TaskiqTaskProcessorAdapter.async_capabilities == {AsyncCapability.CANCEL_TASK}


@pytest.mark.parametrize(
    ("module", "adapter", "adapter_config"),
    [
        ("celery", CeleryTaskProcessorAdapter, CeleryAdapterConfig(**CELERY)),
        (
            "taskiq",
            TaskiqTaskProcessorAdapter,
            TaskiqAdapterConfig(broker_type="redis_list", broker_kwargs={"url": ""}),
        ),
    ],
)
def test_without_the_task_system_the_error_says_what_to_install(monkeypatch, module, adapter, adapter_config):
    # As Python has a module that cannot be imported.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeError, match=f"there is no module {module}\ninstall it where .*pip install {module}"):
        instantiate_adapter_from_config(config(adapter, adapter_config))


def test_nothing_imports_a_task_system_before_it_is_used():
    code = """
import sys
import tyndall.serve.schema, tyndall.serve.task_consumer, tyndall.serve.task_processor
import tyndall.serve.taskiq_task_processor, tyndall.serve.async_inference_autoscaling_policy
print(sorted({"celery", "kombu", "taskiq", "redis"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("adapter", [CeleryTaskProcessorAdapter, TaskiqTaskProcessorAdapter])
def test_handlers_are_plain_methods(adapter):
    async def handler():
        pass

    of_celery = adapter is CeleryTaskProcessorAdapter
    made = adapter(
        config(adapter, CeleryAdapterConfig(**CELERY) if of_celery else TaskiqAdapterConfig(broker_type="nats"))
    )
    with pytest.raises(NotImplementedError, match="'handler' is async, and handlers run in threads\nmake"):
        made.register_task_handle(handler)


def test_celery_is_set_up_as_tasks_want_it():
    celery = CeleryAdapterConfig(
        **CELERY,
        app_custom_config={"worker_prefetch_multiplier": 1},
        task_custom_config={"retry_backoff_max": 5},
        broker_transport_options={"visibility_timeout": 9},
    )
    queues = {"failed_task_queue_name": "failed", "unprocessable_task_queue_name": "odd"}
    adapter = CeleryTaskProcessorAdapter(config(CeleryTaskProcessorAdapter, celery, max_retries=None, **queues))
    adapter.initialize(3)
    conf = adapter._app.conf
    assert (conf.worker_pool, conf.worker_concurrency, conf.worker_prefetch_multiplier) == ("threads", 3, 1)
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert not conf.task_ignore_result
    assert conf.broker_transport_options == {"visibility_timeout": 9}
    assert conf.task_queues["odd"] == {"exchange": "odd", "exchange_type": "direct", "routing_key": "odd"}
    assert (set(conf.task_queues), conf.task_routes) == ({"q", "failed", "odd"}, {"*": {"queue": "q"}})

    class Handlers:
        def task(self, a):
            return a

    adapter.register_task_handle(Handlers().task, "task")
    task = adapter._app.tasks["task"]
    assert (task.autoretry_for, task.retry_kwargs) == ((Exception,), {"max_retries": None})
    assert (task.retry_backoff, task.retry_backoff_max, task.retry_jitter) == (True, 5, False)
    # Celery counts the arguments when it sends a task again.
    task.__header__(1)
    # There is no worker, and so nothing that ends or has failed.
    adapter.stop_consumer()
    adapter.check_consumer()


def test_waits_between_runs_double_up_to_a_minute():
    assert [backoff_s(n) for n in (0, 1, 2, 5, 6, 1000)] == [1, 2, 4, 32, 60, 60]


# --- Taskiq in this process -------------------------------------------------------------------------------------------


def of_taskiq(monkeypatch):
    """A broker that is a queue of this process, as the class that a config names."""
    from taskiq import AsyncBroker, InMemoryBroker

    class Broker(AsyncBroker):
        queues = {}
        results = InMemoryBroker().result_backend

        def __init__(self, queue_name):
            super().__init__()
            self.result_backend = self.results
            self.queue = self.queues.setdefault(queue_name, queue.SimpleQueue())

        async def kick(self, message):
            self.queue.put(message.message)

        async def listen(self):
            while True:
                try:
                    yield self.queue.get_nowait()
                except queue.Empty:
                    await asyncio.sleep(0.01)

    monkeypatch.setattr(sys.modules[__name__], "Broker", Broker, raising=False)
    return config(
        "ray.serve.taskiq_task_processor:TaskiqTaskProcessorAdapter",
        TaskiqAdapterConfig(broker_type=f"{__name__}:Broker"),
        max_retries=0,
        failed_task_queue_name="failed",
    )


def test_taskiq_runs_tasks_and_tells_of_them(monkeypatch):
    given = of_taskiq(monkeypatch)

    @serve.deployment
    @task_consumer(task_processor_config=given)
    class Consumer:
        @task_handler
        def add(self, a: int, b: "Unknown" = 1):  # noqa: F821, nobody can look it up
            return a + b

        @task_handler
        def fail(self):
            raise ValueError("no")

    # By reference, as the queues of its broker are in this process.
    monkeypatch.setattr("tyndall.serve._local_testing._copied", lambda given: given)
    serve.run(Consumer.bind(), _local_testing_mode=True)
    adapter = instantiate_adapter_from_config(given)

    async def send():
        return await adapter.enqueue_task_async("add", [1], {"b": 2})

    sent = asyncio.run(send())
    assert sent.status == "PENDING"
    assert until(lambda: adapter.get_task_status_sync(sent.id).result, "it runs") == 3
    assert asyncio.run(adapter.get_task_status_async(sent.id)).status == "SUCCESS"
    failing = adapter.enqueue_task_sync("fail")
    until(lambda: adapter.get_task_status_sync(failing.id).status == "FAILURE", "it fails")
    assert str(adapter.get_task_status_sync(failing.id).result) == "no"
    assert adapter._broker.queues["failed"].qsize() == 1
    assert adapter.health_check_sync() == asyncio.run(adapter.health_check_async()) == [{"taskiq@q": {"ok": "pong"}}]
    assert adapter.get_metrics_sync()["is_consuming"] is False
    with pytest.raises(NotImplementedError, match="cannot cancel"):
        adapter.cancel_task_sync(sent.id)


def test_taskiq_without_results_cannot_tell_of_a_task(monkeypatch):
    from taskiq.result_backends.dummy import DummyResultBackend

    adapter = instantiate_adapter_from_config(of_taskiq(monkeypatch))
    adapter._broker.result_backend = DummyResultBackend()
    with pytest.raises(RuntimeError, match="kept nowhere\nset result_backend_url"):
        adapter.get_task_status_sync("1")
