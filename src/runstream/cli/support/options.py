"""Options that several commands have, and the stores that they open by them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from runstream.cli.support.upcasts import load_upcasts
from runstream.connect import ARCHIVE_SCHEMES, connect
from runstream.model.errors import ConfigurationError, RunstreamError
from runstream.stores.capabilities import Archive, part_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace
from runstream.stores.tiered.checkpointer import with_archive_to_come
from runstream.stores.tiered.late_archive import ArchiveToCome
from runstream.stores.urls import archive_beside, path_in, url_in

__all__ = [
    "AsJson",
    "EndWithParent",
    "HotUrl",
    "InLocalTime",
    "OfArchive",
    "OfUpcasts",
    "RequiredArchives",
    "Url",
    "Wide",
    "check_archive_url",
    "check_is_there",
    "ending_with_parent",
    "hot_namespace",
    "open_archive",
    "open_existing",
    "open_to_read",
    "path_of",
    "read_tags",
    "read_url",
    "required_urls",
]


def read_url(text: str | None) -> str | None:
    """The URL that an option gives, or that is in the file which it names as ``@FILE``."""
    return None if text is None else url_in(text)


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="RUNSTREAM_URL",
        callback=read_url,
        help="The store: redis://, rediss://, unix://, redis+sentinel://, redis+cluster://, embedded:DIR,"
        " sqlite:PATH or jsonl:DIR; options may stand in its query (?namespace=dev). @FILE: the URL in that file.",
        show_default=False,
    ),
]

OfArchive = Annotated[
    str | None,
    typer.Option(
        "--archive",
        help="The archive that a drain worker writes from that server, sqlite:PATH or jsonl:DIR: what has left"
        " Redis is read there.",
        show_default="of embedded:DIR, archive.db in DIR, if it is there; of a namespace, archive-NAMESPACE.db",
    ),
]

OfUpcasts = Annotated[
    str | None,
    typer.Option(
        "--upcasts",
        metavar="MODULE:NAME",
        help="The program's own rules to read what older versions of it wrote: runstream.Upcasts, in a module that"
        " can be imported, from the current directory too.",
        show_default=False,
    ),
]

HotUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="RUNSTREAM_URL",
        callback=read_url,
        help="The Redis store: redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// or embedded:DIR;"
        " options may stand in its query (?namespace=dev). @FILE: the URL in that file.",
        show_default=False,
    ),
]

RequiredArchives = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="ARCHIVE",
        help="An archive, sqlite:PATH or jsonl:DIR; give it again for each further one.",
        show_default="those that the namespace requires",
    ),
]

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the same facts as one JSON document, and nothing else on stdout.")
]

Wide = Annotated[bool, typer.Option("--wide", help="Cut nothing off, however narrow the terminal is.")]

InLocalTime = Annotated[bool, typer.Option("--local", help="Show times in the zone of this machine, not in UTC.")]

EndWithParent = Annotated[
    bool,
    typer.Option("--end-with-parent", hidden=True, help="End as with SIGTERM when stdin, a pipe, is closed."),
]

_PATH_SCHEMES = ("embedded", *ARCHIVE_SCHEMES)


def open_existing(url: str | None, archive: str | None = None, upcasts: str | None = None) -> RunStore[Any, Any]:
    """Open a store that must be there: a mistyped path is not created.

    Args:
        url: The store; None: RUNSTREAM_URL.
        archive: The archive beside it, for the tiered store over both.
        upcasts: The rules to read older events and states by, as ``MODULE:NAME``.

    Raises:
        ConfigurationError: There is nothing at that path, or there are no such rules.
        RunstreamError: What ``connect`` raises.
    """
    url = os.environ.get("RUNSTREAM_URL", "") if url is None else url
    check_is_there(url)
    if archive is not None:
        check_is_there(archive)
    rules = None if upcasts is None else load_upcasts(upcasts)
    # states as they are stored, whatever their class takes
    return connect(url, archive=archive, state_type=dict, upcasts=rules)


def open_to_read(
    url: str | None, archive: str | None = None, upcasts: str | None = None, *, follows: bool = False
) -> RunStore[Any, Any]:
    """Open a store that must be there with its archive: that of an embedded server may lie beside it.

    Args:
        url: As ``open_existing`` takes it.
        archive: Likewise; None: for ``embedded:DIR``, the archive that a worker writes who is told of no other, if
            one has made it.
        upcasts: As ``open_existing`` takes it.
        follows: Whether such an archive is read, too, that is made while the store is open.

    Raises:
        ConfigurationError: There is nothing at that path, or there are no such rules.
        RunstreamError: What ``connect`` raises.
    """
    url = os.environ.get("RUNSTREAM_URL", "") if url is None else url
    beside = archive_beside(url) if archive is None else None
    if beside is None:
        return open_existing(url, archive, upcasts)
    path = path_of(beside)
    if path is not None and path.exists():
        return open_existing(url, beside, upcasts)
    hot: Any = open_existing(url, None, upcasts)
    if follows:
        open_it: Any = partial(open_existing, beside, None, upcasts)
        hot = with_archive_to_come(hot, ArchiveToCome(beside, open_it))
    store: RunStore[Any, Any] = hot
    return store


def path_of(url: str) -> Path | None:
    """The absolute path that a URL names; None for one of a scheme that names none."""
    scheme, _, rest = url.partition(":")
    return Path(path_in(scheme, rest.partition("?")[0])) if scheme in _PATH_SCHEMES else None


def check_is_there(url: str | None) -> None:
    """Raise ConfigurationError for a URL of a path at which there is nothing; None: RUNSTREAM_URL."""
    url = os.environ.get("RUNSTREAM_URL", "") if url is None else url
    path = path_of(url)
    if path is not None and not path.exists():
        raise ConfigurationError(f"{url.partition(':')[0]}:{path}: there is nothing at that path; check the URL")


def check_archive_url(target: str, option: str) -> None:
    """Raise BadParameter for a URL of another scheme than an archive has."""
    if target.partition(":")[0] not in ARCHIVE_SCHEMES:  # it may hold a password: it is not shown
        raise typer.BadParameter("that is not an archive; sqlite:PATH and jsonl:DIR are", param_hint=option)


def open_archive(opened: ExitStack, target: str, option: str, *, new_for: Namespace | None = None) -> Archive:
    """Open the archive that a URL names, until ``opened`` is closed.

    Args:
        opened: What closes it.
        target: Its URL.
        option: The command's option for it.
        new_for: The namespace that it may be new for; None: it must be there. A new one is removed again if
            the command fails while it is empty, and not required by the namespace.

    Raises:
        BadParameter: The URL is of another scheme.
        ConfigurationError: There is nothing at that path, or something else.
    """
    check_archive_url(target, option)
    store = opened.enter_context(open_existing(target) if new_for is None else _maybe_new(target, new_for))
    archive = part_of(store, Archive)
    if archive is None:  # so long as the schemes say the truth, it is one
        raise ConfigurationError(f"{target}: is not an archive")
    return archive


def required_urls(namespace: Namespace) -> list[str]:
    """The URLs of the archives that a namespace requires, where its workers have them.

    Raises:
        ConfigurationError: It requires none.
    """
    locations = {location for found in namespace.required_archives() for location in found.values()}
    if not locations:
        raise ConfigurationError("this namespace requires no archive yet: name those to compare with, with --to")
    return [f"{scheme}:{quote(path)}" for scheme, _, path in (at.partition(":") for at in sorted(locations))]


@contextmanager
def _maybe_new(target: str, namespace: Namespace) -> Iterator[RunStore[Any, Any]]:
    path = path_of(target)
    is_new = path is not None and not path.exists()
    with ExitStack() as after, connect(target) as store:
        try:
            yield store
        except BaseException:  # an interrupt too
            if path is not None and is_new and _is_unused(store, namespace):
                after.callback(_remove_archive, path)
            raise


def _is_unused(store: RunStore[Any, Any], namespace: Namespace) -> bool:
    """Whether an archive is known to hold no run, and to be required by no partition."""
    archive = part_of(store, Archive)
    try:
        return (
            archive is not None
            and not any(True for _ in archive.run_ids())
            and not any(archive.archive_id in required for required in namespace.required_archives())
        )
    except RunstreamError:
        return False


def _remove_archive(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def hot_namespace(store: RunStore[Any, Any]) -> Namespace:
    """The namespace of a Redis store.

    Raises:
        ConfigurationError: It is another store.
    """
    namespace = part_of(store, Namespace)
    if namespace is None:
        raise ConfigurationError(
            "this command works on Redis: --url (or RUNSTREAM_URL) is a redis:, rediss:, unix: or embedded: URL"
        )
    return namespace


@contextmanager
def ending_with_parent(is_asked: bool) -> Iterator[None]:
    """Send this process SIGTERM when its stdin is closed, if that is asked for.

    For a child whose stdin is a pipe that its parent holds and writes nothing to: the kernel closes it when the
    parent ends, even by SIGKILL. SIGTERM raises SystemExit here, unless there is a handler for it already.
    """
    if not is_asked:
        yield
        return

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin: its lock would be held at exit
        os.kill(os.getpid(), signal.SIGTERM)

    former = signal.getsignal(signal.SIGTERM)
    if former is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def read_tags(given: Sequence[str]) -> dict[str, str]:
    """Tags that are given as NAME=VALUE. Raises BadParameter for what names none, and for two values of one."""
    tags: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{one!r:.80}: a tag is NAME=VALUE", param_hint="--tag")
        if tags.setdefault(name, value) != value:
            raise typer.BadParameter(f"tag {name!r:.80} has one value: no run has both", param_hint="--tag")
    return tags
