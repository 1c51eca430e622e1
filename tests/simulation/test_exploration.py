"""Every history of a small configuration ends well, and of a broken protocol one does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import typer

from runstream.testing.simulation.exploration import CONFIGURATIONS, Exploration, explore
from runstream.testing.simulation.exploration.__main__ import main
from tests.simulation.breaks.one import InScript, in_script

BREAKS: dict[str, tuple[str, InScript]] = {
    "what was proven is settled whatever is there now": (
        "failover",
        in_script("settle", ("elseif not entry or entry[1] ~= proven then", "elseif not entry then")),
    ),
    "what a writer has seen is not compared": (
        "failover",
        in_script("append", ("if seen ~= '-' and seen ~= meta[2] then", "if false then")),
    ),
    "a batch that is sent again is appended again": (
        "replies",
        in_script("append", ("if sent_batch == batch then", "if sent_batch == batch and false then")),
    ),
    "a lease is not compared where the write is": (
        "leases",
        in_script("append", ("if token ~= mine or epoch ~= of_mine then return {'unleased'} end", "")),
    ),
    "a run is deleted whichever it is by now": (
        "delete",
        in_script("delete", ("if (meta['start'] or '') ~= ARGV[2] then return 0 end", "")),
    ),
    "a run is parked for what another one of its name was": (
        "delete",
        in_script("park", ("if start ~= ARGV[2] then return 0 end", "")),
    ),
    "a run is retired with what is not archived yet": (
        "retire",
        in_script(
            "retire",
            (
                "  or (meta['mark'] or meta['start']) ~= meta['last'] or call('ZSCORE', KEYS[4], ARGV[1]) then",
                " then",
            ),
        ),
    ),
    "producers are cleared, and nothing is noted of them": (
        "cleared",
        in_script("clear", ("note_forgotten(KEYS[4], forgotten)", "")),
    ),
    "what an append has left is adopted though the run went on": (
        "unfinished",
        in_script(
            "adopt",
            (
                "if there ~= ARGV[2] or not call('XRANGE', KEYS[1], ARGV[4], ARGV[4])[1]",
                "if false and not call('XRANGE', KEYS[1], ARGV[4], ARGV[4])[1]",
            ),
            ("  or call('XRANGE', KEYS[1], '(' .. ARGV[4], '+', 'COUNT', 1)[1] then return", "  then return"),
        ),
    ),
    "a run that was deleted is listed": (
        "swept",
        in_script("relist", ("if meta[1] ~= ARGV[2] then return 0 end", "meta[2] = meta[2] or text(clock())")),
    ),
    "a run does not note that it is about to be forked": (
        "forked",
        in_script(
            "fork_intent",
            ("call('HSET', KEYS[3], ARGV[5], 'intent ' .. ARGV[6] .. ' ' .. cursor .. ' ' .. now)\n", ""),
        ),
    ),
    "a fork is made that was given up": (
        "forked",
        in_script("fork", ("if call('ZSCORE', KEYS[8], string.match(ARGV[2], '%d+$')) then", "if false then")),
    ),
    "a fork is given up, and nothing says so": (
        "forked",
        in_script("give_up", ("call('ZADD', KEYS[2], text(now), ARGV[1])\n", "")),
    ),
    "a run forgets a fork once it was made": (
        "forked",
        in_script("fork_end", ("if ARGV[4] == 'gone' then", "if true then")),
    ),
    "a run is deleted though it was forked meanwhile": (
        "forked",
        in_script("delete", (" or call('EXISTS', KEYS[15]) == 1 then", " then")),
    ),
}


def _check(name: str, found: Exploration) -> None:
    assert not found.faults, f"{name}: {found.faults[:3]}\n" + "\n".join(found.story)
    assert found.is_whole


def test_every_history_of_a_small_configuration_ends_well() -> None:
    found = explore(CONFIGURATIONS["retire"])
    _check("retire", found)
    assert found.histories > 5


def test_a_small_break_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _find_break("a run is retired with what is not archived yet", monkeypatch)


@pytest.mark.exhaustive
def test_the_command_tells_how_much_was_played(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main("retire", faults=0)
    assert capsys.readouterr().out.startswith("retire: all histories, which come to 13 ends of 51 steps")
    BREAKS["a run is retired with what is not archived yet"][1](monkeypatch)
    with pytest.raises(typer.Exit):
        main("retire")
    assert "worker: sends retire" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_what_is_played_is_the_same_each_time() -> None:
    assert explore(CONFIGURATIONS["cleared"]) == explore(CONFIGURATIONS["cleared"])


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_history_ends_well(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = explore(CONFIGURATIONS[name])
    with capsys.disabled():
        print(f"\nexplored: {name}: {found.told()}")
    _check(name, found)


@pytest.mark.exhaustive
@pytest.mark.one_in(1, exhaustively=2)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["retire", "delete", "failover", "forked"])
def test_every_history_ends_well_where_commands_are_executed_one_by_one(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explore(replace(CONFIGURATIONS[name], one_by_one=True))
    with capsys.disabled():
        print(f"\nexplored: {name}, one by one: {found.told()}")
    _check(name, found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _find_break(name, monkeypatch)


def _find_break(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration, make = BREAKS[name]
    make(monkeypatch)
    found = explore(CONFIGURATIONS[configuration])
    assert found.faults
    assert not any("Traceback" in fault for fault in found.faults)
    assert found.story
