"""Note which events a store decodes, one by one or many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runstream.codec import plain_events
from runstream.codec.event_codec import Codec
from runstream.codec.field_checks import FIELDS

__all__ = ["note_decoded"]

_SEQ = FIELDS.index("seq")


def note_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seqs of the events that are decoded from now on."""
    seqs: list[int] = []
    make = Codec.make_event

    def make_event(codec: Any, offset: int, fields: dict[str, Any]) -> Any:
        seqs.append(fields["seq"])
        return make(codec, offset, fields)

    def noting(name: str) -> Callable[..., Any]:
        load: Callable[..., Any] = getattr(plain_events, name)

        def loading(*args: Any, **options: Any) -> Any:
            values = load(*args, **options)
            seqs.extend(own[_SEQ] for own in values or ())
            return values

        return loading

    for name in ("decode_plain_records", "plain_values"):
        monkeypatch.setattr(plain_events, name, noting(name))
    decode = Codec.decode_event

    def decode_event(*args: Any) -> Any:
        event = decode(*args)
        seqs.append(event.seq)
        return event

    monkeypatch.setattr(Codec, "decode_event", decode_event)
    monkeypatch.setattr(Codec, "make_event", make_event)
    return seqs
