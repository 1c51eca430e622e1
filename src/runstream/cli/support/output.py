"""Print what commands find: tables or one JSON document on stdout, everything else on stderr.

A run's names and payloads are its writers' text, so what a terminal would obey is escaped: by the console,
whatever is printed on it, and by ``say``. Cells and headings are escaped before, so that columns are as wide as
what they show.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from runstream.codec.lossless_json import dump_json
from runstream.model.errors import StoreUnavailable
from runstream.model.results import Recorded

__all__ = [
    "ago",
    "bytes_text",
    "clock",
    "console",
    "emit_json",
    "error_text",
    "event_facts",
    "iso_time",
    "make_table",
    "print_table",
    "printable",
    "say",
    "short",
]

_PIPED_WIDTH = 100_000  # nothing is cut off or wrapped for a program that reads
_VALUES_WIDTH = 100  # characters of a payload or state on one line


class _Console(Console):
    """Escapes text, and raises BrokenPipeError for a reader that went away, as every other way to write does."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, escaped wherever it comes from; line ends and rich's own controls stay."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else "\n".join(map(printable, text.split("\n"))), style, control)

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  rich calls this in its except clause


def console(file: TextIO) -> Console:
    """A console that shows text as it is; without a terminal it is as wide as need be."""
    width = None if file.isatty() else _PIPED_WIDTH
    return _Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def say(text: str) -> None:
    """Print one line for a person, on stderr."""
    sys.stderr.write(f"runstream: {printable(text)}\n")
    sys.stderr.flush()


def error_text(error: BaseException) -> str:
    """What an error says, on one line, without the next step of a program's call, which is none of a command's."""
    return " ".join((error.reason if isinstance(error, StoreUnavailable) else str(error)).split())


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
    unfolded: Collection[str] = (),
) -> None:
    """Print a table on stdout, as :func:`make_table` makes it."""
    console(sys.stdout).print(make_table(columns, rows, title=title, unfolded=unfolded))


def make_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    unfolded: Collection[str] = (),
) -> Table:
    """A table for stdout; columns of numbers are aligned to the right. A cell that is None stays empty.

    The ``unfolded`` columns are the last to be folded where a terminal is narrow.
    """
    cells, title = [list(row) for row in rows], printable(title)
    piped = not sys.stdout.isatty()
    table = Table(box=None if piped else SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left")
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[index], int | None) for row in cells)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(printable(name), justify=justify, overflow="fold", no_wrap=name in unfolded)
    for row in cells:
        table.add_row(*("" if cell is None else printable(str(cell)) for cell in row))
    return table


def printable(text: str) -> str:
    """The text with all escaped that is not printable: line ends, control characters, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def iso_time(timestamp: float) -> str:
    """Unix time in seconds as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(timestamp: float, *, now: float | None = None) -> str:
    """How long ago that was, to one unit: ``12 s ago``."""
    seconds = max(0.0, (time.time() if now is None else now) - timestamp)
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / size)} {unit} ago"
    return f"{int(seconds / 86_400)} d ago"


def clock(timestamp: float) -> str:
    """The time of day in UTC, with milliseconds, of Unix time in seconds."""
    try:
        return datetime.fromtimestamp(timestamp, UTC).strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):  # a producer may write any number, also not-a-number
        return str(timestamp)


def short(values: Any, *, width: int = _VALUES_WIDTH) -> str:
    """A payload or state on one line: ``key=value`` pairs, cut off where they get long.

    One that is no mapping, as older versions took them, is JSON.
    """
    plain = json.loads(dump_json(values))
    if isinstance(plain, dict):
        text = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in plain.items())
    else:
        text = json.dumps(plain, ensure_ascii=False)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def event_facts(item: Recorded[Any]) -> dict[str, Any]:
    """An event with its offset and cursor, for JSON."""
    return {"offset": item.offset, "cursor": item.cursor, **item.event.to_dict()}


def bytes_text(size: int) -> str:
    """A size to one decimal: ``1.5 MiB``."""
    amount, units = float(size), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    for larger in units:
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
