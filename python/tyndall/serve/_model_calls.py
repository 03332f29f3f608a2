"""Calls of language models by handles: requests over HTTP to the server, which has no other way to them.

The methods are Ray Serve LLM's. A request is a dictionary of the API of OpenAI, or a record that can be one; answers are
dictionaries.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import socket
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final

from ._responses import END
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

_TIMEOUT_S: Final = 600.0
"""As long as the server waits for an answer to begin, and between its pieces."""


class ModelRouter:
    """Sends a model's calls to the server at `url`, which is where its application is mounted."""

    is_local = False

    def __init__(self, url: str, model: str) -> None:
        self._url = urllib.parse.urlsplit(url)
        self._model = model

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Future[Any]:
        exchange = self._exchange(method, args, kwargs, options)
        future: Future[Any] = Future()
        if exchange.is_stream:
            raise TypeError(
                f"Method '{method}' was asked for a stream. You must use `handle.options(stream=True)` to call it so."
            )
        future.add_done_callback(lambda ended: exchange.close() if ended.cancelled() else None)
        _in_thread(lambda: _settle(future, exchange.whole))
        return future

    def stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> _Items:
        return _Items(self._exchange(method, args, kwargs, options))

    def _exchange(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> _Exchange:
        if method not in PATHS:
            raise RayServeException(
                f"Tried to call a method '{method}' that does not exist. Available methods: {list(PATHS)}."
            )
        body = {"model": self._model, **_request(method, args, kwargs)}
        headers = {"content-type": "application/json", "x-request-id": options.request_id}
        if key := os.environ.get("TYNDALL_API_KEY"):
            headers["authorization"] = f"Bearer {key}"
        if options.session_id:
            headers["x-session-id"] = options.session_id
        return _Exchange(self._url, PATHS[method], headers, body)


def _request(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    given = [*args, *kwargs.values()]
    request: Any = given[0] if len(given) == 1 else None
    if hasattr(request, "model_dump"):
        request = request.model_dump(exclude_none=True)
    if not isinstance(request, Mapping):
        raise TypeError(f"'{method}' of a model takes one request\npass a dictionary as in the API of OpenAI")
    return dict(request)


class _Exchange:
    """A request and its answer. Its reading blocks; `close` ends that from another thread."""

    def __init__(self, url: urllib.parse.SplitResult, path: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        self.is_stream = bool(body.get("stream"))
        self._path, self._headers, self._body = url.path.rstrip("/") + path, headers, json.dumps(body).encode()
        self._connection = http.client.HTTPConnection(url.hostname or "127.0.0.1", url.port, timeout=_TIMEOUT_S)
        self._answer: http.client.HTTPResponse | None = None
        self._is_over = False

    def whole(self) -> Any:
        """The answer as one."""
        with self._opened() as answer:
            return json.loads(answer.read())

    def next(self) -> Any:
        """The next event, or the whole answer where it is no stream; then `END`."""
        if self._is_over:
            return END
        if not self.is_stream:
            self._is_over = True
            return self.whole()
        if self._answer is None:
            self._answer = self._opened()
        while line := self._answer.readline():
            data = line.decode().strip()
            if not data.startswith("data:"):
                continue
            data = data.removeprefix("data:").strip()
            if data == "[DONE]":
                break
            event = json.loads(data)
            if "error" in event:
                raise RayServeException(f"the model ended with an error: {_message(event)}")
            return event
        self._is_over = True
        return END

    def close(self) -> None:
        sock = self._connection.sock
        if sock is not None:
            try:
                # Closing alone would not wake who reads.
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It is closed already.
                pass
        self._connection.close()

    def _opened(self) -> http.client.HTTPResponse:
        self._connection.request("POST", self._path, self._body, self._headers)
        answer = self._connection.getresponse()
        if answer.status != 200:
            raise RayServeException(f"the model answered {answer.status}: {_message(_json(answer.read()))}")
        return answer


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace").strip()


def _message(answer: Any) -> str:
    """What an error of the API of OpenAI says."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    return str(error.get("message", error) if isinstance(error, dict) else error)


class _Items:
    """The events of an answer, each read when it is asked for, in a thread of their own."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._asked: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        _in_thread(self._read)

    def next(self) -> Future[Any]:
        future: Future[Any] = Future()
        self._asked.put(future)
        return future

    def cancel(self) -> None:
        self._asked.put(None)
        self._exchange.close()

    def _read(self) -> None:
        while (future := self._asked.get()) is not None:
            _settle(future, self._exchange.next)


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        try:
            future.set_result(work())
        except (OSError, http.client.HTTPException, ValueError) as error:
            future.set_exception(RayServeException(f"the answer of the model broke off: {error}"))
        except Exception as error:
            future.set_exception(error)
    except InvalidStateError:
        # It was cancelled meanwhile.
        pass


def _in_thread(work: Callable[[], Any]) -> None:
    """In a thread that does not hold up the end of the process."""
    threading.Thread(target=work, name="serve-model-call", daemon=True).start()
