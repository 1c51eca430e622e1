"""What the integration needs of its caller: purpose-agent, which is the user's to install, and a store."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import shown
from runstream.stores.facade import Store

__all__ = ["check_store", "purpose_agent"]


def purpose_agent(module: str) -> Any:
    """A module of purpose-agent, by its name there. Raises ConfigurationError if that is not installed."""
    try:
        return import_module(f"purpose_agent.{module}")
    except ImportError as error:
        raise ConfigurationError("purpose-agent is not installed: pip install purpose-agent") from error


def check_store(store: Any) -> None:
    """Raise ConfigurationError for what is no store, an async one included."""
    if not isinstance(store, Store):
        raise ConfigurationError(f"{shown(store)} is no store: pass what runstream.connect(url) gives")
