"""Task consumers: replicas that take tasks from a queue, what becomes of tasks, and of replicas that ask nobody."""

import base64
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import task_app
from servers import details, until

from tyndall import serve
from tyndall.serve import _admin, _server
from tyndall.serve.task_consumer import instantiate_adapter_from_config

HERE = Path(__file__).parent
KINDS = ("filesystem", "durable", "taskiq")
DURABLE = ("durable", "taskiq")
"""Brokers that have a message until it is acknowledged."""


class Queue:
    """Where tasks are sent, and what has come of them."""

    def __init__(self, kind, folder, **given):
        self.kind, self.folder = kind, folder
        self.adapter = instantiate_adapter_from_config(task_app.settings(kind, folder, **given))

    def send(self, name, *args, **kwargs):
        return self.adapter.enqueue_task_sync(name, args, kwargs).id

    def result(self, task_id):
        found = until(lambda: self.ended(task_id), f"the task {task_id} ends")
        assert found.status == "SUCCESS", found
        return found.result

    def ended(self, task_id):
        found = self.adapter.get_task_status_sync(task_id)
        return found if found.status in ("SUCCESS", "FAILURE") else None

    def runs(self, name):
        """The processes that have begun a task."""
        path = self.folder / f"{name}.runs"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def go(self, name):
        (self.folder / f"{name}.go").touch()

    def waiting(self, queue):
        """What lies in a queue: the task's name, and its arguments."""
        end = ".task" if self.kind == "taskiq" else ".msg"
        found = []
        for path in sorted((self.folder / "messages").glob(f"*.{queue}{end}")):
            message = json.loads(path.read_text())
            if self.kind == "taskiq":
                found.append((message["task_name"], message["args"]))
            else:
                found.append((message["headers"]["task"], json.loads(base64.b64decode(message["body"]))[0]))
        return found


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def consumer(deploy, tmp_path):
    """Deploys a consumer, and gives its queue."""

    def run(kind, name, queue=None, **options):
        options.setdefault("ray_actor_options", {"runtime_env": {"working_dir": str(HERE)}})
        app = task_app.build({"kind": kind, "folder": str(tmp_path), "options": options, "queue": queue or {}})
        deploy(app, name=name)
        return Queue(kind, tmp_path, **(queue or {}))

    return run


def replicas(name):
    """The processes of the replicas that run, those of a version that goes not among them."""
    found = details(name)["deployments"]["Consumer"]["replicas"]
    return [one["pid"] for one in found if one["state"] == "RUNNING"]


def test_tasks_are_run_and_tell_their_results(consumer, kind):
    queue = consumer(kind, f"runs-{kind}", user_config={"word": "hello"})
    assert queue.result(queue.send("add", 1, b=2)) == 3
    # It takes none before it has its `user_config`.
    assert queue.result(queue.send("told")) == ["hello", "Consumer"]


def test_as_many_run_at_a_time_as_requests_may(deploy, tmp_path, kind):
    options = {"max_ongoing_requests": 3, "ray_actor_options": {"runtime_env": {"working_dir": str(HERE)}}}
    _, handle = deploy(task_app.build({"kind": kind, "folder": str(tmp_path), "options": options}), name=f"most-{kind}")
    queue = Queue(kind, tmp_path)
    names = [f"task{n}" for n in range(5)]
    sent = [queue.send("hold", name) for name in names]
    until(lambda: sum(len(queue.runs(name)) for name in names) == 3, "three run")
    # The replica answers beside them.
    assert handle.remote().result() == 3
    for name in names:
        queue.go(name)
    assert len({queue.result(one) for one in sent}) == 1
    assert handle.remote().result() == 3


def test_a_task_that_fails_is_run_again_and_then_put_aside(consumer, kind):
    queue = consumer(kind, f"fails-{kind}", {"max_retries": 1})
    sent = queue.send("fail", "bad")
    assert until(lambda: queue.ended(sent), "it has failed").status == "FAILURE"
    assert len(queue.runs("bad")) == 2
    ((name, args),) = until(lambda: queue.waiting("failed"), "it is put aside")
    assert (name, args[:4]) == ("fail", [sent, "bad fails", str(["bad"]), "{}"])
    assert "ValueError" in args[4]
    # Others go on.
    assert queue.result(queue.send("add", 1)) == 1
    assert queue.waiting("odd") == []


