"""LangGraph's checkpointer over any store: ``pip install 'runstream[langgraph]'``.

LangGraph is imported when a saver is asked for, and not before: what reads the threads of a store needs none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstream.integrations.langgraph.async_saver import AsyncRunstreamSaver
    from runstream.integrations.langgraph.saver import RunstreamSaver

__all__ = ["AsyncRunstreamSaver", "RunstreamSaver"]

_HOMES = {"AsyncRunstreamSaver": "async_saver", "RunstreamSaver": "saver"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
