"""The Lua scripts, each with the commands that whoever calls it must be allowed to call.

A script that is refused a command in its midst stays half done, so what it needs is found out before it is called
(:mod:`~runstream.stores.redis.connection.rights`). Who calls one script of a group calls its others too, so that
nobody who lacks one of them comes half way: a worker that may not trim does not begin to archive.
"""

from __future__ import annotations

import re
from importlib.resources import files

from runstream.stores.redis.scripts.script import Script

__all__ = ["RIGHTS", "SCRIPT", "SCRIPTS", "called_by", "commands_of"]

_GROUPS = (
    ("append", "gather", "adopt", "revoke"),
    ("lease",),
    ("delete",),
    ("fork_intent", "fork"),
    ("fork_end", "give_up"),
    ("detach",),
    ("erase", "rebuild", "note_erasure"),
    (
        *("enlist", "claim", "extend", "load", "settle", "park", "aside", "relist", "index_tags", "tagged"),
        *("report", "retire", "forget", "clear"),
    ),
    ("refill", "switch"),
    ("drop",),
    ("revisit",),
    ("unpark",),
)
"""The scripts that write, by who calls them together."""
_READING = ("uncovered",)
"""Those that write nothing: refused in its midst, one leaves nothing half done, so nobody is asked before."""

_BEFORE = {
    "append": ("append_parts", "append_fast_path"),  # first: where it applies, the rest is not run
    "gather": ("append_parts",),
}
"""What comes before the rest of a script."""

# what is called by pcall is done without; INFO is asked for at connect
_CALLED = re.compile(r"\bcall\('([A-Z]+)'")
_TRIED = re.compile(r"\bpcall\('([A-Z]+)'")


def _source(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _source_of(name: str) -> str:
    """The source of a script, with what it shares with others."""
    return "".join(map(_source, (*_BEFORE.get(name, ()), "common", name)))


def commands_of(source: str) -> frozenset[str]:
    """The names of the commands that a script cannot do without."""
    return frozenset(_CALLED.findall(source))


def called_by(*names: str) -> frozenset[str]:
    """The names of the commands that scripts call, those that they can do without included."""
    source = "".join(SCRIPT[name].source for name in names)
    return frozenset((*_CALLED.findall(source), *_TRIED.findall(source)))


def _load() -> dict[str, Script]:
    scripts = {}
    for group in _GROUPS:
        sources = {name: _source_of(name) for name in group}
        needs = commands_of("".join(sources.values()))
        scripts.update({name: Script(name, source, needs) for name, source in sources.items()})
    scripts.update({name: Script(name, _source(name), frozenset()) for name in _READING})
    return scripts


SCRIPT = _load()
"""The scripts by name."""
SCRIPTS = tuple(SCRIPT.values())
RIGHTS = Script("rights", _source("rights"), frozenset())
"""Finds out what the others must be allowed."""
