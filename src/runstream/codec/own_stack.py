"""Give a call that goes deep a stack of its own where the caller's is used up.

Python counts frames per thread. A caller that stands 700 frames deep has not enough of them left for a value that
is nested as deeply as a store takes it, and whether a value reads must not depend on who reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["with_room"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def with_room(call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Make a call; if the stack has no room for it, make it again in a thread whose stack is empty.

    Args:
        call: A function that may be called again.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        What it returns.

    Raises:
        ValueError: An empty stack has no room for it either.
    """
    try:
        return call(*args, **kwargs)
    except RecursionError:
        pass
    done: list[Any] = []
    failed: list[BaseException] = []

    def again() -> None:
        try:
            done.append(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is raised where it belongs, below
            failed.append(error)

    thread = threading.Thread(target=again, name="runstream-own-stack")
    try:
        thread.start()
    except RecursionError as error:
        raise ValueError("the stack has no room left") from error
    thread.join()
    if not failed:
        return done[0]  # type: ignore[no-any-return] # a list of one type would not be empty
    if isinstance(failed[0], RecursionError):
        raise ValueError("it is nested too deeply") from failed[0]  # noqa: TRY004 - no wrong type
    raise failed[0]
