"""HTTP at the ingress: what a deployment's code is given, what it may return, and ASGI applications."""

from __future__ import annotations

import asyncio
import copyreg
import functools
import inspect
import json
import logging
import pickle
import sys
import types
import typing
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any, Final, Protocol

from tyndall import _tyndall

from ._user_callable import UserCallable
from .exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, http_status

__all__ = ["ingress"]

logger = logging.getLogger("tyndall.serve")

Asgi = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

_INGRESS: Final = "__serve_ingress_app__"
"""Attribute of a class that `ingress` has decorated: what makes its application."""


# --- The decorator ----------------------------------------------------------------------------------------------------


class _Frozen:
    """An application as it was when the class was decorated; each replica has its own."""

    def __init__(self, app: Any) -> None:
        import cloudpickle  # type: ignore[import-untyped]

        _teach_pickle()
        _resolve_annotations(app)
        try:
            self._pickled: bytes = cloudpickle.dumps(app)
        except Exception as error:
            raise TypeError(
                f"the application of @serve.ingress cannot be pickled: {error}\n"
                "give a function without parameters that builds it, or make what it holds in a deployment's __init__"
            ) from error

    def thaw(self) -> Any:
        app = pickle.loads(self._pickled)
        return app() if _is_builder(app) else app


def _resolve_annotations(app: Any) -> None:
    """Has annotations of routes that are texts become what they name: a pickled function has only the globals that it
    uses, and FastAPI reads its annotations again in the replica."""
    for route in getattr(getattr(app, "router", app), "routes", None) or ():
        for function in _functions(route):
            annotations = function.__annotations__ if inspect.isfunction(function) else {}
            if not any(isinstance(one, str) for one in annotations.values()):
                continue
            try:
                function.__annotations__ = typing.get_type_hints(function, include_extras=True)
            except NameError:
                # FastAPI has told of it already, or has no use for it.
                continue


def _functions(route: Any) -> Iterator[Any]:
    """What a route calls: its endpoint, and all that this depends on."""
    yield getattr(route, "endpoint", None)
    waiting = [getattr(route, "dependant", None)]
    while waiting:
        dependant = waiting.pop()
        if dependant is not None:
            yield dependant.call
            waiting += dependant.dependencies


def _teach_pickle() -> None:
    """Starlette's `State` asks itself for its attributes before it has any, and so cannot be read from a pickle."""
    datastructures = sys.modules.get("starlette.datastructures")
    if datastructures is not None:
        copyreg.pickle(datastructures.State, _reduced_state)


def _reduced_state(state: Any) -> tuple[Callable[[dict[str, Any]], Any], tuple[dict[str, Any]]]:
    return _made_state, (state._state,)


def _made_state(given: dict[str, Any]) -> Any:
    from starlette.datastructures import State

    return State(given)


def _is_builder(app: Any) -> bool:
    """A function without parameters; an ASGI application takes three, or one in the older form."""
    return inspect.isfunction(app) and not inspect.signature(app).parameters


def ingress(app: Any = None) -> Callable[[type], type]:
    """Makes the HTTP of a deployment an ASGI application, such as one of FastAPI.

    `app` is the application, or a function without parameters that builds it in the replica. Its routes may be methods
    of the class. Without one, the class has `__serve_build_asgi_app__`, which returns it.

    Raises ValueError for what is no class, and for one that has `__call__`.
    """

    def decorate(of: type) -> type:
        if not inspect.isclass(of):
            raise ValueError("@serve.ingress must be used with a class.")
        if callable(getattr(of, "__call__", None)) and not isinstance(of.__call__, types.MethodWrapperType):
            raise ValueError(
                "Class passed to @serve.ingress may not have __call__ method.\n"
                "make it a route of the application"
            )
        if app is None and not hasattr(of, "__serve_build_asgi_app__"):
            raise ValueError(
                "@serve.ingress got no application, and the class has no __serve_build_asgi_app__\n"
                "give it an application, or the class that method"
            )
        frozen = None if app is None else _Frozen(app)
        name = {"__module__": of.__module__, "__qualname__": of.__qualname__, "__doc__": of.__doc__, _INGRESS: frozen}
        return type(of.__name__, (of,), name)

    return decorate


def is_ingress(of: Any) -> bool:
    return inspect.isclass(of) and hasattr(of, _INGRESS)


