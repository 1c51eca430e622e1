"""What is awaited, opened with ``await`` or ``async with``, or read with ``async for``: each says so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from runstream.model.errors import ConfigurationError

__all__ = ["AsyncItems", "AsyncOnly", "Awaited", "Opening"]


class _Enterable(Protocol):
    """An async context manager that gives itself."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...


T = TypeVar("T", bound=_Enterable)


class _NotOpened(ConfigurationError, AttributeError):
    """What was asked for, only the opened object has."""


class Opening(Generic[T]):
    """An object that is still to be opened: ``opened = await opening``, or ``async with opening as opened``.

    Args:
        begin: Opens it.

    Raises:
        ConfigurationError: It is used before it is opened.
    """

    def __init__(self, begin: Callable[[], Awaitable[T]]) -> None:
        self._begin = begin
        self._opened: T | None = None

    def __repr__(self) -> str:
        """That it is still to be opened."""
        return "<to be opened: await it, or enter it with async with>"

    if not TYPE_CHECKING:  # whose words come first, where it is asked

        def __getattr__(self, name: str) -> Any:
            """Raise ConfigurationError for what only the opened object has. Python asks for its own names."""
            if name.startswith("_"):
                raise AttributeError(name)
            raise _NotOpened(f"it has no {name} before it is opened: await it first, or enter it with async with")

        def __enter__(self) -> Any:
            raise ConfigurationError("this is opened with async with, in an async def")

        def __exit__(self, *_: object) -> None: ...

    def __await__(self) -> Generator[Any, Any, T]:
        return self._begin().__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._begin()
        await self._opened.__aenter__()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, trace)


Item = TypeVar("Item")


Value = TypeVar("Value")


class Awaited(Generic[Value]):
    """The value of an attribute that takes waiting: ``value = await store.attribute``.

    Args:
        ask: Asks for it, each time that it is awaited.
    """

    def __init__(self, ask: Callable[[], Awaitable[Value]]) -> None:
        self._ask = ask

    def __repr__(self) -> str:
        """That it is still to be awaited."""
        return "<to be awaited>"

    def __await__(self) -> Generator[Any, Any, Value]:
        return self._ask().__await__()


class AsyncOnly:
    """What gives its items with ``async for``, and says so to ``for``, which raises ConfigurationError."""

    if not TYPE_CHECKING:

        def __iter__(self) -> Any:
            raise ConfigurationError("these come with async for, in an async def")


class AsyncItems(AsyncOnly, AsyncIterator[Item]):
    """The items of an async generator, for ``async for``; ``aclose`` ends it.

    Args:
        generator: Gives them.

    Raises:
        ConfigurationError: They are asked for with ``for``.
    """

    def __init__(self, generator: AsyncGenerator[Item, None]) -> None:
        self._generator = generator

    def __aiter__(self) -> AsyncIterator[Item]:  # noqa: PYI034 - the generator itself: nothing is in between
        return self._generator

    async def __anext__(self) -> Item:
        return await anext(self._generator)

    async def aclose(self) -> None:
        """End the generator."""
        await self._generator.aclose()
