"""Runs over HTTP: ``runstream.web.app(store)`` is an ASGI app (``pip install 'runstream[web]'``).

Starlette is imported when the app is asked for, and not before.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from runstream.model.errors import ConfigurationError

if TYPE_CHECKING:
    from runstream.web.application import app

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_module(f"{__name__}.application").app
    except ImportError as error:
        raise ConfigurationError("the web app needs starlette; run: pip install 'runstream[web]'") from error
