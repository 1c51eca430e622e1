"""The texts of URLs: what their paths name, and what the options in their queries are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import one_of_kind

__all__ = [
    "archive_beside",
    "check_is_text",
    "check_path",
    "count_or_all",
    "flag",
    "octal",
    "path_in",
    "split_query",
    "url_in",
    "with_path",
]


def check_is_text(url: object) -> None:
    """Raise ConfigurationError for what is no text, where a URL is wanted. None is no URL yet."""
    if url is not None and not isinstance(url, str):
        raise ConfigurationError(
            f"a URL is a text, and this is {one_of_kind(url)}: name a file as sqlite:PATH, a directory as"
            " jsonl:DIR; RedisCheckpointer takes a client of redis-py, and TieredCheckpointer two stores"
        )


def url_in(text: str) -> str:
    """The URL, or of ``@FILE`` the one in that file: arguments of a process are seen by everybody on its machine.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    if not text.startswith("@"):
        return text
    path = Path(text.removeprefix("@"))
    try:
        return path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", "it is no text")
        raise ConfigurationError(f"@{path}: the file with the URL cannot be read: {why}") from error


_URL = re.compile(r"(rediss?(\+sentinel)?|unix|embedded|sqlite|jsonl|fake|memory):")


def check_path(path: object) -> None:
    """Raise ConfigurationError for what is no path, where one is wanted: a URL would make a file of its name."""
    if not isinstance(path, str | os.PathLike):
        raise ConfigurationError(
            f"a path is a text or a pathlib.Path, and this is {one_of_kind(path)}: name a file or a"
            " directory (RedisCheckpointer takes a client of redis-py)"
        )
    if isinstance(path, str) and (match := _URL.match(path)):  # it may hold a password: it is not shown
        raise ConfigurationError(
            f"that is a {match[0]} URL, and a path is wanted: open it with runstream.connect(url), or leave out"
            f" the {match[0]}"
        )


def flag(text: str) -> bool:
    """True or False. Raises ValueError for another text."""
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def count_or_all(text: str) -> int | str:
    """A whole number, or ``"all"``. Raises ValueError for another text."""
    return text if text == "all" else int(text)


def octal(text: str) -> int:
    """A number in octal digits. Raises ValueError for another text."""
    return int(text, 8)


_READS = {
    int: "pass a whole number",
    float: "pass a number",
    flag: "pass true or false",
    count_or_all: "pass a whole number, or all",
    octal: "pass octal digits, as chmod takes them (0640)",
}


def split_query(
    scheme: str, query: str, known: Mapping[str, Callable[[str], Any]], *, takes_others: bool
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The options of ours in a URL's query, and the rest, which is the client's where there is one.

    Raises:
        ConfigurationError: A value does not read, or there is no such option. No value is shown: it may be secret.
    """
    ours: dict[str, Any] = {}
    others = []
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            others.append((name, text))
            continue
        try:
            ours[name] = known[name](text)
        except ValueError:
            raise ConfigurationError(f"option {name} in the URL does not read: {_READS[known[name]]}") from None
    if others and not takes_others:
        raise ConfigurationError(f"{scheme}: has no option {others[0][0]!r}; it has {', '.join(known)}")
    return ours, others


def path_in(scheme: str, text: str) -> str:
    """The absolute path that a URL names: ``sqlite:PATH``, or as SQLAlchemy spells it.

    After three slashes comes a path that is relative, and an absolute one's own slash is the fourth.

    Args:
        scheme: The URL's scheme.
        text: What stands between the scheme's colon and the query.

    Raises:
        ConfigurationError: It names no path.
    """
    name = unquote(text)
    if name.startswith("///"):
        name = name.removeprefix("///")
    elif name.startswith("//"):
        rest = name.removeprefix("//") or "runs"
        rest = "PATH" if "@" in rest else rest  # it may hold a password
        raise ConfigurationError(
            f"{scheme}: after two slashes there would be a host, and it has none: for a relative path write"
            f" {scheme}:{rest} or {scheme}:///{rest}, for an absolute one {scheme}:/{rest} or {scheme}:////{rest}"
        )
    if not name:
        raise ConfigurationError(f"{scheme}: needs a path, for example {scheme}:./runs")
    if name == ":memory:":
        raise ConfigurationError(f"{scheme}: keeps files; for runs in memory use memory:")
    return str(Path(name).absolute())


def with_path(scheme: str, path: str, query: str) -> str:
    """The URL of an absolute path, which means the same in every working directory."""
    return f"{scheme}:///{quote(path)}" + (f"?{query}" if query else "")


def archive_beside(url: str, namespace: str | None = None) -> str | None:
    """The URL of the archive beside the data of an embedded server: that of a worker who is told of no other.

    Each namespace has its own: their runs may have the same ids.

    Args:
        url: The URL of a store.
        namespace: Its namespace; None: the one in the URL's query, if there is one there.

    Returns:
        The URL of ``DIR/archive.db``, or of ``DIR/archive-NAMESPACE.db`` for another namespace than that which
        stores have by default; None for what is no ``embedded:DIR``.

    Raises:
        ConfigurationError: The URL names no path.
    """
    scheme, _, rest = url.partition(":")
    if scheme != "embedded":
        return None
    directory, _, query = rest.partition("?")
    if namespace is None:
        namespace = dict(parse_qsl(query)).get("namespace", "runstream")
    name = "archive.db" if namespace == "runstream" else f"archive-{namespace}.db"
    return with_path("sqlite", str(Path(path_in(scheme, directory), name)), "")
