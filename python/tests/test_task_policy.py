"""The autoscaling policy of task consumers, and how brokers are asked for the length of a queue."""

import http.server
import inspect
import json
import socketserver
import threading
import time

import pytest

from tyndall.serve import _broker_queues
from tyndall.serve.async_inference_autoscaling_policy import AsyncInferenceAutoscalingPolicy
from tyndall.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

WAIT_S = 60


def until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def context(replicas=1, requests=0.0, target=2, state=None):
    return AutoscalingContext(
        deployment_id=None,
        deployment_name="D",
        app_name="app",
        current_num_replicas=replicas,
        target_num_replicas=replicas,
        total_num_requests=requests,
        policy_state=state or {},
        config=AutoscalingConfig(target_ongoing_requests=target, max_replicas=9),
    )


@pytest.fixture
def policy(monkeypatch):
    """Makes a policy that asks a broker of the test."""

    def made(ask, **given):
        asked = []
        told = lambda *args: asked.append(args) or ask  # noqa: E731
        monkeypatch.setattr("tyndall.serve.async_inference_autoscaling_policy.queue_length", told)
        return AsyncInferenceAutoscalingPolicy("redis://broker", "q", **given), asked

    return made


@pytest.mark.parametrize(
    ("replicas", "requests", "length", "target", "wanted"),
    [
        (0, 0, 0, 2, 0),
        (0, 0, 7, 2, 1),
        (0, 1, 0, 2, 1),
        (1, 0, 0, 2, 0),
        (1, 0, 5, 2, 2.5),
        (3, 1, 5, 2, 3),
        (2, 0.5, 0, 0.5, 1),
    ],
)
def test_tasks_count_as_requests_do(policy, replicas, requests, length, target, wanted):
    made, asked = policy(lambda: length, rabbitmq_management_url="http://api")
    until(lambda: made(context(replicas, requests, target))[1] == {"queue_length": length}, "the length is known")
    until(lambda: made._length is not None, "it is asked")
    assert made(context(replicas, requests, target)) == (wanted, {"queue_length": length})
    assert asked == [("redis://broker", "q", "http://api")]


def test_a_broker_is_asked_beside_and_not_too_often(policy):
    go, calls = threading.Semaphore(0), []

    def slow():
        calls.append(1)
        go.acquire(timeout=WAIT_S)
        return len(calls)

    made, _ = policy(slow, poll_interval_s=0)
    # What the process before knew counts until there is an answer, and one question is under way at a time.
    for _ in range(3):
        assert made(context(state={"queue_length": 8})) == (4, {"queue_length": 8})
    until(lambda: calls == [1], "it is asked")
    go.release()
    until(lambda: made._length == 1 and not made._is_polling, "it answers")
    assert made(context())[1] == {"queue_length": 1}
    go.release()
    until(lambda: made._length == 2, "it is asked again")

    made, _ = policy(slow, poll_interval_s=3600)
    go.release()
    made(context())
    until(lambda: made._length == 3 and not made._is_polling, "it answers")
    made(context())
    assert len(calls) == 3


def test_what_a_broker_does_not_tell_stays_as_it_was(policy, warned):
    def failing():
        raise OSError("no broker")

    made, _ = policy(failing)
    assert made(context(state={"queue_length": 4})) == (2, {"queue_length": 4})
    until(lambda: any("the length of the queue 'q' is not known" in line for line in warned()), "it is told")
    assert made(context(state={"queue_length": 4}))[0] == 2


def test_it_takes_what_ray_s_takes():
    given = inspect.signature(AsyncInferenceAutoscalingPolicy).parameters.values()
    told = [("broker_url", inspect.Parameter.empty), ("queue_name", inspect.Parameter.empty)]
    assert [(one.name, one.default) for one in given] == [
        *told,
        ("rabbitmq_management_url", None),
        ("poll_interval_s", 10.0),
    ]


@pytest.mark.parametrize("separator", ".:")
def test_it_is_found_by_the_name_that_ray_has(separator):
    path = f"ray.serve.async_inference_autoscaling_policy{separator}AsyncInferenceAutoscalingPolicy"
    assert AutoscalingPolicy(policy_function=path).get_policy() is AsyncInferenceAutoscalingPolicy


# --- Brokers ----------------------------------------------------------------------------------------------------------


class Redis(socketserver.StreamRequestHandler):
    """As much of Redis as answers for lengths of lists."""

    lists = {b"q": 3, b"q\x06\x163": 2, b"q\x06\x169": 1}

    def handle(self):
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2])
            if words[0].upper() == b"HELLO":
                self.wfile.write(b"%%1\r\n$5\r\nproto\r\n:%s\r\n" % words[1])
            elif words[0].upper() == b"LLEN":
                self.wfile.write(b":%d\r\n" % self.lists.get(words[1], 0))
            else:
                self.wfile.write(b"+OK\r\n")


class RabbitMQ(http.server.BaseHTTPRequestHandler):
    """As much of its management as answers for one queue."""

    asked = []

    def do_GET(self):
        self.asked.append((self.path, self.headers["authorization"]))
        body = json.dumps({"name": "q", "messages": 11}).encode()
        self.send_response(200 if "q" in self.path.rsplit("/", 1)[-1] else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def listening():
    servers = []

    def listen(handler):
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_address[1]

    yield listen
    for server in servers:
        server.shutdown()
        server.server_close()


def test_lists_of_redis_are_counted_with_those_of_priorities(listening):
    ask = _broker_queues.queue_length(f"redis://127.0.0.1:{listening(Redis)}/0", "q")
    assert (ask(), ask()) == (6, 6)


@pytest.mark.parametrize(
    ("broker", "management", "path", "login"),
    [
        ("amqp://a:b@host/", "http://127.0.0.1:{port}/api/", "/api/queues/%2F/q", "YTpi"),
        ("amqp://host//", "http://u%2F:p@127.0.0.1:{port}/api", "/api/queues/%2F/q", "dS86cA=="),
        ("amqps://host/shop", "http://127.0.0.1:{port}/base/api", "/base/api/queues/shop/q", "Z3Vlc3Q6Z3Vlc3Q="),
    ],
)
def test_rabbitmq_tells_by_its_management(listening, monkeypatch, broker, management, path, login):
    monkeypatch.setattr(RabbitMQ, "asked", [])
    ask = _broker_queues.queue_length(broker, "q", management.format(port=listening(RabbitMQ)))
    assert ask() == 11
    assert RabbitMQ.asked == [(path, f"Basic {login}")]


def test_a_queue_that_rabbitmq_does_not_have_is_told(listening):
    ask = _broker_queues.queue_length("amqp://host", "none", f"http://127.0.0.1:{listening(RabbitMQ)}/api")
    with pytest.raises(LookupError, match="has no queue 'none'; there is one once a task was sent"):
        ask()


def test_a_management_that_is_no_page_is_refused():
    with pytest.raises(ValueError, match="rabbitmq_management_url begins with 'ftp'\nuse one such as"):
        _broker_queues.queue_length("amqp://host", "q", "ftp://host/api")


def test_other_brokers_tell_by_kombu(tmp_path):
    for n in range(2):
        (tmp_path / f"{n}.q.msg").touch()
    (tmp_path / "3.other.msg").touch()
    ask = _broker_queues.queue_length(f"filesystem://?data_folder_in={tmp_path}&control_folder={tmp_path}", "q")
    assert ask() == 2
