"""Print what commands find: tables or one JSON document on stdout, everything else on stderr.

A run's names and payloads are its writers' text, so what a terminal would obey is escaped: by the console,
whatever is printed on it, and by ``say``. Cells and headings are escaped before, so that columns are as wide as
what they show.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from runstream.codec.json_facts import moment
from runstream.codec.lossless_json import dump_json
from runstream.model.errors import StoreUnavailable

__all__ = [
    "ago",
    "bytes_text",
    "clock",
    "console",
    "counted",
    "day",
    "emit_json",
    "error_text",
    "make_table",
    "print_table",
    "printable",
    "say",
    "spaced",
    "without_credentials",
    "without_passwords",
]

_IDS = frozenset(  # columns of them, by heading
    {"run", "parked run", "unparked run", "archived, still in Redis", "session", "lane", "worker"}
)
_ID_WIDTH = 40  # of a column of ids at a terminal: a UUID is whole, and half of 80 columns is left
_SECRETS = re.compile(r"(?<=://)[^\s)'\"]+|(?<=password=)[^\s)'\"]+|[^\s('\"/]+(?=@)")
_CREDENTIALS = re.compile(
    r"(://)[^\s)'\"]*(?:@|password=)[^\s)'\"]*|[^\s('\"/:]*:[^\s('\"/]+(?=@)|(?<=password=)[^\s)'\"]+"
)
_ANY_WIDTH = 100_000  # nothing is cut off or wrapped for a program that reads


class _Console(Console):
    """Escapes text, and raises BrokenPipeError for a reader that went away, as every other way to write does."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, escaped wherever it comes from; line ends and rich's own controls stay."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else "\n".join(map(printable, text.split("\n"))), style, control)

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  rich calls this in its except clause


def console(file: TextIO, *, wide: bool = False) -> Console:
    """A console that shows text as it is; without a terminal, or if it is to be wide, as wide as need be.

    With NO_COLOR it has no styles at all, bold neither.
    """
    width = None if file.isatty() and not wide else _ANY_WIDTH
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return _Console(
        file=file, width=width, color_system=colours, markup=False, highlight=False, emoji=False, soft_wrap=wide
    )


def say(text: str) -> None:
    """Print one line for a person, on stderr."""
    sys.stderr.write(f"runstream: {printable(text)}\n")
    sys.stderr.flush()


def error_text(error: BaseException) -> str:
    """What an error says, on one line, without the next step of a program's call, which is none of a command's.

    Of a URL that was given in place of something else no password is repeated.
    """
    said = " ".join((error.reason if isinstance(error, StoreUnavailable) else str(error)).split())
    return without_credentials(said)


def without_passwords(text: str) -> str:
    """The text without what stands behind ``://`` and ``password=``, and before ``@``."""
    return _SECRETS.sub("…", text)


def without_credentials(text: str) -> str:
    """The text without the places of URLs that have a password; those of others stay."""
    return _CREDENTIALS.sub(r"\1…", text)


def emit_json(document: Any, *, on_one_line: bool = False) -> None:
    """The one JSON document of a command. Values that JSON has no type for are tagged as in the archive.

    ``on_one_line`` is for one of many, so that whoever reads them knows where each ends.
    """
    sys.stdout.write(json.dumps(json.loads(dump_json(document)), indent=None if on_one_line else 2) + "\n")
    sys.stdout.flush()


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    names: Collection[str] = (),
    unfolded: Collection[str] = (),
    wide: bool = False,
) -> None:
    """Print a table on stdout, as :func:`make_table` makes it; a wide one whole, however wide the terminal is."""
    console(sys.stdout, wide=wide).print(make_table(columns, rows, title=title, names=names, unfolded=unfolded))


def spaced(tables: Iterable[Table]) -> Iterator[Table | Text]:
    """The tables, with an empty line between two."""
    for number, table in enumerate(tables):
        if number:
            yield Text()
        yield table


def make_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    names: Collection[str] = (),
    unfolded: Collection[str] = (),
) -> Table:
    """A table for stdout, without columns that are empty. A cell that is None stays empty.

    Where a terminal is narrow, columns of texts are folded; those of numbers, which are aligned to the right, and
    the ``unfolded`` ones keep their width. An id is never folded: it is cut where it is long, in the columns of
    ``names`` as much as need be, for tables that have no text to fold.
    """
    cells, title = [list(row) for row in rows], printable(title)
    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    shown = [at for at in range(len(columns)) if not cells or any(row[at] not in (None, "") for row in cells)]
    for at in shown:
        numeric = bool(cells) and all(isinstance(row[at], int | None) for row in cells)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        is_whole = numeric or columns[at] in unfolded or columns[at] in _IDS.difference(names)
        overflow: Literal["ellipsis", "fold"] = "ellipsis" if is_whole else "fold"
        table.add_column(printable(columns[at]), justify=justify, overflow=overflow, no_wrap=is_whole)
    for row in cells:
        table.add_row(*(_cell(columns[at], row[at], names) for at in shown))
    return table


def _cell(column: str, value: object, names: Collection[str]) -> str | Text:
    text = "" if value is None else printable(str(value))
    if column in names:
        return Text(text, no_wrap=True, overflow="ellipsis")
    if column in _IDS and sys.stdout.isatty() and len(text) > _ID_WIDTH:
        return f"{text[: _ID_WIDTH - 1]}…"
    return text


def printable(text: str) -> str:
    """The text with all escaped that is not printable: line ends, control characters, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def ago(timestamp: float, *, now: float | None = None) -> str:
    """How long ago that was, to one unit: ``12s ago``."""
    seconds = max(0.0, (time.time() if now is None else now) - timestamp)
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "m"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / size)}{unit} ago"
    return f"{int(seconds / 86_400)}d ago"


def clock(timestamp: float, *, local: bool = False) -> str:
    """The time of day, with milliseconds, of Unix time in seconds: in UTC, or in this machine's zone."""
    try:
        return moment(timestamp, local=local).strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return str(timestamp)


def day(timestamp: float, *, local: bool = False) -> str:
    """The date of Unix time in seconds, and its zone; nothing for a number that is no time."""
    try:
        return moment(timestamp, local=local).strftime("%Y-%m-%d %Z")
    except (ValueError, OverflowError, OSError):
        return ""


def counted(count: int, name: str) -> str:
    """A count with what is counted: ``1 event``, ``2 events``."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def bytes_text(size: int) -> str:
    """A size to one decimal: ``1.5 MiB``."""
    amount, units = float(size), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    for larger in units:
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
