"""An operation that waits, written once for sync and async: as steps that yield calls.

A generator yields each call that it wants made, and receives its result, or what it raises. The two
functions here differ in nothing but the waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

__all__ = ["Steps", "await_calls", "make_calls"]

T = TypeVar("T")

Steps: TypeAlias = Generator[Callable[[], Any], Any, T]
"""Yields calls, receives their results, returns a T."""


def make_calls(steps: Steps[T]) -> T:
    """The steps' result; each call that they yield is made here."""
    try:
        call = next(steps)
        while True:
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - what becomes of it is for the steps to decide
                call = steps.throw(error)
            else:
                call = steps.send(result)
    except StopIteration as done:
        outcome: T = done.value
        return outcome


async def await_calls(steps: Steps[T]) -> T:
    """The steps' result; what each call that they yield gives is awaited here."""
    try:
        call = next(steps)
        while True:
            try:
                result = await call()
            except BaseException as error:  # noqa: BLE001 - what becomes of it is for the steps to decide
                call = steps.throw(error)
            else:
                call = steps.send(result)
    except StopIteration as done:
        outcome: T = done.value
        return outcome