# --- What answers -----------------------------------------------------------------------------------------------------


class Front(Protocol):
    """Answers HTTP for a deployment."""

    async def answer(self, request: _tyndall.HttpRequest) -> str | None:
        """Gives the route that answered, where the deployment has several."""
        ...

    async def converse(self, socket: _tyndall.WebSocket) -> None:
        """Carries on a WebSocket from its handshake to its end, and raises what the code of the deployment raises."""

    async def stop(self) -> None: ...


async def front(user: UserCallable) -> Front:
    """What answers for a deployment that has started."""
    target = user.target
    if not is_ingress(type(target)):
        return _Plain(user)
    frozen: _Frozen | None = getattr(type(target), _INGRESS)
    app = target.__serve_build_asgi_app__() if frozen is None else frozen.thaw()
    if inspect.isawaitable(app):
        app = await app
    _bind_routes(app, target)
    served = _Application(app)
    await served.start()
    return served


class _Plain:
    """A deployment whose `__call__` gets the request and returns what becomes the answer."""

    def __init__(self, user: UserCallable) -> None:
        self._user = user
        target = user.target
        self._is_callable = callable(target)
        call = target if inspect.isroutine(target) else getattr(target, "__call__", None)
        self._request = _request_type() if self._is_callable and _takes_one(call) else None

    async def answer(self, request: _tyndall.HttpRequest) -> None:
        args: tuple[Any, ...] = () if self._request is None else (self._request(request),)
        try:
            rest = _reply(request, await self._user.call("__call__", args, {}))
            if rest is not None:
                await rest
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            _failed(request, error)

    async def converse(self, socket: _tyndall.WebSocket) -> None:
        logger.warning(
            "a WebSocket at %s is refused: the deployment has no ASGI application\n"
            "give its class one with @serve.ingress",
            socket.path,
        )
        await socket.send({"type": "websocket.close"})

    async def stop(self) -> None:
        pass


@functools.cache
def _request_type() -> Any:
    """Starlette's class of requests, but a request is taken apart only when something of it is asked for."""
    from starlette.requests import Request

    class _Request(Request):
        def __init__(self, source: _tyndall.HttpRequest) -> None:
            self._source = source

        def __getattr__(self, name: str) -> Any:
            # Python asks here for what the object does not have, which is everything before this.
            source = self.__dict__.pop("_source", None)
            if source is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            Request.__init__(self, source.scope(), source.receive, source.send)
            return getattr(self, name)

    _Request.__name__ = _Request.__qualname__ = Request.__name__
    return _Request


def _takes_one(call: Any) -> bool:
    """Whether it takes an argument by its place."""
    by_place = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    try:
        parameters = inspect.signature(call).parameters.values()
    except ValueError:
        # It is not written in Python, and says nothing.
        return True
    return any(parameter.kind in by_place for parameter in parameters)


def _failed(request: _tyndall.HttpRequest, error: BaseException) -> None:
    """The answer for an exception of the deployment's code, unless there is one already."""
    status = http_status(error)
    if status == 500:
        logger.error("Request failed.", exc_info=error)
    if request.is_begun:
        return
    headers = [("content-type", "text/plain")]
    if isinstance(error, RayServeException) and error.retry_after is not None:
        headers.append(("retry-after", error.retry_after))
    # What the code says is for the log, not for clients.
    text = "Internal Server Error" if status == 500 else str(error)
    request.reply_with(status, headers, text.encode())


def _reply(request: _tyndall.HttpRequest, result: Any) -> Awaitable[None] | None:
    """Ray's mapping of what is returned; gives what is left to do."""
    if isinstance(result, str):
        request.reply(200, "text/plain; charset=utf-8", result.encode())
    elif isinstance(result, (dict, list)):
        request.reply(200, "application/json", encoded(result))
    elif result is None:
        request.reply(200, "text/plain", b"")
    elif isinstance(result, (bytes, bytearray, memoryview)):
        request.reply(200, "text/plain", bytes(result))
    elif _is_plain_stream(result):
        return _stream(request, result)
    elif _is_asgi(result):
        rest: Awaitable[None] = result(request.scope(), request.receive, request.send)
        return rest
    else:
        request.reply(200, "application/json", encoded(result))
    return None


# --- Streams ----------------------------------------------------------------------------------------------------------

