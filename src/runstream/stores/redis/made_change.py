"""A change that ``update_state`` made, by which a repeated call is known from one that makes another change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType
from typing import Any, NamedTuple

from runstream.codec.snapshot_fields import PackedState

__all__ = ["MadeChange"]


class MadeChange(NamedTuple):
    """The function that changed a state, and the packed state that it was given; None for a new one."""

    change: Callable[[Any], Any]
    before: PackedState | None

    def is_same_call(self, change: Callable[[Any], Any]) -> bool:
        """Whether a caller passes this function again: the same, or made anew of the same code and values."""
        try:
            return _is_same(self.change, change)
        except Exception:  # noqa: BLE001 - values of the caller's, whose comparison may raise anything
            return False


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        return one.__code__ is other.__code__ and _values(one) == _values(other)
    if isinstance(one, partial) and isinstance(other, partial):
        return _is_same(one.func, other.func) and (one.args, one.keywords) == (other.args, other.keywords)
    return bool(one == other)


def _values(function: FunctionType) -> tuple[Any, ...]:
    """What a function brings along: its defaults, and the values of its closure."""
    return function.__defaults__, function.__kwdefaults__, [*map(_value, function.__closure__ or ())]


def _value(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None
