"""LangGraph's checkpointer over any store: import it with ``pip install 'runstream[langgraph]'``."""

from runstream.integrations.langgraph.async_saver import AsyncRunstreamSaver
from runstream.integrations.langgraph.saver import RunstreamSaver

__all__ = ["AsyncRunstreamSaver", "RunstreamSaver"]
