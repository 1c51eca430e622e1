"""The branches of the scripts that games take are told as they are."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from runstream.testing.simulation import PLANS, Choices, play
from runstream.testing.simulation.__main__ import main
from runstream.testing.simulation.coverage import IFS, never_taken, noted
from tests.simulation.untaken import GROUPS, untaken

ROOT = Path(__file__).parents[2]


def test_each_if_of_each_script_is_known() -> None:
    assert ("enlist.lua", "call('HLEN', KEYS[1]) == 0 and #ARGV > 0") in [(one.file, one.condition) for one in IFS]
    directory = files("runstream.stores.redis.scripts")
    for file in (one for one in directory.iterdir() if one.name.endswith(".lua")):
        code = re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
        assert len(re.findall(r"\b(?:if|elseif)\b", code)) == sum(one.file == file.name for one in IFS)


def test_what_is_listed_as_untaken_is_there() -> None:
    """Each if, once, and each test that is named as one that takes it."""
    ways = [way for group in GROUPS for way in group.ways()]
    assert len(ways) == len(set(ways))
    assert set(ways) <= untaken(())
    for group in GROUPS:
        assert group.why
        for named in group.tests:
            path, _, name = named.partition("::")
            source = (ROOT / path).read_text(encoding="utf-8")
            assert f"def {name}(" in source, named


@pytest.mark.exhaustive
def test_a_game_is_the_same_while_branches_are_noted() -> None:
    plan = PLANS["storm"]
    with noted() as taken:
        finding = play(plan, Choices(3))
    assert finding.story == play(plan, Choices(3)).story
    never = never_taken(taken)
    by_place = {(one.file, one.condition): text for one, text in never.items()}
    assert ("enlist.lua", "call('HLEN', KEYS[1]) == 0 and #ARGV > 0") not in by_place
    assert by_place["settle.lua", "missing"] == "never true"
    assert by_place["drop.lua", "call('HEXISTS', KEYS[1], ARGV[1]) == 1 and call('HLEN', KEYS[1]) == 1"] == (
        "never true or false"
    )


@pytest.mark.exhaustive
def test_the_command_tells_of_the_branches(capsys: pytest.CaptureFixture[str]) -> None:
    main(steps=500, plan="storm", coverage=True)
    said = capsys.readouterr().out
    assert (
        "\ndrop.lua: 0 of 1 ifs were taken both ways\n  drop.lua:11: never true or false: call('HEXISTS'" in said
    )
    assert "enlist.lua: 1 of 1 ifs" in said
