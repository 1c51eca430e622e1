"""Breaks of what is noted of tags, archived and found."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.breaks.one import Break, in_script

__all__ = ["OF_TAGS"]


OF_TAGS: Sequence[Break] = (
    Break(
        "a run is settled without its tags",
        "taggers",
        in_script("settle", ("if meta['tags'] and archived['tags'] ~= meta['tags'] then", "if false then")),
        seed=16,
    ),
    Break("a retired run has no tags any more", "tags", in_script("retire", ("keep('tags')\n", "")), seed=3),
    Break(
        "a sweep leaves runs out of the indexes of their tags",
        "tags",
        in_script("index_tags", ("for i = 3, #ARGV do", "for i = 3, 0 do")),
        seed=10,
    ),
)
