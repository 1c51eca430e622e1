"""The queries of requests: which parameters there are, and their values."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request

from runstream.model.results import Cursor
from runstream.web.problems import Refused

__all__ = ["Parameter", "Query", "position_in"]

_MOST_NUMBER = 2**53


class Parameter(NamedTuple):
    """A parameter of a query, as the OpenAPI document tells of it.

    Attributes:
        name: Its name.
        about: What it says.
        kind: The type of its value.
        is_many: Whether it may be repeated.
    """

    name: str
    about: str
    kind: Literal["string", "integer", "number"] = "string"
    is_many: bool = False


class Query:
    """The query of a request, each of whose parameters is known.

    Args:
        request: The request.
        known: The parameters that there are.

    Raises:
        Refused: There is another one, or one twice.
    """

    def __init__(self, request: Request, known: Collection[Parameter]) -> None:
        self._given = request.query_params.multi_items()
        many = {one.name: one.is_many for one in known}
        names = [name for name, _ in self._given]
        for name in names:
            if name not in many:
                raise Refused(400, f"there is no parameter {name!r:.80}; there are {', '.join(many)}")
            if names.count(name) > 1 and not many[name]:
                raise Refused(400, f"{name}= is given twice")

    def text(self, name: str) -> str | None:
        """A text; None where it is not given."""
        return next((value for key, value in self._given if key == name), None)

    def texts(self, name: str) -> list[str]:
        """All values of a parameter that may be repeated."""
        return [value for key, value in self._given if key == name]

    def has(self, parameters: Collection[Parameter]) -> bool:
        """Whether one of some parameters is given."""
        asked = {one.name for one in parameters}
        return any(name in asked for name, _ in self._given)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of some texts; the first where it is not given."""
        text = self.text(name)
        if text is None:
            return choices[0]
        if text not in choices:
            raise Refused(400, f"{name}={text!r:.80}: pass {' or '.join(choices)}")
        return text

    def is_on(self, parameter: Parameter) -> bool:
        """Whether a parameter is "true"; it is off where it is not given."""
        return self.choice(parameter.name, ("false", "true")) == "true"

    def number(self, name: str, *, least: int = 0, most: int = _MOST_NUMBER) -> int | None:
        """A whole number; None where it is not given."""
        text = self.text(name)
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,16}", text) or not least <= int(text) <= most:
            raise Refused(400, f"{name}={text!r:.80}: pass a whole number, {least} to {most}")
        return int(text)

    def seconds(self, name: str) -> float | None:
        """Unix time in seconds; None where it is not given."""
        text = self.text(name)
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
            raise Refused(400, f"{name}={text!r:.80}: pass Unix time in seconds")
        return float(text)

    def position(self, name: str) -> int | str | None:
        """An offset or a cursor; None where it is not given."""
        text = self.text(name)
        return None if text is None else position_in(text, f"{name}=")

    def tags(self) -> dict[str, str] | None:
        """The tags that are asked for, each ``NAME=VALUE``; None for none."""
        tags: dict[str, str] = {}
        for one in self.texts("tag"):
            name, equals, value = one.partition("=")
            if not name or not equals or tags.setdefault(name, value) != value:
                raise Refused(400, f"tag={one!r:.80}: pass NAME=VALUE, each name once")
        return tags or None

    def with_other(self, **values: object) -> str:
        """The same query with other values of some parameters; None leaves one out."""
        kept = [(name, value) for name, value in self._given if name not in values]
        return "?" + urlencode(
            [*kept, *((name, str(value)) for name, value in values.items() if value is not None)]
        )


def position_in(text: str, what: str) -> int | str:
    """The offset or the cursor that a text is."""
    if re.fullmatch(r"[0-9]{1,16}", text):
        return int(text)
    if not re.fullmatch(r"[0-9]{1,16}-[0-9]{1,13}", text):
        raise Refused(400, f"{what} {text!r:.80} is neither an offset nor a cursor of an event")
    return str(Cursor.parse(text))
