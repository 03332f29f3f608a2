"""What `@serve.batch` makes of a function, for readers of types: single values in place of lists.

A function of one list is told whole. One of several lists is only told to be callable.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar, overload

S = TypeVar("S")
"""The object of a method."""
T = TypeVar("T")
R = TypeVar("R")
Item = TypeVar("Item", contravariant=True)
Answer = TypeVar("Answer", covariant=True)


class Batched(Protocol[Item, Answer]):
    """A function of single values."""

    def __call__(self, item: Item, /) -> Answer: ...
    def set_max_batch_size(self, new_max_batch_size: int, /) -> None: ...
    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float, /) -> None: ...


class BatchedMethod(Generic[T, R]):
    """What a class has of it; its objects have a `Batched`."""

    def __get__(self, instance: object, owner: type | None = None) -> Batched[T, R]:
        raise NotImplementedError("it is for readers of types")


class Decorator(Protocol):
    """`@serve.batch` with parameters."""

    @overload
    def __call__(
        self, func: Callable[[S, list[T]], Coroutine[Any, Any, list[R]]], /
    ) -> BatchedMethod[T, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, func: Callable[[list[T]], Coroutine[Any, Any, list[R]]], /
    ) -> Batched[T, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, func: Callable[[S, list[T]], AsyncIterator[list[R | type[StopIteration]]]], /
    ) -> BatchedMethod[T, AsyncGenerator[R, None]]: ...
    @overload
    def __call__(
        self, func: Callable[[list[T]], AsyncIterator[list[R | type[StopIteration]]]], /
    ) -> Batched[T, AsyncGenerator[R, None]]: ...
    @overload
    def __call__(self, func: Callable[..., Any], /) -> Any: ...
