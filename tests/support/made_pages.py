"""The pages that are made: ``docs/errors.md`` of what ``runstream explain`` says, and the site's of the commands.

``python -m tests.support.made_pages`` makes the first anew; a test says when that is to be done.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.main import get_command

from runstream.cli import app
from runstream.cli.support.error_texts import explanations
from runstream.cli.support.exit_codes import EXIT_CODES

DOCS = Path(__file__).parents[2] / "docs"

ERRORS = """# Errors

What each error means: when it comes, why, and what to do. `runstream explain LeaseLost` prints the same.
After every error but `StoreUnavailable` and `DurabilityNotReached`, nothing was written of what the call sent.
"""

COMMANDS = """# Command line

All commands, with their options, as `runstream COMMAND --help` tells them. `python -m runstream` is the same.

`runstream --version` prints the version, and those that a bug report needs; `--debug`, before the command, the
traceback of an error.
`RUNSTREAM_URL` stands for `--url` where none is given.
"""


def errors_page() -> str:
    """All errors, each with its heading."""
    parts = [ERRORS]
    for one in explanations().values():
        parts.append(f"## {one.name}\n\n{one.summary}\n")
        parts.append(f"**When:** {one.when}\n\n**Why:** {one.why}\n\n**What to do:** {one.what_to_do}\n")
        if one.facts:
            parts.append("".join(f"- `{name}`: {said}\n" for name, said in one.facts.items()))
    return "\n".join(parts)


def commands_page() -> str:
    """All commands, in the order of the list in ``runstream --help``."""
    group: Any = get_command(app)  # typer's own classes, which its types do not show
    parts = [COMMANDS, f"{EXIT_CODES}\n"]
    for name, command in group.commands.items():
        parts.append(f"## runstream {name}\n\n{escaped(inspect.cleandoc(command.help))}\n")
        kinds = get_type_hints(inspect.unwrap(command.callback))
        rows = [row for parameter in command.params for row in rows_of(parameter, kinds.get(parameter.name))]
        parts.append("\n".join(["| argument or option | what it is |", "|---|---|", *rows]) + "\n")
        examples = [line for line in command.epilog.splitlines() if line.startswith("runstream ")]
        parts.append("\n".join(["```sh", *examples, "```"]) + "\n")
    return "\n".join(parts)


def rows_of(parameter: Any, kind: Any) -> Iterator[str]:
    """The row of an argument or an option of that type, if its help shows it."""
    if parameter.hidden:
        return
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = parameter.metavar or parameter.name.upper()
    elif not parameter.is_flag:
        names += f" {parameter.metavar or metavar_of(kind)}"
    default = parameter.show_default if isinstance(parameter.show_default, str) else shown(parameter)
    said = " ".join(filter(None, [parameter.help, f"(default: {default})" if default else ""]))
    yield f"| `{names}` | {escaped(said)} |"


def metavar_of(kind: Any) -> str:
    """What stands for a value of a type in a line of help."""
    inner = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) is Literal:
        return "{" + ",".join(inner) + "}"
    if inner:
        return metavar_of(inner[0])
    if issubclass(kind, Enum):
        return "{" + ",".join(member.value for member in kind) + "}"
    return {int: "INTEGER", float: "FLOAT", Path: "PATH"}.get(kind, "TEXT")


def shown(parameter: Any) -> str:
    """The default that is in the help, if one is."""
    default = parameter.default
    is_none = default is None or callable(default) or isinstance(default, bool | list | tuple)
    return "" if is_none or parameter.required or parameter.show_default is False else str(default)


def escaped(text: str) -> str:
    """Plain text as Markdown: what is within backquotes stays."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part[:1] == "`" else re.sub(r"([*_<>|\[\]])", r"\\\1", part) for part in parts)


if __name__ == "__main__":
    (DOCS / "errors.md").write_text(errors_page(), encoding="utf-8")
