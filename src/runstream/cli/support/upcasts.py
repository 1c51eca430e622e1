"""Import the rules by which a command reads what older versions of a program wrote."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from runstream.codec.upcasts import Upcasts
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import one_of_kind

__all__ = ["load_upcasts"]


def load_upcasts(name: str) -> Upcasts:
    """Import rules, also from the current directory.

    Args:
        name: ``MODULE:NAME``.

    Raises:
        ConfigurationError: There are no Upcasts of that name.
    """
    module, _, variable = name.partition(":")
    if not module or not variable:
        raise ConfigurationError(
            f"--upcasts {name!r:.200}: name them as MODULE:NAME, for example myagent.schema:upcasts"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = getattr(importlib.import_module(module), variable)
    except Exception as error:  # a module may raise anything as it is imported
        raise ConfigurationError(
            f"--upcasts {name:.200}: it cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Upcasts):
        raise ConfigurationError(f"--upcasts {name:.200}: that is {one_of_kind(found)}, not Upcasts")
    return found
