"""Stores of purpose-agent's own types, and its own files read and imported."""

from runstream.integrations.purpose_agent.stores import connect, connect_async

__all__ = ["connect", "connect_async"]
