"""Deployment actors of local testing mode: objects in this process, each with an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from . import _actors, _fates
from ._actor import Actor, outcome
from .config import DeploymentActorConfig
from .context import DeploymentID

_running: dict[DeploymentID, dict[str, _LocalActor]] = {}


class _LocalActor:
    """Runs calls as the process of an actor does, with the same pickles."""

    def __init__(self, of: DeploymentID, config: DeploymentActorConfig) -> None:
        most = config.actor_options.get("max_pending_calls") or 0
        key = f"{_actors.LOCAL}{of.app_name}#{of.name}#{config.name}"
        self.name = _actors.ActorName(of, config.name, key, most if most > 0 else _actors.MAX_PENDING_CALLS)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"actor-{config.name}", daemon=True)
        self._thread.start()
        made = Actor.of(config, config.actor_options.get("max_concurrency"))
        try:
            self._actor = asyncio.run_coroutine_threadsafe(made, self._loop).result()
        except BaseException:
            self.stop()
            raise

    def call(self, body: bytes) -> Future[Any]:
        future: Future[Any] = Future()

        def begin() -> None:
            if future.done():
                # It was cancelled a moment before.
                return
            work = self._actor.begin(body)
            work.add_done_callback(lambda done: _actors.came(self.name, future, *outcome(done)))
            future.add_done_callback(
                lambda done: self._loop.call_soon_threadsafe(work.cancel) if done.cancelled() else None
            )

        self._loop.call_soon_threadsafe(begin)
        return future

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def start(of: DeploymentID, actors: list[DeploymentActorConfig]) -> None:
    """Makes them; what a constructor raises is raised."""
    for config in actors:
        if not _fates.is_capacity_queue(str(config.actor_class)):
            actor = _LocalActor(of, config)
            _running.setdefault(of, {})[config.name] = actor
            _actors.know(actor.name.socket, actor)


def stop(of: DeploymentID) -> None:
    for actor in _running.pop(of, {}).values():
        _actors.know(actor.name.socket, None)
        actor.stop()


def handle_of(of: DeploymentID, actor_name: str) -> _actors.ActorHandle:
    """Raises ValueError where the deployment has no actor of this name."""
    return _actors.of_replica(actor_name, {name: actor.name for name, actor in _running.get(of, {}).items()})
