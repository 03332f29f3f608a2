"""Brokers of tasks that are folders, for the tests of task consumers. Replicas import this module too."""

import asyncio
import contextlib
import json
import os
import uuid
from pathlib import Path

import kombu.transport
from kombu.transport import filesystem
from kombu.utils.json import loads
from taskiq import AckableMessage, AsyncBroker, AsyncResultBackend, TaskiqResult


def is_alive(pid):
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def take(folder, end):
    """The first message of a queue, which is this process's until it is acknowledged; None where there is none.

    What processes had that are gone goes back first, as brokers do it when a connection breaks.
    """
    for taken in sorted((folder / "taken").glob(f"*~*{end}")):
        pid, _, name = taken.name.partition("~")
        if not is_alive(int(pid)):
            with contextlib.suppress(FileNotFoundError):
                taken.rename(folder / name)
    for path in sorted(folder.glob(f"*{end}")):
        own = folder / "taken" / f"{os.getpid()}~{path.name}"
        with contextlib.suppress(FileNotFoundError):
            path.rename(own)
            return own
    return None


class Channel(filesystem.Channel):
    """Kombu's folder forgets a message when it is taken; this one has it until it is acknowledged."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._taken = {}

    def _get(self, queue):
        path = take(Path(self.data_folder_in), f".{queue}.msg")
        if path is None:
            raise filesystem.Empty
        message = loads(path.read_text())
        self._taken[message["properties"]["delivery_tag"]] = path
        return message

    def _forget(self, delivery_tag):
        path = self._taken.pop(delivery_tag, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def basic_ack(self, delivery_tag, multiple=False):
        super().basic_ack(delivery_tag, multiple)
        self._forget(delivery_tag)

    def basic_reject(self, delivery_tag, requeue=False):
        super().basic_reject(delivery_tag, requeue)
        self._forget(delivery_tag)

    def _restore(self, message):
        super()._restore(message)
        self._forget(message.delivery_tag)


class Transport(filesystem.Transport):
    Channel = Channel
    polling_interval = 0.05


kombu.transport.TRANSPORT_ALIASES["durable"] = f"{__name__}:Transport"


class Results(AsyncResultBackend):
    def __init__(self, folder):
        self.folder = folder

    async def set_result(self, task_id, result):
        partial = self.folder / f"{task_id}.partial"
        partial.write_text(
            json.dumps({"is_err": result.is_err, "value": result.return_value, "error": str(result.error)})
        )
        partial.rename(self.folder / task_id)

    async def is_result_ready(self, task_id):
        return (self.folder / task_id).exists()

    async def get_result(self, task_id, with_logs=False):
        told = json.loads((self.folder / task_id).read_text())
        error = Exception(told["error"]) if told["is_err"] else None
        return TaskiqResult(is_err=told["is_err"], return_value=told["value"], error=error, execution_time=0)


class FolderBroker(AsyncBroker):
    """One for taskiq, with acknowledgements and results."""

    def __init__(self, queue_name, folder):
        super().__init__()
        self.folder = Path(folder)
        self.end = f".{queue_name}.task"
        self.result_backend = Results(self.folder)
        (self.folder / "taken").mkdir(parents=True, exist_ok=True)

    async def kick(self, message):
        name = uuid.uuid4().hex
        partial = self.folder / f"{name}.partial"
        partial.write_bytes(message.message)
        partial.rename(self.folder / f"{name}{self.end}")

    async def listen(self):
        while True:
            path = take(self.folder, self.end)
            if path is None:
                # Nothing tells of files without a library for it.
                await asyncio.sleep(0.02)
            else:
                yield AckableMessage(data=path.read_bytes(), ack=path.unlink)
