"""How many messages wait in a queue of a broker. The clients of brokers are the user's own packages."""

from __future__ import annotations

import base64
import importlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from ._tasks import lacks

QueueLength = Callable[[], int]

_TIMEOUT_S: Final = 3.0
_PRIORITIES: Final = (0, 3, 6, 9)
_PRIORITY_SEPARATOR: Final = "\x06\x16"
"""Celery has a list of Redis for each priority of a queue, which is part of the list's name; 0 has the plain name."""


def queue_length(broker_url: str, queue: str, management_url: str | None = None) -> QueueLength:
    """What tells the length of a queue when it is called, which may take seconds; nothing is asked before.

    It raises what its client raises, and LookupError where RabbitMQ has no such queue. Raises ModuleNotFoundError where
    the client is not installed.
    """
    scheme = urllib.parse.urlsplit(broker_url).scheme
    if scheme in ("redis", "rediss", "redis+socket"):
        return _of_redis(broker_url, queue)
    if scheme in ("amqp", "amqps", "pyamqp"):
        return _of_rabbitmq(broker_url, queue, management_url)
    return _of_kombu(broker_url, queue)


def _of_redis(url: str, queue: str) -> QueueLength:
    try:
        import redis
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise lacks("redis") from None
    # Its own word for a socket's path is `unix`.
    plain = url.replace("redis+socket:", "unix:", 1).replace("virtual_host=", "db=", 1)
    client: Any = redis.Redis.from_url(plain, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
    lists = [f"{queue}{_PRIORITY_SEPARATOR}{priority}" if priority else queue for priority in _PRIORITIES]
    return lambda: sum(int(client.llen(one)) for one in lists)


def _of_rabbitmq(url: str, queue: str, management_url: str | None) -> QueueLength:
    """By its HTTP API, as its own protocol tells nothing of messages that consumers hold."""
    broker = urllib.parse.urlsplit(url)
    api = urllib.parse.urlsplit(management_url or f"http://{broker.hostname or 'localhost'}:15672/api/")
    if api.scheme not in ("http", "https"):
        raise ValueError(
            f"rabbitmq_management_url begins with {api.scheme!r}\nuse one such as 'http://guest:guest@localhost:15672/api/'"
        )
    user = urllib.parse.unquote(api.username or broker.username or "guest")
    password = urllib.parse.unquote(api.password or broker.password or "guest")
    vhost = urllib.parse.quote(urllib.parse.unquote(broker.path[1:]) or "/", safe="")
    place = f"{api.hostname}:{api.port or (443 if api.scheme == 'https' else 80)}"
    where = f"{api.scheme}://{place}{api.path.rstrip('/')}/queues/{vhost}/{urllib.parse.quote(queue, safe='')}"
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(where, headers={"authorization": f"Basic {login}"})

    def length() -> int:
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return int(json.load(answer)["messages"])
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            raise LookupError(
                f"RabbitMQ at {place} has no queue {queue!r}; there is one once a task was sent or a consumer has started"
            ) from None

    return length


def _of_kombu(url: str, queue: str) -> QueueLength:
    """Of any other broker that Celery has; options of its transport stand in the query of the URL."""
    try:
        kombu: Any = importlib.import_module("kombu")
    except ModuleNotFoundError as error:
        if error.name != "kombu":
            raise
        raise lacks("kombu", "celery") from None
    parts = urllib.parse.urlsplit(url)
    options = dict(urllib.parse.parse_qsl(parts.query))
    plain = f"{parts.scheme}://{parts.netloc}{parts.path}"

    def length() -> int:
        with kombu.Connection(plain, transport_options=options, connect_timeout=_TIMEOUT_S) as connection:
            channel: Any = connection.default_channel
            try:
                return int(channel.queue_declare(queue, passive=True).message_count)
            finally:
                channel.close()

    return length
