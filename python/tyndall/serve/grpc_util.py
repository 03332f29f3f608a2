"""What code gets that is called by gRPC, by Ray Serve's names: the call's context, and its input if that streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    # Replicas have this module, and load the library only with the code that uses it.
    import grpc  # type: ignore[import-untyped, unused-ignore]

__all__ = ["RayServegRPCContext", "gRPCInputStream"]

T = TypeVar("T")

Metadata = list[tuple[str, Any]]
"""Values are texts; of keys that end in `-bin` they are bytes."""

_REQUEST_ID = "request_id"


class gRPCInputStream(AsyncIterator[T], Generic[T]):  # noqa: N801, Ray's name
    """The messages of a client that sends several, in the order in which it sends them.

    They are read when they are asked for. A stream that was cancelled, by the client or with `cancel`, or whose call is
    over, has no further message.
    """

    def __init__(self, request_iterator: AsyncIterator[T], *, cancel_event: Any = None) -> None:
        """`cancel_event` is an `asyncio.Event` that whoever made it sets when the client cancels."""
        self._request_iterator = request_iterator
        self._cancel_event = cancel_event
        self._is_cancelled = False
        self._is_exhausted = False

    def __aiter__(self) -> gRPCInputStream[T]:
        return self

    async def __anext__(self) -> T:
        if self._is_exhausted or self.is_cancelled():
            self._is_exhausted = True
            raise StopAsyncIteration
        try:
            return await self._request_iterator.__anext__()
        except StopAsyncIteration:
            self._is_exhausted = True
            raise

    def is_cancelled(self) -> bool:
        """Whether the client is gone, or the call is over, or `cancel` was called."""
        return self._is_cancelled or (self._cancel_event is not None and self._cancel_event.is_set())

    def cancel(self) -> None:
        """Asks for no further message."""
        self._is_cancelled = True
        if self._cancel_event is not None:
            self._cancel_event.set()

    @property
    def is_exhausted(self) -> bool:
        """Whether it has said that there is no further message. As in Ray it is asked without parentheses."""
        return self._is_exhausted


class _ServicerContext(Protocol):
    """What a context is made from, such as one of the library."""

    def auth_context(self) -> Mapping[str, Any]: ...
    def code(self) -> Any: ...
    def details(self) -> Any: ...
    def invocation_metadata(self) -> Iterable[tuple[str, Any]]: ...
    def peer(self) -> str: ...
    def peer_identities(self) -> Any: ...
    def peer_identity_key(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, Any]]: ...


class RayServegRPCContext:
    """What a call knows of its client, and how it is to end. It goes along in calls of other deployments, as a copy.

    A method of a deployment gets it if it has a parameter that is called `grpc_context`.
    """

    def __init__(self, grpc_context: _ServicerContext) -> None:
        self._auth_context = dict(grpc_context.auth_context())
        self._code = grpc_context.code()
        self._details = grpc_context.details()
        self._metadata: Metadata | None = list(grpc_context.invocation_metadata())
        self._peer = grpc_context.peer()
        self._peer_identities = grpc_context.peer_identities()
        self._peer_identity_key = grpc_context.peer_identity_key()
        self._trailing_metadata: Metadata = list(grpc_context.trailing_metadata())
        self._compression: grpc.Compression | None = None
        self._client: Callable[[], tuple[Metadata, str]] | None = None

    @classmethod
    def _of_call(cls, request_id: str, client: Callable[[], tuple[Metadata, str]]) -> RayServegRPCContext:
        """One of a replica. `client` gives metadata and peer; most code asks for neither, which costs it nothing."""
        context = cls.__new__(cls)
        context._auth_context = {}
        context._code, context._details = 0, ""
        context._metadata, context._peer = None, ""
        context._peer_identities = context._peer_identity_key = None
        context._trailing_metadata = [(_REQUEST_ID, request_id)]
        context._compression = None
        context._client = client
        return context

    def auth_context(self) -> dict[str, Any]:
        """Properties by which the client is known; there are none, as TLS ends before the server."""
        return self._auth_context

    def code(self) -> Any:
        """The code that was set; 0 before."""
        return self._code

    def details(self) -> Any:
        """The details that were set; an empty text before."""
        return self._details

    def invocation_metadata(self) -> Metadata:
        """What the client sent beside its messages."""
        self._ask()
        assert self._metadata is not None, "it was asked for"
        return self._metadata

    def peer(self) -> str:
        """Where the client is, in the form of the library; an empty text where that is not known."""
        self._ask()
        return self._peer

    def peer_identities(self) -> Any:
        """None: the client is not known."""
        return self._peer_identities

    def peer_identity_key(self) -> str | None:
        """None: the client is not known."""
        return self._peer_identity_key

    def trailing_metadata(self) -> Metadata:
        """What goes to the client at the end of the call; the id of the request is always part of it."""
        return self._trailing_metadata

    def request_id(self) -> str | None:
        """The id of the request, which the server makes where the client sent none."""
        own = next((value for key, value in self._trailing_metadata if key == _REQUEST_ID), None)
        return own or self._value(_REQUEST_ID)

    def application(self) -> str | None:
        """The application that is called."""
        return self._value("application")

    def multiplexed_model_id(self) -> str | None:
        """The model that the call means."""
        return self._value("multiplexed_model_id")

    def traceparent(self) -> str | None:
        """The trace that the call is part of, in the form of the W3C."""
        return self._value("traceparent")

    def tracestate(self) -> str | None:
        """What goes with `traceparent`."""
        return self._value("tracestate")

    def set_code(self, code: grpc.StatusCode) -> None:
        """Has the call end with this code, also when it raises an exception afterwards."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Has the call end with this text beside its code, also when it raises an exception afterwards."""
        self._details = details

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, Any]]) -> None:
        """Sends these with the end of the call, in place of what was set before."""
        own = [(key, value) for key, value in self._trailing_metadata if key == _REQUEST_ID][:1]
        self._trailing_metadata = [*own, *trailing_metadata]

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compresses what is sent from now on, if the client can read that. It is set before the first answer."""
        self._compression = compression

    def _value(self, key: str) -> str | None:
        return next((value for one, value in reversed(self.invocation_metadata()) if one == key), None)

    def _ask(self) -> None:
        if self._client is not None:
            (self._metadata, self._peer), self._client = self._client(), None

    def __getstate__(self) -> dict[str, Any]:
        # The way back to the request stays in its process.
        self._ask()
        return self.__dict__.copy()
