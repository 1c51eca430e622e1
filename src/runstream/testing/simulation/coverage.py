"""Which branches of the Lua scripts were taken: of each ``if``, whether it was ever true, and ever false."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from itertools import groupby, pairwise
from typing import Any, NamedTuple, TypeAlias

from fakeredis.commands_mixins.scripting_mixin import ScriptingCommandsMixin

from runstream.stores.redis import scripts

__all__ = ["IFS", "If", "Taken", "never_taken", "noted", "told_coverage"]

_TOKEN = re.compile(r"--[^\n]*|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|\b(?:if|elseif|then)\b")
_COMMENT = re.compile(r"--[^\n]*")


class If(NamedTuple):
    """One ``if`` or ``elseif``: where its condition begins, and its condition."""

    file: str
    line: int
    condition: str


Taken: TypeAlias = tuple[If, bool]
"""An ``if``, and what its condition was."""


def _ifs_of(file: str, source: str) -> Iterator[tuple[If, int, int]]:
    """The ifs of a file, in the order in which they end, each with where its condition begins and ends."""
    open_at: list[int] = []
    for token in _TOKEN.finditer(source):
        if token[0] in ("if", "elseif"):
            open_at.append(token.end() + 1)
        elif token[0] == "then":
            begin = open_at.pop()
            line = source.count("\n", 0, begin) + 1
            condition = _COMMENT.sub("", source[begin : token.start()])
            yield If(file, line, " ".join(condition.split())), begin, token.start()


def _read() -> tuple[list[If], dict[str, str]]:
    """All ifs; and for each file's source another one, which tells of each if what its condition was."""
    ifs: list[If] = []
    told: dict[str, str] = {}
    for file in sorted(files(scripts).iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".lua"):
            continue
        source = file.read_text(encoding="utf-8")
        puts: dict[int, str] = defaultdict(str)
        for one, begin, end in _ifs_of(file.name, source):
            puts[begin] += f"redis.took({len(ifs)}, "
            puts[end] += ") "
            ifs.append(one)
        places = [0, *sorted(puts), len(source)]
        parts = (puts.get(a, "") + source[a:b] for a, b in pairwise(places))
        told[source] = "".join(parts)
    return ifs, told


IFS, _TOLD = _read()
"""Each ``if`` of the scripts."""

# whatever the condition is, the ``if`` gets it
_TOOK = "function(note) return function(number, is_so) note(number, is_so and true or false) return is_so end end"


@functools.cache
def _telling(script: bytes) -> bytes:
    """A script that tells what its conditions were."""
    source = script.decode()
    for part, told in _TOLD.items():
        source = source.replace(part, told)
    return source.encode()


@contextmanager
def noted() -> Iterator[set[Taken]]:
    """Let all simulated servers note which branches their scripts take; they are in what this gives."""
    taken: set[Taken] = set()
    evaluate: Callable[..., Any] = ScriptingCommandsMixin.eval

    def note(number: float, is_so: bool) -> None:
        taken.add((IFS[int(number)], is_so))

    def evaluate_telling(self: Any, script: bytes, *args: Any) -> Any:
        runtime = self._get_server_runtime(self._server)
        runtime.globals()[b"redis"][b"took"] = runtime.eval(_TOOK)(note)
        return evaluate(self, _telling(script), *args)

    ScriptingCommandsMixin.eval = evaluate_telling  # type: ignore[method-assign] # put back below
    try:
        yield taken
    finally:
        ScriptingCommandsMixin.eval = evaluate  # type: ignore[method-assign] # as it was


def never_taken(taken: Collection[Taken]) -> Mapping[If, str]:
    """The ifs that were not taken both ways, and what they never were."""
    never = {}
    for one in IFS:
        ways = [text for text, is_so in (("true", True), ("false", False)) if (one, is_so) not in taken]
        if ways:
            never[one] = f"never {' or '.join(ways)}"
    return never


def told_coverage(taken: Collection[Taken]) -> Iterator[str]:
    """Lines that tell of each script how many of its ifs were taken both ways, and which were not."""
    never = never_taken(taken)
    for file, of_file in groupby(IFS, lambda one: one.file):
        ifs = list(of_file)
        left = [one for one in ifs if one in never]
        yield f"{file}: {len(ifs) - len(left)} of {len(ifs)} ifs were taken both ways"
        yield from (f"  {one.file}:{one.line}: {never[one]}: {one.condition}" for one in left)
