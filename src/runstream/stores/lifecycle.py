"""The lifecycle of a store: closed once, and opened again by its URL in another process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

__all__ = [
    "AsyncClosing",
    "AsyncLifecycle",
    "Closing",
    "Lifecycle",
    "own",
    "own_async",
    "place_at",
    "place_like",
    "reopen_with",
]

T = TypeVar("T", bound="_Reopened")

_PATHS = {"db_path": "sqlite:", "base_dir": "jsonl:"}
"""The attributes that name a path, and the stores that have one."""


class _Reopened:
    """A store that is pickled as the call that opens it again."""

    _reopen: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
    _place = ""

    def __repr__(self) -> str:
        """Its class, and where its runs are; never a password."""
        return f"<{type(self).__name__} {self._place}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError, and say which stores have what purpose-agent's have."""
            if name in _PATHS:
                raise AttributeError(
                    f"{self!r} has no {name}: a {_PATHS[name]} store has one", name=name, obj=self
                )
            return object.__getattribute__(self, name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self._reopen is None:
            raise TypeError(
                f"this {type(self).__name__} holds what cannot go to another process; open it with"
                " runstream.connect(url), and it is pickled by its URL"
            )
        return self._reopen


class Closing:
    """What is a context manager, and gives back what it owns once, when it is closed."""

    _release: Callable[[], None] | None = None

    def close(self) -> None:
        """Give back what is held open. Closing twice is fine."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClosing:
    """What is an async context manager, and gives back what it owns once, when it is closed."""

    _release: Callable[[], Awaitable[None]] | None = None

    async def close(self) -> None:
        """Give back what is held open. Closing twice is fine."""
        release, self._release = self._release, None
        if release is not None:
            await release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Lifecycle(Closing, _Reopened):
    """A store that is closed, and opened again elsewhere."""


class AsyncLifecycle(AsyncClosing, _Reopened):
    """A store for asyncio that is closed, and opened again elsewhere."""


def own(owner: Closing, release: Callable[[], None]) -> None:
    """Set what to call when something is closed, such as a store."""
    owner._release = release


def own_async(owner: AsyncClosing, release: Callable[[], Awaitable[None]]) -> None:
    """Set what to await when something is closed, such as a store."""
    owner._release = release


def place_at(store: Lifecycle | AsyncLifecycle, place: str) -> None:
    """Set where the runs of a store are, for people to read: without user and password."""
    store._place = place


def place_like(store: AsyncLifecycle, other: Lifecycle) -> None:
    """Set that the runs of a store are where those of another are, its path included."""
    store._place = other._place
    vars(store).update((name, path) for name, path in vars(other).items() if name in _PATHS)


def reopen_with(store: T, function: Callable[..., Any], *args: Any) -> T:
    """Set the call that opens a store again, in this process or another. Returns the store."""
    store._reopen = (function, args)
    return store
