"""Write the fields of an event or a state as an archive does: what ``to_json`` of both gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runstream.codec.fallback import plain_data
from runstream.codec.lossless_json import dump_json, load_object
from runstream.codec.own_stack import with_room
from runstream.codec.plain_values import plain_copy
from runstream.model.json_text import JsonCodec, use_codec

__all__: list[str] = []


def _dump(fields: Mapping[str, Any]) -> str:
    return dump_json({name: with_room(plain_copy, value, plain_data, name) for name, value in fields.items()})


use_codec(JsonCodec(_dump, load_object))
