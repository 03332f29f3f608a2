"""Calls of language models by handles: requests of the API of OpenAI, straight to a replica of the model.

The methods are Ray Serve LLM's. A request is a dictionary, or a record that can be one; answers are dictionaries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tyndall import _tyndall

from ._calls import _Router, _Target
from .context import DeploymentID
from .exceptions import RayServeException
from .handle import CallOptions

PATHS: Final = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "score": "/v1/score",
    "tokenize": "/tokenize",
    "detokenize": "/detokenize",
}
"""By method."""


class ModelRouter(_Router):
    """Calls a model's replicas."""

    def __init__(
        self, caller: _tyndall.Caller, thread: int | None, deployment_id: DeploymentID, model: str
    ) -> None:
        super().__init__(caller, thread, deployment_id)
        self._model = model

    def _written(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_stream: bool = False
    ) -> bytes:
        request = self._request(method, args, kwargs)
        if request.get("stream") and not is_stream:
            raise TypeError(
                f"Method '{method}' was asked for a stream. You must use `handle.options(stream=True)` to call it so."
            )
        return json.dumps(request).encode()

    def _hint(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        # A model's replica is chosen by nothing of the request.
        return b""

    def _read(self, response: bytes) -> Any:
        return json.loads(response)

    def _read_item(self, item: bytes) -> Any:
        return _event(item)

    def _target(self, method: str, options: CallOptions) -> _Target:
        if method not in PATHS:
            raise RayServeException(
                f"Tried to call a method '{method}' that does not exist. Available methods: {list(PATHS)}."
            )
        return _Target(self._deployment_id, PATHS[method], options, is_model=True)

    def _request(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        given = [*args, *kwargs.values()]
        request: Any = given[0] if len(given) == 1 else None
        if hasattr(request, "model_dump"):
            request = request.model_dump(exclude_none=True)
        if not isinstance(request, Mapping):
            raise TypeError(f"'{method}' of a model takes one request\npass a dictionary as in the API of OpenAI")
        return {**request, "model": self._model}


def _event(data: bytes) -> Any:
    """An item of a stream. After the first one an error has no status of its own any more."""
    event = json.loads(data)
    if isinstance(event, dict) and "error" in event and event["error"] is not None:
        error = event["error"]
        message = error.get("message", error) if isinstance(error, dict) else error
        raise RayServeException(f"the model ended with an error: {message}")
    return event
