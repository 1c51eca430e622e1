"""What is noted of an erasure, as text."""

from __future__ import annotations

import pytest

from runstream.model.erasures import ErasureNote, spans_of


def test_notes_are_written_as_text() -> None:
    for offsets_, text in (([3, 5, 6, 7], "3,5-7"), ([1], "1")):
        note = ErasureNote(1.0, spans_of(offsets_))
        assert note.text == text
        assert ErasureNote.parse(1.0, text) == note
    assert ErasureNote.parse(2.0, ErasureNote(2.0, (), 9).text) == ErasureNote(2.0, (), 9)
    for text in ("", "a", "1,", ",1", "1--2", "<", "1-2-3", "-1"):
        with pytest.raises(ValueError, match=r"names no offsets|invalid literal"):
            ErasureNote.parse(1.0, text)
