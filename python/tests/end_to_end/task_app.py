"""A task consumer, for the tests of them: by Celery or taskiq, with a folder as the broker."""

import os
import threading
import time
from pathlib import Path

import task_brokers  # noqa: F401, the transport `durable` is known to Celery then

from tyndall import serve
from tyndall.serve.schema import CeleryAdapterConfig, TaskProcessorConfig
from tyndall.serve.task_consumer import task_consumer, task_handler
from tyndall.serve.taskiq_task_processor import TaskiqAdapterConfig

WAIT_S = 60
TASKIQ = "tyndall.serve.taskiq_task_processor:TaskiqTaskProcessorAdapter"


def settings(kind, folder, **given):
    """What a queue of tasks is told by; `kind` is the scheme of a broker of Celery, or `taskiq`."""
    folder = Path(folder)
    for name in ("messages/taken", "control", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    queues = {"queue_name": "work", "failed_task_queue_name": "failed", "unprocessable_task_queue_name": "odd"}
    if kind == "taskiq":
        kwargs = {"folder": str(folder / "messages")}
        config = TaskiqAdapterConfig(broker_type="task_brokers:FolderBroker", broker_kwargs=kwargs)
        return TaskProcessorConfig(adapter=TASKIQ, adapter_config=config, **{**queues, **given})
    options = {name: str(folder / "messages") for name in ("data_folder_in", "data_folder_out")}
    config = CeleryAdapterConfig(
        broker_url=f"{kind}://",
        backend_url=f"file://{folder / 'results'}",
        broker_transport_options={**options, "control_folder": str(folder / "control")},
        app_custom_config={"worker_prefetch_multiplier": 1},
    )
    return TaskProcessorConfig(adapter_config=config, **{**queues, **given})


def build(args):
    """A consumer of the queue in `folder`. `options` are those of the deployment, `queue` those of the queue."""
    folder = Path(args["folder"])

    @serve.deployment(name="Consumer", **args.get("options", {}))
    @task_consumer(task_processor_config=settings(args["kind"], folder, **args.get("queue", {})))
    class Consumer:
        def __init__(self):
            # The class comes to replicas without the modules around it.
            import task_brokers  # noqa: F401, F811

            self.lock = threading.Lock()
            self.most = self.now = 0
            self.word = None

        def reconfigure(self, config):
            self.word = config["word"]

        def __call__(self):
            return self.most

        @task_handler
        def add(self, a, b=0):
            return a + b

        @task_handler(name="told")
        def tell(self):
            return [self.word, serve.get_replica_context().deployment]

        @task_handler
        def fail(self, name):
            with (folder / f"{name}.runs").open("a") as file:
                file.write(f"{os.getpid()}\n")
            raise ValueError(f"{name} fails")

        @task_handler
        def hold(self, name):
            """Says who has it, and waits until it may go on."""
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            with (folder / f"{name}.runs").open("a") as file:
                file.write(f"{os.getpid()}\n")
            deadline = time.monotonic() + WAIT_S
            while not (folder / f"{name}.go").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            with self.lock:
                self.now -= 1
            return os.getpid()

        def __del__(self):
            (folder / f"ended.{os.getpid()}").write_text(str(self.now))

    return Consumer.bind()