_MAX_PART_BYTES: Final = 32 << 10
"""Chunks that are there at once are sent together, up to this length."""


def _is_plain_stream(result: Any) -> bool:
    """Starlette's own response of chunks: what derives from it may do otherwise."""
    responses = sys.modules.get("starlette.responses")
    return responses is not None and type(result) is responses.StreamingResponse


async def _stream(request: _tyndall.HttpRequest, response: Any) -> None:
    """Sends a response of chunks as Starlette does, but all that is there with one message."""
    await request.send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    chunks = response.body_iterator
    try:
        rest = await _pump(request, chunks, response.charset)
    finally:
        if hasattr(chunks, "aclose"):
            await chunks.aclose()
    await request.send({"type": "http.response.body", "body": rest, "more_body": False})
    if response.background is not None:
        await response.background()


@types.coroutine
def _pump(request: _tyndall.HttpRequest, chunks: Any, charset: str) -> Generator[Any, Any, bytes]:
    """Sends chunks, and returns those at the end that are not sent yet.

    It takes the steps of the iterator by itself, to see when one waits: before that, everything is sent.
    """
    pending: list[bytes] = []
    length = 0
    following = chunks.__aiter__().__anext__
    try:
        while True:
            step = following().__await__()
            try:
                waits_for = step.send(None)
                if pending:
                    yield from _sent(request, pending)
                    length = 0
                chunk = yield from _resumed(step, waits_for)
            except StopIteration as done:
                chunk = done.value
            except StopAsyncIteration:
                return b"".join(pending)
            data = chunk if isinstance(chunk, bytes) else _chunk_bytes(chunk, charset)
            pending.append(data)
            length += len(data)
            if length >= _MAX_PART_BYTES:
                yield from _sent(request, pending)
                length = 0
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException:
        # What came before is the client's all the same.
        if pending:
            yield from _sent(request, pending)
        raise


def _chunk_bytes(chunk: Any, charset: str) -> bytes:
    if isinstance(chunk, str):
        return chunk.encode(charset)
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(
        f"{_named(chunk)} cannot be a chunk of a StreamingResponse\nyield texts or bytes, such as json.dumps(chunk)"
    )


def _sent(request: _tyndall.HttpRequest, pending: list[bytes]) -> Generator[Any, Any, None]:
    body = b"".join(pending)
    pending.clear()
    yield from request.send({"type": "http.response.body", "body": body, "more_body": True}).__await__()


def _resumed(step: Any, waits_for: Any) -> Generator[Any, Any, Any]:
    """Goes on with a step that waits, as `await` does, and returns what it gives."""
    while True:
        try:
            value = yield waits_for
        except BaseException as error:
            resume: Callable[[Any], Any] = step.throw
            value = error
        else:
            resume = step.send
        try:
            waits_for = resume(value)
        except StopIteration as done:
            return done.value


def _is_asgi(result: Any) -> bool:
    """A response of Starlette, or of another framework in its shape."""
    call = getattr(type(result), "__call__", None)
    return call is not None and inspect.iscoroutinefunction(call) and len(inspect.signature(call).parameters) == 4


_dumps = json.JSONEncoder(separators=(",", ":"), default=lambda value: plain(value)).encode


def encoded(value: Any) -> bytes:
    """Compact JSON.

    Raises TypeError for what no JSON can be made of.
    """
    try:
        return _dumps(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        if str(error).endswith(_CURE):
            raise
        # A key that is no text, or a value that holds itself.
        raise _unanswerable(value, f": {error}") from error


_CURE: Final = "return a text, bytes, what JSON can say, or a response"


def _unanswerable(value: Any, why: str = "") -> TypeError:
    return TypeError(f"{_named(value)} cannot be an answer{why}\n{_CURE}")


def _named(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}"


def plain(value: Any) -> Any:
    """What JSON knows, of what it does not know: as FastAPI has it, and Ray for arrays and tables."""
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    if module == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if module == "pandas" and hasattr(value, "to_dict"):
        return value.to_dict(orient="records") if hasattr(value, "columns") else value.to_dict()
    if module == "torch" and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Exception):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    try:
        from fastapi.encoders import jsonable_encoder
    except ImportError:
        return _without_fastapi(value)
    try:
        return jsonable_encoder(value)
    except Exception as error:
        # It tells of how it tried.
        raise _unanswerable(value) from error


