"""What each error means, for whoever meets it: ``errors.md`` beside this, and the classes' own docstrings."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from runstream.model import errors

__all__ = ["Explanation", "explanation_of", "explanations"]


@dataclass(frozen=True)
class Explanation:
    """What is to be said of one error.

    Attributes:
        name: The class.
        summary: The first line of its docstring.
        when: When it comes; this and the next two are one line of Markdown each.
        why: Why it comes.
        what_to_do: What to do about it.
        facts: Its attributes, with what each of them is.
    """

    name: str
    summary: str
    when: str
    why: str
    what_to_do: str
    facts: dict[str, str]


@cache
def explanations() -> dict[str, Explanation]:
    """All that is said of errors, by the names of their classes, in the order of the tree."""
    text = files(__package__).joinpath("errors.md").read_text(encoding="utf-8")
    sections = (section.partition("\n") for section in text.split("## ")[1:])
    return {name: _explanation(name, body) for name, _, body in sections}


def explanation_of(error: BaseException) -> Explanation | None:
    """What is said of an error; None for one that is none of the public ones."""
    kinds = (kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith(errors.__name__))
    found = next(kinds, "")
    return explanations().get(found) if found != errors.RunstreamError.__name__ else None


def _explanation(name: str, body: str) -> Explanation:
    docstring = inspect.cleandoc(getattr(errors, name).__doc__ or "")
    _, _, attributes = docstring.partition("Attributes:\n")
    attributes = attributes.partition("\n\n")[0]
    when, why, what_to_do = (" ".join(paragraph.split()) for paragraph in body.strip().split("\n\n"))
    facts = re.findall(r"^    (\w+): ((?:.|\n        )+)", attributes, re.MULTILINE)
    return Explanation(
        name,
        docstring.partition("\n")[0].replace("``", "`"),
        when.removeprefix("**When:** "),
        why.removeprefix("**Why:** "),
        what_to_do.removeprefix("**What to do:** "),
        {fact: " ".join(said.replace("``", "`").split()) for fact, said in facts},
    )
