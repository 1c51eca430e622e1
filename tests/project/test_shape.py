"""The shape of the source: no circles of imports, and no file or function too long to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

SOURCE = Path(__file__).parent.parent.parent / "src/runstream"

MOST_LINES_OF_A_FILE = 400
LONG_FILES = {
    "stores/facade.py": "all that a user sees of a store, with the full docstring of every method",
    "stores/async_facade.py": "the same, awaited",
    "run/run.py": "all that a user sees of a Run, with the full docstring of every method",
    "run/async_run.py": "the same, awaited",
}

MOST_LINES_OF_A_FUNCTION = 60
LONG_FUNCTIONS = {
    "cli/drain.py:drain": "typer takes a command's options and their help as its parameters, one by one",
}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a file, and how many lines each has from its def to its end, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None and first.end_lineno is not None:
                lines -= first.end_lineno - first.lineno + 1
            yield node.name, lines


def check_sizes(sizes: Iterable[tuple[str, int]], limit: int, listed: Mapping[str, str]) -> None:
    """What is too long is listed with a reason, and nothing else is listed."""
    too_long = {name: lines for name, lines in sizes if lines > limit}
    assert {name: lines for name, lines in too_long.items() if name not in listed} == {}
    assert set(listed) - set(too_long) == set(), "these are short enough by now: take them from the list"


def test_no_module_takes_part_in_a_circle_of_imports() -> None:
    """Imports for type checkers only count too."""
    graph = grimp.build_graph("runstream", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


def test_no_file_is_too_long() -> None:
    """Files of more than 400 lines want a reason."""
    sizes = (
        (str(path.relative_to(SOURCE)), len(path.read_text(encoding="utf-8").splitlines()))
        for path in SOURCE.rglob("*.py")
    )
    check_sizes(sizes, MOST_LINES_OF_A_FILE, LONG_FILES)


def test_no_function_is_too_long() -> None:
    """Functions of more than 60 lines want a reason; a docstring does not count."""
    sizes = (
        (f"{path.relative_to(SOURCE)}:{name}", lines)
        for path in SOURCE.rglob("*.py")
        for name, lines in functions(path)
    )
    check_sizes(sizes, MOST_LINES_OF_A_FUNCTION, LONG_FUNCTIONS)