def _without_fastapi(value: Any) -> Any:
    import dataclasses
    import datetime
    import enum
    import pathlib
    import uuid

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (set, frozenset)) or inspect.isgenerator(value):
        return list(value)
    if isinstance(value, (pathlib.PurePath, uuid.UUID)):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()
    raise _unanswerable(value)


# --- ASGI applications ------------------------------------------------------------------------------------------------


class _Application:
    """An ASGI application, with its lifespan."""

    def __init__(self, app: Asgi) -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._lifespan: asyncio.Task[None] | None = None
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def start(self) -> None:
        """Raises RuntimeError if the application says that it cannot start."""
        self._lifespan = asyncio.get_running_loop().create_task(self._live())
        answer = await self._told("lifespan.startup")
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            raise RuntimeError(f"ASGI lifespan startup failed: {answer.get('message', '')}\nsee the log of the replica")

    async def stop(self) -> None:
        if self._lifespan is None or self._lifespan.done():
            return
        answer = await self._told("lifespan.shutdown")
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            logger.error("ASGI lifespan shutdown failed: %s", answer.get("message", ""))
        self._lifespan.cancel()

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._to_app.get, self._from_app.put)
        except asyncio.CancelledError:
            raise
        except BaseException:
            # An application without a lifespan says so in this way.
            logger.debug("the application has no lifespan", exc_info=True)

    async def _told(self, event: str) -> dict[str, Any] | None:
        """The application's answer to an event; none if it has no lifespan."""
        assert self._lifespan is not None, "it has begun"
        await self._to_app.put({"type": event})
        answer = asyncio.ensure_future(self._from_app.get())
        await asyncio.wait({answer, self._lifespan}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        return None

    async def answer(self, request: _tyndall.HttpRequest) -> str | None:
        scope = request.scope()
        scope["state"] = self._state.copy()
        try:
            await self._app(scope, request.receive, request.send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            _failed(request, error)
        # FastAPI writes down there which route it was.
        path = getattr(scope.get("route"), "path", None)
        return f"{scope['root_path']}{path}" if path else None

    async def converse(self, socket: _tyndall.WebSocket) -> None:
        scope = socket.scope()
        scope["state"] = self._state.copy()
        await self._app(scope, socket.receive, socket.send)
        if not socket.is_answered:
            logger.error("the application has not answered the handshake of a WebSocket at %s", socket.path)


def _bind_routes(app: Any, instance: Any) -> None:
    """Has the routes of an application of FastAPI that are methods of the class call the object's."""
    routes = getattr(getattr(app, "router", app), "routes", None)
    if routes is None or type(app).__module__.partition(".")[0] != "fastapi":
        return
    from fastapi import APIRouter, FastAPI

    names = {f"{one.__module__}.{one.__qualname__}" for one in type(instance).__mro__}
    bound: list[Any] = []
    for route in list(routes):
        endpoint = getattr(route, "endpoint", None)
        of = _class_of(endpoint)
        if of is None:
            bound.append(route)
        elif of in names and endpoint is not None:
            bound.append(_rebound(APIRouter, app, route, types.MethodType(endpoint, instance)))
        # A route that is a method of another class belongs to another deployment.
    routes[:] = bound
    if isinstance(app, FastAPI):
        for kind in (BackPressureError, DeploymentUnavailableError):
            if kind not in app.exception_handlers:
                app.add_exception_handler(kind, _told_by_status)


def _class_of(endpoint: Any) -> str | None:
    """The class that a function was written in; none if it stands by itself."""
    if not inspect.isfunction(endpoint):
        return None
    path, dot, _ = endpoint.__qualname__.rpartition(".")
    if not dot or path.endswith("<locals>"):
        return None
    return f"{endpoint.__module__}.{path}"


def _rebound(router: Any, app: Any, route: Any, endpoint: Callable[..., Any]) -> Any:
    """The same route with another endpoint, whose parameters FastAPI reads anew."""
    single = router()
    route.endpoint = endpoint
    single.routes.append(route)
    routes = getattr(app, "router", app).routes
    before = len(routes)
    app.include_router(single)
    (made,) = routes[before:]
    del routes[before:]
    return made


async def _told_by_status(_request: Any, error: Exception) -> Any:
    from starlette.responses import Response

    retry_after = getattr(error, "retry_after", None)
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return Response(str(error), http_status(error), headers, "text/plain")
