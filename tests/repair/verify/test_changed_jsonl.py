"""Whatever is changed in a JSONL archive is found, and named with its offset."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from tests.repair.verify.world import World
from tests.support.checksums import without_checksums
from tests.support.samples import make_event


def line_of(lines: list[str], offset: int) -> int:
    return next(at for at, line in enumerate(lines) if f'"$offset":{offset},' in line and "$run" not in line)


def edit(pattern: str, by: str, offset: int = 5) -> Callable[[list[str]], None]:
    def act(lines: list[str]) -> None:
        at = line_of(lines, offset)
        changed = re.sub(pattern, by, lines[at], count=1)
        assert changed != lines[at]
        lines[at] = changed

    return act


def remove(offset: int) -> Callable[[list[str]], None]:
    def act(lines: list[str]) -> None:
        del lines[line_of(lines, offset)]

    return act


def double(offset: int) -> Callable[[list[str]], None]:
    return lambda lines: lines.insert(line_of(lines, offset), lines[line_of(lines, offset)])


def swap(offset: int) -> Callable[[list[str]], None]:
    def act(lines: list[str]) -> None:
        at = line_of(lines, offset)
        lines[at], lines[at + 1] = lines[at + 1], lines[at]

    return act


JSONL: dict[str, tuple[Callable[[list[str]], None], int | None, str]] = {
    "a line removed": (remove(5), 5, "missing"),
    "the first line removed": (remove(1), 1, "missing"),
    "a line doubled": (double(5), 5, "twice"),
    "lines swapped": (swap(5), 5, ""),
    "text changed": (edit('"n":5', '"n":6'), 5, "its chain is of"),
    "the run's name": (edit('"run_id":"r"', '"run_id":"q"'), 5, ""),
    "a brace less": (edit(r'"payload":\{', '"payload":'), 5, "does not read"),
    "no JSON": (edit(r"^.{30}", "junk"), 5, ""),
    "the offset": (edit(r'"\$offset":5,', '"$offset":50,'), 5, ""),
    "the chain": (edit(r'"\$chain":\d', '"$chain":'), 5, "its chain is of"),
    "the key": (edit('"k1"', '"kx"', 11), 11, "its chain is of"),
    "no key": (edit(r',"\$key":"k2"', "", 13), 13, "its chain is of"),
    "a line of another program between": (
        lambda lines: lines.insert(line_of(lines, 5), json.dumps(make_event("r", 99).to_dict()) + "\n"),
        None,
        "",
    ),
}


@pytest.mark.one_in(16)
@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize("name", JSONL)
def test_what_was_changed_in_json_lines_is_found(world: World, name: str, hot: bool) -> None:
    act, offset, what = JSONL[name]
    log = world.jsonl / "events.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    act(lines)
    log.write_bytes(without_checksums("".join(lines).encode()))
    difference = world.verify(hot=hot, archives="jsonl").difference
    assert difference is not None
    assert what in difference.what, difference
    assert offset is None or difference.offset == offset, difference
    assert world.verify(archives="sqlite").is_sound
    assert not world.verify(hot=hot).is_sound


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("pattern", "by"),
    [('"\\$offset":10', '"$offset":99'), ('"run_id"', '"run_id'), ('"current_step":10', '"current_step":11')],
)
def test_a_changed_snapshot_file_is_found(world: World, pattern: str, by: str) -> None:
    path = world.jsonl / "snapshot.json"
    text = path.read_text()
    changed = re.sub(pattern, by, text, count=1)
    assert changed != text
    path.write_text(changed)
    difference = world.verify(archives="jsonl").difference
    assert difference is not None
    assert "snapshot" in difference.what
    assert world.verify(archives="sqlite").is_sound


def test_a_log_that_was_cut_or_removed_is_found(world: World) -> None:
    """An archive alone cannot know what it had; Redis does, and the other archive."""
    log = world.jsonl / "events.jsonl"
    text = log.read_text().splitlines(keepends=True)
    log.write_text("".join(text[:-3]))
    difference = world.verify(archives="jsonl").difference
    assert difference is not None
    log.unlink()
    difference = world.verify(hot=False, archives="jsonl").difference
    assert difference is not None
    assert "no history" in difference.what
    assert not world.verify(archives="jsonl").is_sound