def test_what_nobody_handles_or_can_read_is_put_aside(consumer, kind):
    queue = consumer(kind, f"odd-{kind}")
    sent = queue.send("nobody", 1)
    ((name, args),) = until(lambda: queue.waiting("odd"), "the unknown task is put aside")
    assert (name, args[:2]) == ("nobody", ["nobody", sent])
    unreadable(queue)
    until(lambda: len(queue.waiting("odd")) == 2, "what cannot be read is put aside")
    assert queue.result(queue.send("add", 1)) == 1
    assert queue.waiting("failed") == []


def unreadable(queue):
    """Puts something into the queue that is no message."""
    if queue.kind == "taskiq":
        (queue.folder / "messages/0.work.task").write_text("}{")
        return
    app = queue.adapter._app
    with app.connection_for_write() as connection:
        given = {"content_type": "application/json", "content_encoding": "utf-8", "headers": {"task": "add", "id": "1"}}
        app.amqp.Producer(connection).publish("}{", routing_key="work", exchange="work", **given)


@pytest.mark.parametrize("kind", DURABLE)
def test_a_task_whose_replica_is_killed_is_run_by_the_next(consumer, kind):
    queue = consumer(kind, f"killed-{kind}")
    sent = queue.send("hold", "held")
    (first,) = until(lambda: queue.runs("held"), "it has begun")
    os.kill(first, signal.SIGKILL)
    _, second = until(lambda: len(queue.runs("held")) == 2 and queue.runs("held"), "it has begun again")
    assert second != first
    queue.go("held")
    assert queue.result(sent) == second


def test_a_replica_that_ends_finishes_its_tasks_first(consumer, kind):
    name = f"ends-{kind}"
    queue = consumer(kind, name, graceful_shutdown_timeout_s=60)
    sent = queue.send("hold", "held")
    (pid,) = until(lambda: queue.runs("held"), "it has begun")
    with ThreadPoolExecutor() as pool:
        # It ends as another version takes its place, which is told when it has gone.
        update = pool.submit(consumer, kind, name, graceful_shutdown_timeout_s=60, max_ongoing_requests=4)
        until(
            lambda: replicas(name) not in ([pid], []) and pid not in replicas(name), "another one runs, and it drains"
        )
        assert queue.ended(sent) is None
        queue.go("held")
        assert queue.result(sent) == pid
        update.result()
    # Its object went after its last task.
    ended = queue.folder / f"ended.{pid}"
    assert until(lambda: ended.exists() and ended.read_text()) == "0"
    assert queue.runs("held") == [pid]


def test_a_replica_that_ends_takes_no_tasks_while_it_finishes_a_request(deploy, tmp_path, kind):
    options = {"max_ongoing_requests": 3, "ray_actor_options": {"runtime_env": {"working_dir": str(HERE)}}}
    name = f"leaves-{kind}"
    _, handle = deploy(task_app.build({"kind": kind, "folder": str(tmp_path), "options": options}), name=name)
    queue = Queue(kind, tmp_path)
    request = handle.hold.remote("request")
    ((old,),) = (until(lambda: queue.runs("request"), "the request is worked on"),)
    os.kill(old, signal.SIGTERM)
    # Another takes its place although it has not ended.
    ((new,),) = (until(lambda: [pid for pid in replicas(name) if pid != old], "there is another replica"),)
    names = [f"task{n}" for n in range(6)]
    for one in names:
        queue.go(one)
    assert {queue.result(sent) for sent in [queue.send("hold", one) for one in names]} == {new}
    queue.go("request")
    assert request.result(timeout_s=20) == old


