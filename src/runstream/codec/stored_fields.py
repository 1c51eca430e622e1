"""What was stored once, as nothing but its fields, and the names that fields may have.

What a user stores has no name that starts with ``$``: such names stand beside it in archives and are ours. Of
these, the schema version is one of the fields that are stored, and what was stored once keeps the one that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from runstream.codec.upcasts import SCHEMA, check_mark
from runstream.model.errors import EncodingError
from runstream.model.identifiers import shown

__all__ = ["EventFields", "StateFields", "check_names"]

_RESERVED = "$"


class EventFields(NamedTuple):
    """An event that was stored once and is nothing but its fields, for a codec to encode.

    Attributes:
        fields: The fields by name.
    """

    fields: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The fields."""
        return self.fields


class StateFields(dict[str, Any]):
    """A state that was stored once and is nothing but its fields, for a codec to encode."""


def check_names(fields: Mapping[str, Any], *, is_stored: bool) -> None:
    """Refuse fields whose names are no text, or are ours.

    Args:
        fields: The fields by name.
        is_stored: They were stored once: the schema version may be among them.

    Raises:
        EncodingError: One has such a name.
    """
    if is_stored:
        check_mark(fields)
    for name in fields:
        if not isinstance(name, str) or (name.startswith(_RESERVED) and not (is_stored and name == SCHEMA)):
            raise EncodingError(
                f"field {shown(name)}: names are strings that do not start with {_RESERVED!r}",
                path=name if type(name) is str else shown(name),
            )
