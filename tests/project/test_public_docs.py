"""Everything that a user can call says what it takes: a Google docstring with every parameter under ``Args:``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import pytest

import runstream
from runstream.stores.async_facade import AsyncSnapshotStore, AsyncStore
from runstream.stores.facade import SnapshotStore, Store

ONE_LINE_EACH = {runstream.RunStore, runstream.AsyncRunStore}
"""The Protocols of all methods, which are documented where they are implemented."""


def public_classes() -> Iterator[type]:
    """Every class of ours that a public name stands for or derives from."""
    named = [value for name in runstream.__all__ if inspect.isclass(value := getattr(runstream, name))]
    seen = {base for kind in named for base in kind.__mro__ if base.__module__.startswith("runstream")}
    yield from sorted(seen - ONE_LINE_EACH, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


def own_callables(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods that a class defines itself."""
    for name, value in vars(kind).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_") and inspect.isfunction(function):
            yield f"{kind.__qualname__}.{name}", function


def documented(kind: type) -> str:
    """Its docstring, and an error's those of what it derives from: all of them take a message."""
    kinds = kind.__mro__ if issubclass(kind, runstream.RunstreamError) else (kind,)
    return "\n\n".join(
        inspect.cleandoc(each.__doc__ or "") for each in kinds if each.__module__ == kind.__module__
    )


def public_callables() -> dict[str, tuple[Callable[..., Any], str]]:
    """Each public function, method and constructor, with the docstring that documents its parameters."""
    found: dict[str, tuple[Callable[..., Any], str]] = {}
    for name in runstream.__all__:
        if inspect.isfunction(value := getattr(runstream, name)):
            found[name] = value, value.__doc__ or ""
    for kind in public_classes():
        for name, method in own_callables(kind):
            found[name] = method, method.__doc__ or ""
        init = vars(kind).get("__init__")
        if init is not None and not issubclass(kind, Enum) and not getattr(kind, "_is_protocol", False):
            found[kind.__qualname__] = init, documented(kind)
    return found


CALLABLES = public_callables()


def section(docstring: str, *titles: str) -> str:
    """What stands under a heading of a docstring, or under any of several."""
    heading = "|".join(titles)
    found = re.findall(rf"^(?:{heading}):\n((?:[ ]+.*\n|\n)+)", f"{inspect.cleandoc(docstring)}\n", re.MULTILINE)
    return "\n".join(found)


def parameters_of(function: Callable[..., Any]) -> list[str]:
    """Its parameters as a docstring names them, without ``self`` and ``cls``."""
    stars = {inspect.Parameter.VAR_POSITIONAL.value: "*", inspect.Parameter.VAR_KEYWORD.value: "**"}
    parameters = inspect.signature(function).parameters.values()
    return [
        f"{stars.get(each.kind.value, '')}{each.name}" for each in parameters if each.name not in {"self", "cls"}
    ]


@pytest.mark.parametrize("name", CALLABLES)
def test_every_parameter_is_under_args(name: str) -> None:
    """A class documents those of its constructor; a dataclass or a tuple may do so under ``Attributes:``."""
    function, docstring = CALLABLES[name]
    named = re.findall(r"^    (\*{0,2}\w+): \S", section(docstring, "Args", "Attributes"), re.MULTILINE)
    assert [parameter for parameter in parameters_of(function) if parameter not in named] == []


@pytest.mark.parametrize("name", CALLABLES)
def test_no_argument_is_documented_that_is_not_there(name: str) -> None:
    """As it would be where a parameter was renamed."""
    function, docstring = CALLABLES[name]
    named = re.findall(r"^    (\*{0,2}\w+): \S", section(docstring, "Args"), re.MULTILINE)
    assert [each for each in named if each not in parameters_of(function)] == []


@pytest.mark.parametrize("name", CALLABLES)
def test_every_docstring_begins_with_a_sentence(name: str) -> None:
    """One line that ends with a full stop, and errors under ``Raises:``."""
    _, docstring = CALLABLES[name]
    assert re.match(r"\S.*[.](?:\n|$)", docstring), docstring
    assert not re.search(r"[.] Raises |^\s*Raises [A-Z]", docstring, re.MULTILINE)


def test_the_async_classes_say_themselves_what_they_do() -> None:
    """None says only that it is the sync one, awaited: an editor shows the docstring of what is typed."""
    pairs: list[tuple[type, type]] = [
        (runstream.Run, runstream.AsyncRun),
        (runstream.Lease, runstream.AsyncLease),
        (Store, AsyncStore),
        (SnapshotStore, AsyncSnapshotStore),
    ]
    for sync, awaited in pairs:
        theirs = dict(own_callables(sync))
        for name, method in own_callables(awaited):
            docstring = inspect.getdoc(method) or ""
            assert ", awaited" not in docstring, name
            twin = theirs.get(name.replace(awaited.__qualname__, sync.__qualname__))
            if twin is not None:
                assert parameters_of(method) == parameters_of(twin)
                assert len(docstring) >= 0.8 * len(inspect.getdoc(twin) or ""), name
