"""How a store is opened and closed: as a context manager, once, and by its URL in another process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

__all__ = ["AsyncLifecycle", "Lifecycle"]


class _ByUrl:
    """Pickles a store as the call that opens it again."""

    _reopen: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def reopens_with(self, function: Callable[..., Any], *args: Any) -> Self:
        """Say which call opens this store again, in this process or another."""
        self._reopen = (function, args)
        return self

    def _sharing_all_but(self, **own: Any) -> Self:
        """The same store in another object, which owns these attributes and neither opens nor closes anything."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), _release=None, _twin_of=self, **own)
        return twin

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self._reopen is None:
            raise TypeError(
                f"this {type(self).__name__} holds what cannot go to another process; open it with"
                " runstream.connect(url), and it is pickled by its URL"
            )
        return self._reopen


class Lifecycle(_ByUrl):
    """A store that is a context manager. What it owns is given back once, when it is closed."""

    _release: Callable[[], None] | None = None

    def owns(self, release: Callable[[], None]) -> Self:
        """Say what to call when the store is closed."""
        self._release = release
        return self

    def close(self) -> None:
        """Give back what the store holds open. Closing twice is fine."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncLifecycle(_ByUrl):
    """:class:`Lifecycle`, awaited."""

    _release: Callable[[], Awaitable[None]] | None = None

    def owns(self, release: Callable[[], Awaitable[None]]) -> Self:
        """Say what to await when the store is closed."""
        self._release = release
        return self

    async def close(self) -> None:
        """Give back what the store holds open. Closing twice is fine."""
        release, self._release = self._release, None
        if release is not None:
            await release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
