"""The token of a stream of many runs: packed, at most 4 kB, and nothing else is taken for one."""

from __future__ import annotations

import base64
import math
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runstream.model.results import Cursor
from runstream.web.problems import Refused
from runstream.web.tokens import MOST_HELD, Token, fingerprint

CURSORS = st.builds(Cursor, st.integers(1, 2**53), st.integers(0, 2**43 - 58))


def test_the_largest_token_has_less_than_four_kilobytes() -> None:
    held = {fingerprint("x" * 500 + str(number)): Cursor(2**53, 2**43 - 58) for number in range(MOST_HELD)}
    assert len(held) == MOST_HELD
    assert len(str(Token(1796048910.5, held))) <= 4096
    assert Token.parse(str(Token(1796048910.5, held))).held == held
    with pytest.raises(Refused):
        Token.parse(str(Token(1796048910.5, {**held, fingerprint("one more"): None})))


@given(st.floats(allow_nan=False), st.dictionaries(st.text(max_size=4), st.none() | CURSORS, max_size=9))
@example(-math.inf, {})
def test_a_token_is_read_as_it_was_written(floor: float, runs: dict[str, Cursor | None]) -> None:
    token = Token(floor, {fingerprint(run_id): cursor for run_id, cursor in runs.items()})
    assert Token.parse(str(token)) == token


@given(st.binary(max_size=60))
@example(b"")
@example(b"\x01" + b"\x7f\xf8" + bytes(6))
@example(b"\x01" + bytes(8) + b"12345678" + b"\xff" * 30)
def test_what_is_no_token_is_refused_and_nothing_else_is_raised(data: bytes) -> None:
    text = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    with suppress(Refused):
        Token.parse(text)


@pytest.mark.parametrize("text", ["5-77", "ä", "=", "A" * 5, "AA AA", "x" * 9000])
def test_a_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        Token.parse(text)