@pytest.mark.parametrize("kind", DURABLE)
def test_what_a_replica_cannot_finish_is_run_by_another(consumer, kind):
    name = f"late-{kind}"
    queue = consumer(kind, name, graceful_shutdown_timeout_s=1)
    sent = queue.send("hold", "held")
    (first,) = until(lambda: queue.runs("held"), "it has begun")
    consumer(kind, name, graceful_shutdown_timeout_s=1, max_ongoing_requests=4)
    _, second = until(lambda: len(queue.runs("held")) == 2 and queue.runs("held"), "it has begun again")
    assert second != first
    until(lambda: replicas(name) == [second], "the first is gone")
    queue.go("held")
    assert queue.result(sent) == second


def test_an_update_loses_no_task(consumer, kind):
    name = f"updates-{kind}"
    queue = consumer(kind, name, num_replicas=2)
    before = set(until(lambda: len(replicas(name)) == 2 and replicas(name), "two run"))
    sent = [queue.send("add", n) for n in range(20)]
    consumer(kind, name, num_replicas=2, user_config={"word": "new"}, max_ongoing_requests=4)
    sent += [queue.send("add", n) for n in range(20, 40)]
    assert [queue.result(one) for one in sent] == list(range(40))
    assert not before & set(until(lambda: len(replicas(name)) == 2 and replicas(name), "two run"))


def test_a_consumer_that_nobody_calls_stays_and_one_whose_worker_ends_is_replaced(consumer, server):
    name = "stays"
    queue = consumer("durable", name, num_replicas=1, health_check_period_s=0.1)
    (pid,) = replicas(name)
    for n in range(3):
        assert queue.result(queue.send("add", n)) == n
    assert details(name)["status"] == "RUNNING"
    assert replicas(name) == [pid]
    # As where its connection is refused for good.
    queue.adapter._app.control.broadcast("shutdown")
    (other,) = until(lambda: [one for one in replicas(name) if one != pid], "another one runs")
    queue.go("held")
    assert queue.result(queue.send("hold", "held")) == other


# --- Where it is deployed ---------------------------------------------------------------------------------------------


def _deploy(path, *applications):
    path.write_text(json.dumps({"applications": applications}))
    command = [_server.binary(), "deploy", str(path), "--address", _admin.address()]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_config_file_has_a_consumer_that_scales_by_its_queue(server, tmp_path):
    queue = Queue("durable", tmp_path)
    policy = {
        "policy_function": "ray.serve.async_inference_autoscaling_policy:AsyncInferenceAutoscalingPolicy",
        "policy_kwargs": {
            "broker_url": f"filesystem://?data_folder_in={tmp_path / 'messages'}&control_folder={tmp_path / 'control'}",
            "queue_name": "work",
            "poll_interval_s": 0.1,
        },
    }
    scaling = {"min_replicas": 0, "max_replicas": 3, "target_ongoing_requests": 2, "policy": policy}
    scaling |= {"upscale_delay_s": 0, "downscale_delay_s": 0}
    application = {
        "name": "scales",
        "route_prefix": "/scales",
        "import_path": "task_app:build",
        "args": {"kind": "durable", "folder": str(tmp_path)},
        "runtime_env": {"working_dir": str(HERE)},
        "deployments": [{"name": "Consumer", "autoscaling_config": scaling, "max_ongoing_requests": 1}],
    }
    _deploy(tmp_path / "config.json", application)
    until(lambda: details("scales")["status"] == "RUNNING", "it runs")
    until(lambda: not replicas("scales"), "an idle one has no replica")
    names = [f"task{n}" for n in range(8)]
    sent = [queue.send("hold", name) for name in names]
    until(lambda: len(replicas("scales")) == 3, "tasks that wait bring replicas, with nobody calling")
    for name in names:
        queue.go(name)
    assert len({queue.result(one) for one in sent}) > 1
    until(lambda: not replicas("scales"), "none is left without tasks")
    _deploy(tmp_path / "none.json")


def test_a_consumer_that_cannot_start_says_why(deploy, tmp_path):
    @serve.deployment(max_constructor_retry_count=1)
    @task_app.task_consumer(task_processor_config=task_app.settings("filesystem", tmp_path))
    class Wrong:
        @task_app.task_handler
        async def ask(self):
            pass

    with pytest.raises(RuntimeError, match="the task handler 'ask' is async"):
        deploy(Wrong.bind(), name="wrong")
