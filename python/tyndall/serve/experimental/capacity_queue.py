"""What stands in `deployment_actors` for the tokens of `CapacityQueueRouter`, in programs for Ray Serve."""

from __future__ import annotations

from typing import Any

__all__ = ["CapacityQueue"]


class CapacityQueue:
    """Names what Ray has an actor for. The router keeps its tokens itself, and needs none of what this is made from."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError("there are no actors, and so there is no CapacityQueue\nname the class in deployment_actors")
